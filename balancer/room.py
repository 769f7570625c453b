"""
Which groups have room for one more request, for who may wait until one has.

    room: requests < max_requests   and   tokens + prompt + reserve <= KV capacity

tokens are holding + in flight, as a policy sees them; both limits are those of the group's last
report, and a group that has said nothing yet has room.  The reserve, a
sixteenth of the capacity, is for what running requests will grow by: a group that
is filled to its brim retracts some, and computes them again.  Tokens that requests share count for
each of them, so where much is shared a group has more room than this says.

A prompt that fits with its reserve into no empty group needs an empty one; one
over the capacity needs none, because the group refuses it.  A suspect group has no
room while another is ready.
"""

from __future__ import annotations

from balancer.candidates import CANDIDATES
from balancer.controller import Controller
from balancer.load import GroupLoad
from shm.group_table import GroupState
from shm.load import LoadReport

_RESERVE_PARTS = 16


def groups_without_room(controller: Controller, prompt_tokens: int) -> list[int]:
    """By dp_rank; the others are not said to be alive."""
    has_ready = bool(controller.num_ready())
    reports, states = controller.ledger.reports, controller.states
    return [
        load.dp_rank
        for load in controller.loads()
        if not _has_room(load, reports[load.dp_rank], prompt_tokens)
        or (has_ready and states[load.dp_rank] is GroupState.SUSPECT)
    ]


def may_have_room(controller: Controller, dp_rank: int | None) -> bool:
    """Whether that group, or any, serves, so that waiting for it makes sense."""
    if dp_rank is not None:
        return controller.states[dp_rank] in CANDIDATES
    return any(state in CANDIDATES for state in controller.states)


def all_idle(controller: Controller) -> bool:
    """Whether no group has a request, nor one on its way."""
    return not any(load.requests for load in controller.loads())


def _has_room(load: GroupLoad, report: LoadReport | None, prompt_tokens: int) -> bool:
    if report is None:
        return True
    if load.requests >= report.max_requests:
        return False
    capacity = report.kv_capacity_tokens
    if prompt_tokens > capacity or not load.requests:
        return True
    return load.tokens + prompt_tokens + capacity // _RESERVE_PARTS <= capacity
