"""
The controller: chooses a group for each request and keeps the front door's books.

Synchronous and pure: what it knows is handed to it (observe_*), what it decides is returned.
An assignment that was given out is released in exactly one place, by whoever asked for it.

How a group is weighed stands in balancer.slots: with the books of all front doors where its
figures are stale, because with its own alone each would take a group for nearly idle whose
report stopped, and all would send it more.

If it dies, so do its open assignments; what it noted stands until the root reclaims its row.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable

from balancer.assignment import Assignment, End
from balancer.candidates import CANDIDATES, States, able, suspects, why_none
from balancer.cost_model import CostFit
from balancer.departures import Departure
from balancer.errors import LedgerBroken, NoCandidate
from balancer.freshness import Freshness, FreshnessChange
from balancer.ledger import Book, Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import LedgerReader, Policy
from balancer.prefix_index import PrefixEvent, PrefixIndex
from balancer.slots import Slots
from balancer.slow_start import SlowStart
from balancer.unstarted import Unstarted
from balancer.witness import Witness
from shm.board import Cell
from shm.group_table import GroupEntry, GroupState
from shm.load import LoadReport

_JUDGED = (*CANDIDATES, GroupState.DRAINING)  # by the age of its figures


class Controller:
    """Assigns requests to groups by one policy and one ledger."""

    def __init__(
        self,
        policy: Policy,
        ledger: Ledger,
        num_groups: int,
        rng: random.Random,
        max_load_age_ns: int,
        prefixes: PrefixIndex | None = None,
        costs: CostFit | None = None,
        slow_start: SlowStart | None = None,
        *,
        keeps_decisions: bool = False,
    ) -> None:
        """
        `prefixes`, if the policy looks at them; `costs`: who waits; `slow_start`: who is new;
        `keeps_decisions`: assignments come with what they were decided on.
        """
        self.policy = policy
        self.ledger = ledger
        self.max_load_age_ns = max_load_age_ns
        self.prefixes = prefixes
        self._costs = costs
        self.slow_start = slow_start or SlowStart(0)
        self._rng = rng
        self._freshness = Freshness(ledger, num_groups, max_load_age_ns)
        self._is_fresh = self._freshness.is_fresh
        self._open: dict[str, Assignment] = {}
        self._unstarted = Unstarted(num_groups)
        self._slots = Slots(ledger, self._is_fresh, self._unstarted, num_groups)
        self._weigh = self._slots.weigh
        self._witness: Witness | None = None
        if keeps_decisions:
            self._witness = Witness(ledger, self._slots, self._is_fresh, self.slow_start)
        self._reader = policy if isinstance(policy, LedgerReader) else None
        if self._reader is not None:
            self._reader.read(ledger)

    def __repr__(self) -> str:
        return f"<Controller {self.policy.name}, {len(self._open)} open, {self._slots!r}>"

    def assign(self, request: RequestShape, excluded: Collection[int] = ()) -> Assignment:
        """
        Choose a group, none of the excluded, and charge it with what it has to compute.

        The charge are the prompt tokens that the group is not believed to have
        cached, at least 1; it is on the board when this returns.  A suspect group is
        chosen only if no ready one can be.  Raises NoCandidate if every other group
        is dead, draining, starting or full, or the only one that was asked for is.
        """
        slots = self._slots
        candidates = able(slots.loads, slots.max_requests, request, excluded)
        if not candidates:
            candidates = suspects(slots.loads, slots.states, slots.limits, request, excluded)
        if not candidates:
            raise NoCandidate(why_none(slots.states, request.dp_rank, excluded))
        if self.prefixes is not None and request.page_digests:
            request = request.matched(self.prefixes.match(request.page_digests))
        choice = self.policy.choose(self.slow_start.weighed(candidates), request)
        assignment = self._charge(choice.dp_rank, request)
        if self._witness is not None:
            assignment.decision = self._witness.decision(choice, candidates, request, excluded)
        return assignment

    def _charge(self, dp_rank: int, request: RequestShape) -> Assignment:
        """Note that the request is about to be sent there."""
        charge_tokens = max(1, request.uncached_tokens(dp_rank))
        group_epoch = self.ledger.dispatch(dp_rank, charge_tokens, request.prompt_tokens)
        assignment = Assignment(
            dp_balance_id=f"{self._rng.getrandbits(64):016x}",
            dp_rank=dp_rank,
            group_epoch=group_epoch,
            charge_tokens=charge_tokens,
            ordinal=self.ledger.num_dispatched(dp_rank),
            book_tokens=request.prompt_tokens,
            num_outputs=request.num_outputs,
        )
        if self.prefixes is not None and request.page_digests:
            assignment.cached_tokens = request.cached_tokens[dp_rank]
            assignment.expectation = self.prefixes.expect(dp_rank, request.page_digests)
        self._open[assignment.dp_balance_id] = assignment
        self._unstarted.add(assignment)
        self._weigh(dp_rank)
        return assignment

    def release(self, assignment: Assignment, end: End) -> None:
        """
        The request ended, or was given up.  Releasing twice does no harm.

        With End.NEVER_SENT and End.UNCOUNTED the charge is taken back here; else the
        group counts it, and it leaves in-flight with the report that shows that.
        If it was answered, wholly or in part, its pages are still expected in the group.
        """
        if not assignment.is_open:
            return
        assignment.is_open = False
        self._unstarted.start(assignment)
        del self._open[assignment.dp_balance_id]
        dp_rank, book_tokens = assignment.dp_rank, assignment.book_tokens
        group_epoch, charge_tokens = assignment.group_epoch, assignment.charge_tokens
        if end.returns_charge:
            self.ledger.take_back(dp_rank, group_epoch, charge_tokens, book_tokens)
        else:
            is_gone = end is End.COMPLETED and assignment.num_outputs == 1
            held_tokens = book_tokens if is_gone else None
            departure = Departure.of(assignment.dp_balance_id, assignment.ordinal, held_tokens)
            self.ledger.end(dp_rank, group_epoch, book_tokens, departure)
        if self.prefixes is not None and assignment.expectation is not None:
            was_answered = end in (End.COMPLETED, End.REACHED)
            settle = self.prefixes.fulfil if was_answered else self.prefixes.withdraw
            settle(assignment.expectation)
        self._weigh(dp_rank)

    def streamed(self, assignment: Assignment, tokens: int) -> None:
        """
        The group has produced that many tokens more; after release they are nobody's.

        They are in the own book at once, and on the board with the next note.
        """
        if not assignment.is_open:
            return
        if not assignment.has_started:
            self._unstarted.start(assignment)
        assignment.book_tokens += tokens
        assignment.streamed_tokens += tokens
        self.ledger.stream(assignment.dp_rank, assignment.group_epoch, tokens)
        if self._slots.is_booked(assignment.dp_rank):
            self._weigh(assignment.dp_rank)

    def note_books(self) -> None:
        """Put on the board what has changed in the own books since the last note."""
        self.ledger.note_books()

    def observe_group(self, entry: GroupEntry) -> None:
        """
        Take over a row of the group table; a later epoch starts the group's books anew.

        An earlier one does not: a life of a group does not come back, and books
        begun twice in one life would forget what was sent in it.  Nor does it make
        the group a candidate: a leader of that epoch refuses what is charged under
        the later one.
        """
        dp_rank, state, known = entry.dp_rank, entry.state, self.ledger.epoch(entry.dp_rank)
        if entry.epoch > known:
            self._begin_group(dp_rank, entry.epoch)
        elif entry.epoch < known and state in CANDIDATES:
            state = GroupState.STARTING
        if state in _JUDGED:
            self._freshness.judge(dp_rank)
        else:
            self._freshness.disregard(dp_rank)
        self._slots.seat(entry, state)
        self.slow_start.observe_group(dp_rank, state, entry.ready_since_ns)

    def observe_absence(self, dp_rank: int) -> None:
        """
        Nobody has that slot any more, or nobody yet: no candidate, and nothing to be judged.

        What is open there runs out, and is released, in the epoch that it was sent to; whoever
        gets the slot has a later one, and begins with books of nothing.
        """
        if self._slots.states[dp_rank] is None:
            return
        self._freshness.disregard(dp_rank)
        self.slow_start.observe_absence(dp_rank)
        if self.prefixes is not None:
            self.prefixes.begin_group(dp_rank)
        self._slots.vacate(dp_rank)

    def observe_reports(self, reports: Iterable[LoadReport]) -> None:
        """
        Take over load reports, but for old ones and those of another epoch than the table's.

        Those of groups that were not fresh count from the next observe_time on.
        """
        for dp_rank in self.ledger.observe_reports(reports):
            if not self._is_fresh[dp_rank]:
                self._freshness.has_reported(dp_rank)
            self._weigh(dp_rank)
        if self._reader is not None:
            self._reader.read(self.ledger)
        if self._costs is not None and self._costs.groups_wait is not self._slots.groups_wait:
            self._slots.groups_wait = self._costs.groups_wait
            self._slots.weigh_all()

    def observe_cells(self, slot: int, cells: Iterable[tuple[int, Cell]]) -> None:
        """Take over what another front door noted; call after observe_reports."""
        for dp_rank, cell in cells:
            if self.ledger.observe_cell(slot, dp_rank, cell) or self._slots.is_booked(dp_rank):
                self._weigh(dp_rank)

    def observe_time(self, now_ns: int) -> list[FreshnessChange]:
        """
        It is that late now; return whose figures went stale, and whose are fresh again.

        On the clock of the reports' samples.  Cheap enough for every decision.
        """
        self.slow_start.observe_time(now_ns)
        changes = self._freshness.observe_time(now_ns)
        for change in changes:
            self._weigh(change.dp_rank)
        return self._freshness.to_tell(changes) if changes else changes

    def observe_prefix(self, dp_rank: int, group_epoch: int, event: PrefixEvent) -> None:
        """Take over what a group tells of its prefix cache; another epoch's is ignored."""
        if self.prefixes is not None and group_epoch == self.ledger.epoch(dp_rank):
            self.prefixes.observe(dp_rank, event)

    def loads(self) -> list[GroupLoad]:
        """Load of every group, chosen or not, by dp_rank."""
        return list(self._slots.loads)

    def books(self) -> list[Book]:
        """What this front door has open on every group, by dp_rank."""
        return [self.ledger.own_book(dp_rank) for dp_rank in range(len(self._slots.states))]

    def figures_are_fresh(self, dp_rank: int) -> bool:
        """Whether that group is weighed with its own report, and not with the books."""
        return self._is_fresh[dp_rank]

    def figures_are_stale(self, dp_rank: int) -> bool:
        """Whether that group serves, and has reported, but too long ago; as last told."""
        return self._freshness.is_stale(dp_rank)

    @property
    def states(self) -> States:
        """Of every slot, as the table has them, by dp_rank; None: nobody is there."""
        return self._slots.states

    def num_ready(self) -> int:
        """Groups that the table says are ready."""
        return self._slots.num_ready()

    def check_integrity(self) -> None:
        """Raise LedgerBroken if the books do not add up to the open assignments."""
        self.ledger.check_integrity()
        if self.prefixes is not None:
            self.prefixes.check_integrity()
        for dp_rank, book in enumerate(self.books()):
            life = (dp_rank, self.ledger.epoch(dp_rank))
            mine = [a for a in self._open.values() if (a.dp_rank, a.group_epoch) == life]
            summed = Book(sum(a.book_tokens for a in mine), len(mine))
            if summed != book:
                raise LedgerBroken(f"group {dp_rank}: book {book}, open assignments {summed}")

    def _begin_group(self, dp_rank: int, epoch: int) -> None:
        """All that was known of that number is about an earlier life, or somebody else."""
        self.ledger.begin_group(dp_rank, epoch)
        self._unstarted.begin_group(dp_rank, epoch)
        self._freshness.disregard(dp_rank)
        if self.prefixes is not None:
            self.prefixes.begin_group(dp_rank)
        if self._costs is not None:
            self._costs.begin_group(dp_rank)
