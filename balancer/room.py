"""
Which groups have room for one more request, for who may wait until one has.

    room: requests < max_requests   and   tokens + prompt + reserve <= KV capacity

tokens are holding + in flight, as a policy sees them; both limits are those of the group's last
report, and a group that has said nothing yet has room.  The reserve is a 256th of the
capacity.  A larger one costs more in KV that stands empty than it saves in retractions
where outputs are shorter than prompts (benchmarks/LOG.md).  Tokens that requests
share count for each of them, so where much is shared a group has more room than this says.

A prompt that fits with its reserve into no empty group needs an empty one; one
over the capacity needs none, because the group refuses it.  A suspect group has no
room while another is ready.
"""

from __future__ import annotations

from collections.abc import Collection

from balancer.candidates import CANDIDATES
from balancer.controller import Controller
from balancer.load import GroupLoad
from shm.group_table import GroupState
from shm.load import LoadReport

_RESERVE_PARTS = 256


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


def may_have_room(controller: Controller, dp_rank: int | None, unfit: Collection[int] = ()) -> bool:
    """Whether that group, or any but the unfit, serves, so that waiting for it makes sense."""
    ranks = range(len(controller.states)) if dp_rank is None else (dp_rank,)
    return any(controller.states[rank] in CANDIDATES for rank in ranks if rank not in unfit)


def all_idle(controller: Controller) -> bool:
    """Whether no group that serves has a request, nor one on its way."""
    pairs = zip(controller.loads(), controller.states, strict=True)
    return not any(load.requests for load, state in pairs if state in CANDIDATES)


def _has_room(load: GroupLoad, report: LoadReport | None, prompt_tokens: int) -> bool:
    if report is None:
        return True
    if load.requests >= report.max_requests:
        return False
    capacity = report.kv_capacity_tokens
    if prompt_tokens > capacity or not load.requests:
        return True
    return load.tokens + prompt_tokens + capacity // _RESERVE_PARTS <= capacity
