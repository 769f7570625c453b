"""
The controller: chooses a group for each request and keeps the front door's books.

Synchronous and pure: what it knows is handed to it (observe_*), what it
decides is returned, and nothing in it waits.  An assignment that was given out
is released in exactly one place, by whoever asked for it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from balancer.assignment import Assignment, End
from balancer.errors import LedgerBroken, NoCandidate
from balancer.ledger import Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import Policy
from balancer.prefix_index import PrefixEvent, PrefixIndex
from shm.board import Cell
from shm.group_table import GroupEntry, GroupState
from shm.load import LoadReport


class Book(NamedTuple):
    """What this front door has open on one group."""

    tokens: int
    requests: int


_UNLIMITED = 1 << 62  # requests, of a group that has not said how many it takes
_READY = GroupState.READY  # looking a member up takes as long as half of a GroupLoad


# From one tuple: GroupLoad(...) does the same with a Python frame, for every group of a snapshot.
_GROUP_LOAD = partial(tuple.__new__, GroupLoad)


class Controller:
    """Assigns requests to groups by one policy and one ledger."""

    def __init__(
        self,
        policy: Policy,
        ledger: Ledger,
        num_groups: int,
        rng: random.Random,
        prefixes: PrefixIndex | None = None,
    ) -> None:
        """`prefixes` is given if the policy looks at them."""
        self.policy = policy
        self.ledger = ledger
        self.prefixes = prefixes
        self._rng = rng
        self._states = [GroupState.STARTING] * num_groups
        self._loads = [GroupLoad(dp_rank, 0, 0, 0, 0) for dp_rank in range(num_groups)]
        self._max_requests = [0] * num_groups
        """Requests that each group may have now: none unless it is ready."""
        self._book_tokens = [0] * num_groups
        self._book_requests = [0] * num_groups
        self._open: dict[str, Assignment] = {}

    def __repr__(self) -> str:
        pairs = zip(self._states, self._loads, strict=True)
        loads = ", ".join(f"{load.dp_rank}:{state} {load.tokens}" for state, load in pairs)
        return f"<Controller {self.policy.name}, {len(self._open)} open, [{loads}]>"

    def assign(self, request: RequestShape) -> Assignment:
        """
        Choose a group and charge it with the request's prompt tokens.

        The charge is on the board when this returns.  Raises NoCandidate if
        every group is dead, draining, starting or full.
        """
        candidates = [
            load
            for load, limit in zip(self._loads, self._max_requests, strict=True)
            if load.held_requests + load.in_flight_requests < limit
        ]
        if not candidates:
            raise NoCandidate(self._why_none())
        if self.prefixes is not None and request.page_digests:
            request = request.matched(self.prefixes.match(request.page_digests))
        dp_rank = self.policy.pick(candidates, request)
        tokens = request.prompt_tokens
        group_epoch = self.ledger.dispatch(dp_rank, tokens)
        balance_id = f"{self._rng.getrandbits(64):016x}"
        assignment = Assignment(balance_id, dp_rank, group_epoch, tokens, tokens)
        if self.prefixes is not None and request.page_digests:
            assignment.cached_tokens = request.cached_tokens[dp_rank]
            assignment.expectation = self.prefixes.expect(dp_rank, request.page_digests)
        self._open[balance_id] = assignment
        self._add_to_book(dp_rank, tokens, 1)
        self._weigh(dp_rank)
        return assignment

    def release(self, assignment: Assignment, end: End) -> None:
        """
        The request ended, or was given up.  Releasing twice does no harm.

        With End.NEVER_SENT the charge is taken back here; else the group
        counts it, and it leaves in-flight with the report that shows that.
        With End.REACHED its pages are still expected in the group, else no more.
        """
        if not assignment.is_open:
            return
        assignment.is_open = False
        del self._open[assignment.dp_balance_id]
        if end is End.NEVER_SENT:
            self.ledger.take_back(
                assignment.dp_rank, assignment.group_epoch, assignment.charge_tokens
            )
        if self.prefixes is not None and assignment.expectation is not None:
            settle = self.prefixes.fulfil if end is End.REACHED else self.prefixes.withdraw
            settle(assignment.expectation)
        self._add_to_book(assignment.dp_rank, -assignment.book_tokens, -1)
        if end is End.NEVER_SENT or not self.has_report(assignment.dp_rank):
            self._weigh(assignment.dp_rank)  # else only the next report changes its load

    def streamed(self, assignment: Assignment, tokens: int) -> None:
        """The group has produced that many tokens more; after release they are nobody's."""
        if not assignment.is_open:
            return
        assignment.book_tokens += tokens
        self._add_to_book(assignment.dp_rank, tokens, 0)
        if not self.has_report(assignment.dp_rank):
            self._weigh(assignment.dp_rank)

    def observe_group(self, entry: GroupEntry) -> None:
        """
        Take over a row of the group table; a later epoch starts the group's books anew.

        An earlier one does not: a life of a group does not come back, and books
        begun twice in one life would forget what was sent in it.
        """
        if entry.epoch > self.ledger.epoch(entry.dp_rank):
            self.ledger.begin_group(entry.dp_rank, entry.epoch)
            if self.prefixes is not None:
                self.prefixes.begin_group(entry.dp_rank)
        self._states[entry.dp_rank] = entry.state
        self._weigh(entry.dp_rank)

    def observe_reports(self, reports: Iterable[LoadReport]) -> None:
        """Take over load reports; those of another epoch than the table's are ignored."""
        for dp_rank in self.ledger.observe_reports(reports):
            self._weigh(dp_rank)

    def observe_cells(self, slot: int, cells: Iterable[tuple[int, Cell]]) -> None:
        """Take over what another front door noted; call after observe_reports."""
        for dp_rank, cell in cells:
            self.ledger.observe_cell(slot, dp_rank, cell)
            self._weigh(dp_rank)

    def observe_prefix(self, dp_rank: int, group_epoch: int, event: PrefixEvent) -> None:
        """Take over what a group tells of its prefix cache; another epoch's is ignored."""
        if self.prefixes is not None and group_epoch == self.ledger.epoch(dp_rank):
            self.prefixes.observe(dp_rank, event)

    def loads(self) -> list[GroupLoad]:
        """Load of every group, chosen or not, by dp_rank."""
        return list(self._loads)

    def books(self) -> list[Book]:
        """What this front door has open on every group, by dp_rank."""
        return [Book(*book) for book in zip(self._book_tokens, self._book_requests, strict=True)]

    def has_report(self, dp_rank: int) -> bool:
        """Whether that group's load is its own report, not this front door's book."""
        return self.ledger.report(dp_rank) is not None

    def num_ready(self) -> int:
        """Groups that the table says are ready."""
        return sum(state is GroupState.READY for state in self._states)

    def check_integrity(self) -> None:
        """Raise LedgerBroken if the books do not add up to the open assignments."""
        self.ledger.check_integrity()
        if self.prefixes is not None:
            self.prefixes.check_integrity()
        for dp_rank, book in enumerate(self.books()):
            mine = [a for a in self._open.values() if a.dp_rank == dp_rank]
            summed = Book(sum(a.book_tokens for a in mine), len(mine))
            if summed != book:
                raise LedgerBroken(f"group {dp_rank}: book {book}, open assignments {summed}")

    def _add_to_book(self, dp_rank: int, tokens: int, requests: int) -> None:
        self._book_tokens[dp_rank] += tokens
        self._book_requests[dp_rank] += requests

    def _weigh(self, dp_rank: int) -> None:
        """Work out the group's load, and what it may still take, from what is known now."""
        report = self.ledger.report(dp_rank)
        if report is None:
            tokens, requests = self._book_tokens[dp_rank], self._book_requests[dp_rank]
            load, limit = GroupLoad(dp_rank, tokens, 0, requests, 0), _UNLIMITED
        else:
            flying = self.ledger.in_flight(dp_rank)
            held = report.running_requests + report.waiting_requests
            load = _GROUP_LOAD(
                (dp_rank, report.holding_tokens, flying.tokens, held, flying.requests)
            )
            limit = report.max_requests
        self._loads[dp_rank] = load
        self._max_requests[dp_rank] = limit if self._states[dp_rank] is _READY else 0

    def _why_none(self) -> str:
        states = Counter(
            "full" if state is GroupState.READY else state.value for state in self._states
        )
        found = ", ".join(f"{count} {state}" for state, count in states.items())
        return f"no DP group can take the request: {found}"
