from contextlib import suppress

import pytest

from workers.server.drain import QUIET_S, Drain

LIMIT_S = 30.0


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture(name="clock")
def _clock():
    return Clock()


def draining(clock, limit_s=LIMIT_S):
    drain = Drain(limit_s, clock)
    clock.now_s += 100
    return drain


def test_an_idle_leader_stays_for_a_moment_only(clock):
    """
    Long enough for what the front doors sent before they knew.
    """
    drain = draining(clock)

    drain.begin()

    assert drain.remaining_s() == QUIET_S
    clock.now_s += QUIET_S
    assert drain.remaining_s() == 0


def test_running_requests_are_waited_for(clock):
    """
    And then a quiet moment after the last of them.
    """
    drain = draining(clock)
    with drain.request():
        drain.begin()
        clock.now_s += 10
        with drain.request():
            clock.now_s += 5
        assert drain.remaining_s() == QUIET_S
    clock.now_s += QUIET_S / 2
    assert drain.remaining_s() == QUIET_S / 2
    clock.now_s += QUIET_S / 2
    assert drain.remaining_s() == 0


def test_a_request_that_arrives_late_is_waited_for_too(clock):
    """
    It begins a new quiet moment when it ends.
    """
    drain = draining(clock)
    drain.begin()
    clock.now_s += QUIET_S / 2
    with drain.request():
        clock.now_s += 5
        assert drain.remaining_s() > 0
    assert drain.remaining_s() == QUIET_S


def test_the_limit_cuts_what_still_runs(clock):
    """
    However busy it is, and whatever still arrives.
    """
    drain = draining(clock)
    with drain.request():
        drain.begin()
        clock.now_s += LIMIT_S - QUIET_S / 2
        assert drain.remaining_s() == QUIET_S / 2
        clock.now_s += QUIET_S / 2
        assert drain.remaining_s() == 0


def test_a_limit_of_zero_does_not_wait(clock):
    """
    Not even for the quiet moment.
    """
    drain = draining(clock, limit_s=0)

    with drain.request():
        drain.begin()
        assert drain.remaining_s() == 0


def test_a_request_that_breaks_is_not_open_any_more(clock):
    """
    Whatever ends it.
    """
    drain = draining(clock)
    drain.begin()

    with suppress(OSError), drain.request():
        raise OSError("gone")

    clock.now_s += QUIET_S
    assert drain.remaining_s() == 0
