"""Figures of a group, for tests that need some."""

from balancer.in_flight import InFlight
from router.control_plane.figures import GroupFigures
from shm.group_table import GroupEntry, GroupState
from shm.load import Accepted, LoadReport


def load_report(dp_rank=0, **fields):
    """A report of an idle group, with the fields given."""
    values = dict.fromkeys(LoadReport._fields, 0) | {
        "dp_rank": dp_rank,
        "group_epoch": 1,
        "accepted": (Accepted(1, 0, 0, 0, 0),),
    }
    return LoadReport(**values | fields)


def group_figures(dp_rank=0, state=GroupState.READY, in_flight=(0, 0), **fields):
    """Figures of a group with a report that has the fields given."""
    return GroupFigures(
        entry=GroupEntry(dp_rank, state, epoch=1),
        report=load_report(dp_rank, **fields),
        in_flight=InFlight(*in_flight),
        age_s=0.0,
        dispatched_tokens=0,
        returned_tokens=0,
    )
