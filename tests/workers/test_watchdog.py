import pytest

from tests.workers.fakes import make_report
from workers.engine.watchdog import Watchdog

LIMIT_S = 10.0


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def report(num_steps=0, running=0, waiting=0):
    requests = {"running_requests": running, "waiting_requests": waiting}
    return make_report(0)._replace(num_steps=num_steps, **requests)


@pytest.fixture(name="clock")
def _clock():
    return Clock()


@pytest.fixture(name="watchdog")
def _watchdog(clock):
    return Watchdog(LIMIT_S, clock)


@pytest.mark.parametrize("held", [{"running": 1}, {"waiting": 1}])
def test_a_step_that_does_not_end_is_noticed(clock, watchdog, held):
    """
    It is reported when it begins, and then nothing is.
    """
    clock.now_s += LIMIT_S
    watchdog.note(report())
    watchdog.note(report(0, **held))

    clock.now_s += LIMIT_S
    assert watchdog.is_well()
    clock.now_s += 1
    assert not watchdog.is_well()


def test_a_loop_that_goes_round_without_a_step_is_noticed(clock, watchdog):
    """
    It holds requests, reports, and computes nothing.
    """
    for _ in range(12):
        watchdog.note(report(5, running=1))
        clock.now_s += 1
    assert not watchdog.is_well()

    watchdog.note(report(6, running=1))
    assert watchdog.is_well(), "one step is enough"


def test_an_idle_loop_is_well(clock, watchdog):
    """
    For as long as it says so at its heartbeats.
    """
    for _ in range(12):
        clock.now_s += LIMIT_S
        watchdog.note(report(5))
        assert watchdog.is_well()


def test_a_loop_that_never_began_is_noticed(clock, watchdog):
    """
    Its first forward pass hangs.
    """
    clock.now_s += LIMIT_S + 1

    assert not watchdog.is_well()
