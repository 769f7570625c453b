"""
Where a request goes that has left its group.

Ranks of one engine share an address, and its fate.  Where it cannot be reached, none of
them can: without this, an engine that is gone would take every retry, because nothing is
as empty as the books of ranks that nobody reaches.

    the group             to another address     to a rank at the same one
    is unreachable        yes                    no
    was lost, refuses     yes                    only if nobody else can take it
    has not what is       each engine once       no
    asked for (404)

What was lost or refused may have cost its group something, and so has a budget that all requests
share (balancer.retry_budget).  Looking for what one engine keeps is no retry: it ends when all have
been asked.

A worker of ours that has begun a new life is another group: who was lost with the one before may
go to it.
"""

from __future__ import annotations

from collections.abc import Collection

from balancer.assignment import Assignment
from balancer.exclusion import Exclusion, Exclusions, because
from balancer.load import RequestShape
from router.errors import NoGroup
from router.front_door.attempt import Attempt
from router.front_door.decision_log import FIRST, Occasion
from router.front_door.services import Services
from router.front_door.upstream import Address
from shm.group_table import GroupEntry

UNREACHABLE = "unreachable"
NOT_THERE = "not_there"
COSTLY = frozenset(("lost", "refused"))


class Elsewhere:
    """The groups that one request was sent to, and where else it may go."""

    __slots__ = ("_lives", "_num_retries", "_places", "_services", "occasion")

    def __init__(self, services: Services) -> None:
        self._services = services
        self._num_retries = 0
        self.occasion = FIRST
        """Of the next attempt."""
        self._lives: tuple[tuple[int, int], ...] = ()
        self._places: tuple[Address, ...] = ()

    @property
    def num_attempts(self) -> int:
        """Times that it was sent to a group."""
        return len(self._lives)

    def sent_to(self, attempt: Attempt) -> None:
        """It is sent to that group, and never again."""
        self._lives += ((attempt.dp_rank, attempt.group_epoch),)
        self._places += (attempt.address,)
        mine, first = attempt.dp_balance_id, self.occasion.first_id or attempt.dp_balance_id
        self.occasion = Occasion(self.num_attempts + 1, first_id=first, follows=mine)

    def assign(self, reason: str, shape: RequestShape, unfit: Exclusions) -> Assignment | None:
        """Choose another group, none of the unfit; None if there is none, or it may not."""
        self.occasion = self.occasion._replace(left_because=reason)
        if reason == NOT_THERE:
            return self._assign(shape, {**self._at(self._places), **self.tried(), **unfit})
        if self._num_retries >= self._services.max_retries:
            return None
        if reason not in COSTLY:
            near = self._at(self._places[-1:])
            assignment = self._assign(shape, {**near, **self.tried(), **unfit})
        else:
            assignment = self._affordable(shape, {**self.tried(), **unfit})
        self._num_retries += assignment is not None
        return assignment

    def may_be_kept(self, reason: str) -> bool:
        """Whether it may wait for a group to come back, and be sent once more."""
        budget = self._services.retry_budget
        if not self._services.max_retries:
            return False
        if reason in COSTLY:
            if not budget.affords(self._services.dispatcher.now_ns()):
                return False
            budget.withdraw()
        return True

    def tried(self) -> Exclusions:
        """Groups that it was sent to; a slot that another has got since is none of them."""
        if not self._lives:
            return {}
        now = {row.dp_rank: row for row in self._services.dispatcher.rows}
        return {
            rank: Exclusion.TRIED
            for (rank, epoch), place in zip(self._lives, self._places, strict=True)
            if rank not in now or _is_same(now[rank], epoch, place)
        }

    def _affordable(self, shape: RequestShape, excluded: Exclusions) -> Assignment | None:
        """Of those not excluded, rather none at the address that was left."""
        services = self._services
        budget, now_ns = services.retry_budget, services.dispatcher.now_ns()
        if all(row.dp_rank in excluded for row in services.dispatcher.rows):
            return None
        if not budget.affords(now_ns):
            services.meters.retries_over_budget += 1
            return None
        assignment = self._assign(shape, {**self._at(self._places[-1:]), **excluded})
        if assignment is None:
            assignment = self._assign(shape, excluded)
        if assignment is not None:
            budget.withdraw()
        return assignment

    def _assign(self, shape: RequestShape, excluded: Exclusions) -> Assignment | None:
        try:
            return self._services.dispatcher.assign(shape, excluded, self.occasion)
        except NoGroup:
            return None

    def _at(self, places: Collection[Address]) -> Exclusions:
        ranks = [rank for place in places for rank in self._services.dispatcher.groups_at(place)]
        return because(ranks, Exclusion.SAME_ENGINE)


def _is_same(row: GroupEntry, epoch: int, place: Address) -> bool:
    """Whether it is the group that was there then: an engine by its place, a worker by its life."""
    return Address.of(row) == place if row.is_backend else row.epoch == epoch
