"""
The simulation's front door: a real controller, fed as router.front_door.dispatcher feeds it.

What is published is taken over before a decision, reports first, then the time.
There is one front door, so its own row is all of the board and nobody reads it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from balancer.assignment import Assignment, End
from balancer.controller import Controller
from balancer.cost_model import CostFit
from balancer.errors import NoCandidate
from balancer.ledger import Ledger
from balancer.load import RequestShape
from balancer.methods import PREFIX_METHODS, make_policy
from balancer.policies.base import ReportWatcher
from balancer.prefix_index import PrefixEvent, PrefixIndex
from balancer.room import all_idle, groups_without_room
from balancer.simulation.job import Job
from balancer.waiting_room import Admission, Waiter, WaitingRoom, WaitingRules
from shm.group_table import GroupEntry, GroupState
from shm.load import LoadReport

EPOCH = 1
NS_PER_S = 1_000_000_000
_AGE_PERIOD_S = 2.0  # as often as a live front door lets expectations age


class SimulatedFrontDoor:
    """Owns the controller; time in seconds of the simulation."""

    def __init__(
        self,
        method: str,
        num_groups: int,
        page_size: int,
        seed: int,
        max_load_age_s: float,
        waiting: WaitingRules,
    ) -> None:
        """`page_size`: of the traffic's page digests; 0 if it has none."""
        ledger = Ledger(
            slot=0, epoch=EPOCH, num_front_doors=1, num_groups=num_groups, note=lambda *_: None
        )
        self._costs = CostFit()
        policy = make_policy(method, random.Random(f"policy {seed}"), self._costs)
        self._watcher = policy if isinstance(policy, ReportWatcher) else None
        wants_prefixes = method in PREFIX_METHODS and page_size > 0
        self.controller = Controller(
            policy,
            ledger,
            num_groups,
            random.Random(f"ids {seed}"),
            round(max_load_age_s * NS_PER_S),
            PrefixIndex(num_groups) if wants_prefixes else None,
            self._costs,
        )
        self.waiting: WaitingRoom[Job] = WaitingRoom(waiting, num_groups)
        self._num_groups = num_groups
        self._page_size = page_size if wants_prefixes else 0
        self._published: list[LoadReport] = []
        self._aged_s = 0.0

    def table(self, dp_rank: int, state: GroupState, group_epoch: int) -> None:
        """The control plane tells of a group."""
        self.controller.observe_group(GroupEntry(dp_rank, state, group_epoch))

    def publish(self, reports: Sequence[LoadReport]) -> None:
        """These are in the load segment from now on."""
        self._published += reports
        if self._watcher is not None:
            self._watcher.watch(reports)

    def hear(self, dp_rank: int, group_epoch: int, event: PrefixEvent) -> None:
        """A group tells of its prefix cache."""
        self.controller.observe_prefix(dp_rank, group_epoch, event)

    def refresh(self, now_s: float, decoding: Callable[[int], Iterable[tuple[Job, int]]]) -> None:
        """
        Take over what was published, and that time has passed.

        `decoding` gives a group's decoding requests with the tokens that have streamed:
        the books of groups whose figures do not count are brought up to date with it.
        """
        controller = self.controller
        if self._published:
            controller.observe_reports(self._published)
            self._published.clear()
        controller.observe_time(round(now_s * NS_PER_S))
        if now_s - self._aged_s >= _AGE_PERIOD_S:
            self._aged_s = now_s
            self._costs.refit()
            if controller.prefixes is not None:
                controller.prefixes.age()
        for dp_rank in range(self._num_groups):
            if not controller.figures_are_fresh(dp_rank):
                for job, num_streamed in decoding(dp_rank):
                    self._stream(job, num_streamed)

    def wait(self, job: Job, now_s: float) -> None:
        """It goes as `place_waiting` says."""
        self.waiting.enter(Waiter(job, self._shape(job), round(now_s * NS_PER_S)))

    def place_waiting(self, now_s: float, place: Callable[[Job], Assignment | None]) -> list[Job]:
        """Return who goes now, each with the assignment that `place` got from assign."""
        gone = self.waiting.dispatch(
            round(now_s * NS_PER_S),
            lambda waiter: place(waiter.owner),
            is_idle=all_idle(self.controller),
        )
        return [waiter.owner for waiter, _ in gone]

    def due_s(self) -> float | None:
        """When those that are held are released at the latest."""
        due_ns = self.waiting.due_ns()
        return None if due_ns is None else due_ns / NS_PER_S

    def assign(self, job: Job) -> Assignment | None:
        """Choose a group; None if none can take it now."""
        shape = self._shape(job)
        excluded = job.excluded
        if self.waiting.rules.admission is Admission.LATE:
            excluded = (*excluded, *groups_without_room(self.controller, shape.prompt_tokens))
        try:
            assignment = self.controller.assign(shape, excluded)
        except NoCandidate:
            return None
        job.assignment, job.num_streamed = assignment, 0
        return assignment

    def release(self, job: Job, end: End) -> None:
        """It ended, or was given up; what it had produced has streamed by then."""
        assert job.assignment is not None
        if end is End.COMPLETED:
            self._stream(job, job.num_produced)
        self.controller.release(job.assignment, end)

    def _shape(self, job: Job) -> RequestShape:
        request = job.request
        digests = request.page_digests if self._page_size else ()
        return RequestShape(request.prompt_tokens, digests, self._page_size)

    def _stream(self, job: Job, num_streamed: int) -> None:
        assert job.assignment is not None
        if num_streamed > job.num_streamed:
            self.controller.streamed(job.assignment, num_streamed - job.num_streamed)
            job.num_streamed = num_streamed
