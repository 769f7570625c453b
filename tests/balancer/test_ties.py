import random
from collections import Counter

import pytest

from balancer.policies.ties import FairTies, Turns
from tests.balancer.loads import by_tokens


def least(ties, *costs):
    return ties.least(by_tokens(*costs), costs)[0]


def test_the_least_wins_without_a_turn():
    """
    A clear least is taken every time.
    """
    ties = FairTies(random.Random(0))

    assert [least(ties, 2, 1, 3) for _ in range(4)] == [1, 1, 1, 1]


def test_equals_take_turns():
    """
    Each of them once before any of them twice.
    """
    ties = FairTies(random.Random(0))

    assert {least(ties, 7, 0, 0, 7, 0) for _ in range(3)} == {1, 2, 4}


@pytest.mark.parametrize("num_open", [1, 2, 3, 5])
def test_turns_do_not_fall_into_step_with_the_number_of_ties(num_open):
    """
    Requests that come in twos, threes ... and end before the next ones come:
    ties of 8, 7, 6 ... take turns, and still every group has its share.
    """
    ties, taken, num_rounds = FairTies(random.Random(0)), Counter(), 4_000
    for _ in range(num_rounds):
        costs = [0] * 8
        for _ in range(num_open):
            rank = least(ties, *costs)
            costs[rank] = 1
            taken[rank] += 1

    for rank in range(8):
        assert taken[rank] / (num_rounds * num_open) == pytest.approx(1 / 8, abs=0.01)


def test_a_turn_begins_anywhere_and_goes_up():
    """
    After the highest comes the lowest.
    """
    turns, ranks = Turns(random.Random(3)), [1, 4, 6]

    first = turns.next(ranks)
    others = [turns.next(ranks) for _ in range(5)]

    start = ranks.index(first)
    assert others == [ranks[(start + turn) % 3] for turn in range(1, 6)]


def test_a_turn_passes_over_who_is_not_there():
    """
    The next above the last one taken, even if that one is gone.
    """
    turns = Turns(random.Random(0))
    assert turns.next([4]) == 4

    assert [turns.next([1, 6]), turns.next([1, 6]), turns.next([0, 1, 2])] == [6, 1, 2]
