"""Since when groups serve, as the group table tells it."""

import pytest

from router.control_plane.member import Member
from router.control_plane.table import Table
from shm.group_table import GroupEntry, GroupState

STARTING, READY, SUSPECT, DRAINING, RELEASED, DEAD = GroupState


class Recorder:
    """Stands for the segment."""

    def __init__(self):
        self.published = []

    def publish(self, groups, published_ns):
        self.published.append(tuple(groups))


class Site:
    """A table of one group, and the time."""

    def __init__(self, found=()):
        self.now_ns = 100
        self.recorder = Recorder()
        self.table = Table(self.recorder, lambda: self.now_ns, found)

    def since(self, *states, epoch=1):
        """Publish these one after the other, 10 ns apart; since when the group serves then."""
        for state in states:
            self.now_ns += 10
            self.table.publish([Member(GroupEntry(0, state, epoch))])
        return self.recorder.published[-1][0].ready_since_ns


@pytest.mark.parametrize(
    ("states", "since_ns"),
    [
        ((STARTING,), 0),
        ((READY,), 110),
        ((STARTING, READY, READY), 120),
        ((READY, SUSPECT, READY), 110),
        ((READY, DRAINING, READY), 110),
        ((READY, SUSPECT, DEAD), 0),
        ((READY, DEAD, READY), 130),
        ((READY, DEAD, DRAINING, SUSPECT, READY), 150),
        ((STARTING, DRAINING, SUSPECT, READY), 140),
    ],
)
def test_a_group_serves_since_it_was_last_starting_or_dead(states, since_ns):
    """
    What is suspect or drains has lost nothing.
    """
    assert Site().since(*states) == since_ns


def test_a_new_life_begins_anew():
    """
    Though it was never seen to start.
    """
    site = Site()
    assert site.since(READY) == 110

    assert site.since(READY, epoch=2) == 120


def test_what_an_earlier_life_of_the_control_plane_told_stands():
    """
    Groups went on serving while it was away.
    """
    site = Site((GroupEntry(0, READY, 1, ready_since_ns=55),))

    assert site.since(SUSPECT, READY) == 55


def test_nothing_is_published_for_the_time_alone():
    """
    The ramp is the front doors' to reckon.
    """
    site = Site()
    site.since(READY, READY, READY)

    assert len(site.recorder.published) == 1
