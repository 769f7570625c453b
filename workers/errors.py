"""
What can go wrong in a worker.

* WorkerError
  - InvalidConfig       a flag that cannot be honoured; the process ends with code 2
  - NotReleased         memory that was to be given back is not
    + GroupBusy         the group holds requests
    + NotReleasable     it cannot be, here
  - LinkLost            the leader at the other end of a link is gone, or did not come
  - SetBroken           ranks that compute together cannot go on; all have to begin anew
    + RankLost            one of them is gone, or stuck
    + PassFailed          a pass of theirs failed in this one
  - ReportRefused       what came on a link is no report of the leader at its other end
  - RequestRefused      this request gets no (further) output
    + QueueFull         the group holds as many requests as it may
    + NeverFits         it needs more KV tokens than the group has in all
    + ChargeSeen        its dp_balance_id arrived or was settled before
    + WrongEpoch        it was meant for another life of this group
    + Stopping          the worker is being stopped
    + MemoryReleased    the group has given its memory back
    + StepFailed        the forward pass that it was part of failed

`workers.model.errors` is a tree of its own, and `workers.server.errors` maps
both to HTTP statuses.
"""

from __future__ import annotations

from collections.abc import Iterable


class WorkerError(Exception):
    """Base class: catch this to survive anything that a worker says about itself."""


class InvalidConfig(WorkerError):
    """A flag, or the flags together, cannot be honoured."""


class NotReleased(WorkerError):
    """Memory that was to be given back is not, and nothing has changed."""


class GroupBusy(NotReleased):
    """The group holds requests."""

    def __init__(self, num_requests: int) -> None:
        super().__init__(
            f"the group holds {num_requests} requests, its memory is in use; nothing was released"
        )


class NotReleasable(NotReleased):
    """Memory of this rank cannot be given back; the message says what to do instead."""


class LinkLost(WorkerError):
    """The leader at the other end of a link is gone, or did not come."""


class SetBroken(WorkerError):
    """Ranks that compute together cannot go on; all of them have to begin anew."""


class RankLost(SetBroken):
    """One of the others is gone, or stuck."""


class PassFailed(SetBroken):
    """A pass that all compute together failed in this rank, and the others wait in it."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"a pass of all ranks failed here: {type(cause).__name__}: {cause}")


class ReportRefused(WorkerError):
    """What came on a link is no report of the leader at its other end."""


class RequestRefused(WorkerError):
    """The request gets no (further) output."""


class QueueFull(RequestRefused):
    """The group holds as many requests as it may."""

    def __init__(self, num_requests: int, max_requests: int) -> None:
        super().__init__(
            f"the group holds {num_requests} requests, it takes at most {max_requests}; retry later"
        )


class NeverFits(RequestRefused):
    """The request needs more KV tokens than the group has in all."""

    def __init__(self, num_tokens: int, capacity_tokens: int) -> None:
        super().__init__(
            f"the request needs room for {num_tokens} tokens, the group's KV cache has "
            f"{capacity_tokens} in all"
        )


class ChargeSeen(RequestRefused):
    """The request's dp_balance_id arrived here before, or was settled."""

    def __init__(self, dp_balance_id: str) -> None:
        super().__init__(f"dp_balance_id {dp_balance_id} arrived here before, or was settled")


class WrongEpoch(RequestRefused):
    """What was asked is about another life of this group, and nothing was counted."""

    def __init__(self, asked_epoch: int) -> None:
        super().__init__(f"this is another life of the group than epoch {asked_epoch}")


class Stopping(RequestRefused):
    """The worker is being stopped."""

    def __init__(self) -> None:
        super().__init__("the worker is being stopped")


class MemoryReleased(RequestRefused):
    """The group has given its memory back, and computes nothing until it has that again."""

    def __init__(self, tags: Iterable[str]) -> None:
        super().__init__(
            f"the group has released its memory ({', '.join(sorted(tags))}); "
            "POST /resume_memory_occupation has it serve again"
        )


class StepFailed(RequestRefused):
    """The forward pass that the request was part of failed."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"the forward pass failed: {type(cause).__name__}: {cause}")
