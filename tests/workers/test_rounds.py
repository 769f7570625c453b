import itertools

import pytest

from workers.ranks.rounds import Rounds, join_round


class Store:
    """A store in which other things happen just before some of somebody's calls."""

    def __init__(self):
        self.values = {}
        self._actions = []

    def interrupt(self, *actions):
        """Do each before one of the next calls; those of the actions themselves do not count."""
        self._actions = list(actions)

    def _call(self):
        if self._actions:
            action, *later = self._actions
            self._actions = []
            action()
            self._actions = later

    def get(self, key):
        self._call()
        return str(self.values[key]).encode()

    def set(self, key, value):
        self._call()
        self.values[key] = value

    def add(self, key, amount):
        self._call()
        self.values[key] = self.values.get(key, 0) + amount
        return self.values[key]

    def wait(self, key):
        self._call()
        assert key in self.values, "nobody has joined, and nobody will"


class Scene:
    """A publisher, and leaders that join; what each side believes."""

    def __init__(self, num_rounds_before):
        self.store = Store()
        self.rounds = Rounds(self.store, self.store.wait)
        self.joined, self.let_in = [], []
        for _ in range(num_rounds_before):
            self.join()
            self.close_round()

    def join(self):
        self.joined.append(join_round(self.store))

    def close_round(self):
        self.let_in += self.rounds.next()

    def join_and_close(self):
        self.join()
        self.close_round()

    def finish(self):
        """Let in whoever is left."""
        while len(self.let_in) < len(self.joined):
            self.close_round()


def nothing():
    pass


@pytest.mark.parametrize("num_rounds_before", [0, 2])
@pytest.mark.parametrize("meanwhile", list(itertools.product([0, 1, 3], repeat=3)))
def test_a_leader_is_let_in_once_whatever_happens_while_it_joins(num_rounds_before, meanwhile):
    """
    Others join, and the publisher closes as many rounds, before each of its calls.
    """
    scene = Scene(num_rounds_before)

    def others(num_rounds):
        return lambda: [scene.join_and_close() for _ in range(num_rounds)]

    scene.store.interrupt(*map(others, meanwhile))
    scene.join()
    scene.store.interrupt()
    scene.finish()

    assert sorted(scene.joined) == sorted(scene.let_in)
    assert len(set(scene.joined)) == len(scene.joined)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("num_leaders", [1, 2])
def test_leaders_that_come_while_a_round_is_closed_are_let_in_once(place, num_leaders):
    """
    They are in that round or in the next, between any two calls of the publisher.
    """
    scene = Scene(num_rounds_before=1)
    scene.join()

    arrive = [nothing] * place + [lambda: [scene.join() for _ in range(num_leaders)]]
    scene.store.interrupt(*arrive)
    scene.close_round()
    scene.finish()

    assert sorted(scene.joined) == sorted(scene.let_in)
    assert len(scene.joined) == 2 + num_leaders


def test_a_leader_that_dies_before_it_has_joined_is_not_waited_for():
    """
    It has only looked; the next leader has the place that it would have had.
    """
    scene = Scene(num_rounds_before=1)
    scene.store.get("round")

    scene.join_and_close()

    assert scene.let_in == scene.joined == ["0.1", "1.1"]
