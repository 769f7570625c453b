"""When the lobby looks who may go, with a loop whose time is the test's."""

import random

import pytest

from balancer.controller import Controller
from balancer.ledger import Ledger
from balancer.load import RequestShape
from balancer.methods import make_policy
from balancer.waiting_room import Waiter
from router.errors import NoGroup
from router.front_door.lobby import Lobby
from router.front_door.meters import Meters
from router.instance import Instance
from shm.group_table import GroupEntry, GroupState


class Loop:
    """One that runs what is due when it is told to."""

    def __init__(self):
        self.due = []

    def call_later(self, delay_s, callback):
        self.due.append(callback)
        return Handle(self.due, callback)

    def run(self):
        due, self.due[:] = list(self.due), []
        for callback in due:
            callback()


class Handle:
    def __init__(self, due, callback):
        self._due, self._callback = due, callback

    def cancel(self):
        if self._callback in self._due:
            self._due.remove(self._callback)


class FullDispatcher:
    """No group takes anything, and it counts how often it was asked."""

    def __init__(self, num_groups):
        ledger = Ledger(
            slot=0, epoch=1, num_front_doors=1, num_groups=num_groups, note=lambda *_: None
        )
        policy = make_policy("minimum_tokens", random.Random(0))
        self.controller = Controller(policy, ledger, num_groups, random.Random(0), 10**9)
        self.controller.observe_group(GroupEntry(0, GroupState.READY, 1))
        self.num_changes = self.num_asked = self.ns = 0

    def refresh(self):
        """Whatever there is, the test says."""

    def now_ns(self):
        return self.ns

    def assign(self, shape, excluded):
        self.num_asked += 1
        raise NoGroup("full")


class Guest:
    """May go anywhere, at any time."""

    unfit, not_before_ns = (), 0


class Visit:
    """A lobby, and who waits in it."""

    def __init__(self, num_groups=1, **rules):
        self.loop, self.dispatcher = Loop(), FullDispatcher(num_groups)
        instance = Instance("one", 1, "/unused", "127.0.0.1", 1, num_groups, **rules)
        self.lobby = Lobby(instance, self.dispatcher, Meters(num_groups), self.loop)

    def enter(self):
        waiter = Waiter(Guest(), RequestShape(10), self.dispatcher.ns)
        self.lobby.enter(waiter)
        return waiter

    def looked(self, times=1):
        """Whether anybody was asked for while the timer ran so often."""
        before = self.dispatcher.num_asked
        for _ in range(times):
            self.loop.run()
        return self.dispatcher.num_asked > before


@pytest.fixture(name="visit")
def _visit():
    return Visit(admission="late")


def test_nobody_is_looked_at_while_nothing_changes(visit):
    """
    The timer goes on, and costs a look at sequences.
    """
    visit.enter()
    assert visit.dispatcher.num_asked == 1

    assert not visit.looked(times=20)
    assert len(visit.loop.due) == 1


def test_they_are_looked_at_when_figures_have_changed_or_something_ended(visit):
    """
    Once each time.
    """
    visit.enter()
    visit.dispatcher.num_changes += 1
    assert visit.looked()
    assert not visit.looked()

    visit.lobby.wake()
    assert visit.looked()
    assert not visit.looked()


def test_they_are_looked_at_when_somebody_has_come_or_gone(visit):
    """
    A small one may fit, and a large one may have kept others back.
    """
    visit.enter()
    second = visit.enter()
    assert visit.looked()
    assert not visit.looked()

    visit.lobby.leave(second)
    assert visit.looked()


def test_nothing_runs_when_nobody_waits(visit):
    """
    The timer that was set ends with one turn.
    """
    visit.lobby.leave(visit.enter())
    visit.loop.run()

    assert visit.loop.due == []


def test_a_hold_that_is_over_is_noticed_though_nothing_else_happens():
    """
    Of two groups one has a prompt to wait for; 200 ms are over.
    """
    visit = Visit(num_groups=2, admission="late", prefill_align="hold", max_hold_ms=200)
    visit.dispatcher.controller.assign(RequestShape(1))  # so the groups are not idle
    visit.enter()
    assert not visit.looked(times=3)

    visit.dispatcher.ns += 200 * 10**6
    assert visit.looked()
