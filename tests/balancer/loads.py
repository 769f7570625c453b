"""Loads and reports of groups, with zeros for what a test does not care about."""

from balancer.load import GroupLoad, RequestShape
from shm.group_table import GroupEntry, GroupState
from shm.load import Accepted, LoadReport

# The controller under test, and the life in which every group is.
NUM_GROUPS, SLOT, EPOCH, GROUP_EPOCH = 3, 0, 500, 70
MAX_LOAD_AGE_NS = 1_000

ANY_REQUEST = RequestShape(prompt_tokens=10)


def by_tokens(*tokens):
    """Groups 0, 1, ... that hold so many tokens."""
    return [GroupLoad(rank, held, 0, 0, 0) for rank, held in enumerate(tokens)]


def by_requests(*requests):
    """Groups 0, 1, ... with so many requests."""
    return [GroupLoad(rank, 0, 0, held, 0) for rank, held in enumerate(requests)]


_NOTHING = LoadReport(*[0] * (len(LoadReport._fields) - 1), ())


def report(dp_rank, **figures):
    """What a group says that accepts a hundred requests, unless told otherwise."""
    return _NOTHING._replace(dp_rank=dp_rank, **{"max_requests": 100, **figures})


def group(dp_rank, state=GroupState.READY, epoch=GROUP_EPOCH):
    return GroupEntry(dp_rank, state, epoch)


def holding(dp_rank, tokens, requests=0, accepted=(0, 0), **figures):
    """A report of a group that has accepted so much from the front door."""
    return report(
        dp_rank,
        group_epoch=GROUP_EPOCH,
        holding_tokens=tokens,
        running_requests=requests,
        accepted=(Accepted(EPOCH, *accepted, 0, 0), Accepted(0, 0, 0, 0, 0)),
        **figures,
    )


def observe(controller, *reports, now_ns=0):
    """Take over reports and judge their age: a front door does both before it decides."""
    controller.observe_reports(reports)
    return controller.observe_time(now_ns)


def tokens(controller):
    return [load.tokens for load in controller.loads()]
