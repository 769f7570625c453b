"""
The simulation: traffic through a front door to groups, from event to event.

    arrival ──assign──► inbox of the group ──next step──► the group ──last token──► ended
        ▲                  │ died: nobody there   │ died: no token yet
        └──── retried ◄────┴──────────────────────┘    (else it is lost)

At one instant steps end first, then groups die and come back, then requests
arrive, then steps begin.  A request that no group can take waits and is offered
again at each event and heartbeat.  So is one that the front door keeps back, until
its waiting room says that it goes.  Nothing is drawn but from the seed.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from balancer.assignment import Assignment, End
from balancer.simulation.barrier import Barrier, Member
from balancer.simulation.figures import RunFigures, StepFigures, run_figures
from balancer.simulation.front_door import SimulatedFrontDoor
from balancer.simulation.group import SimulatedGroup
from balancer.simulation.job import Job, Outcome
from balancer.simulation.prefix_cache import PrefixCache
from balancer.simulation.settings import Death, Mode, Pace, Prefill, Settings
from balancer.simulation.traffic import Traffic
from shm.group_table import GroupState

_WARM_UP = 0.05  # of the requests
_HEARTBEAT_S = 0.02


def simulate(
    traffic: Traffic,
    settings: Settings,
    method: str,
    seed: int,
    rate_scale: float = 1.0,
    on_progress: Callable[[int], None] = lambda num_ended: None,
) -> RunFigures:
    """Run to the end; the same arguments give the same figures.  Raises UnknownMethod."""
    simulation = Simulation(traffic, settings, method, seed, rate_scale)
    for num_ended in simulation.events():
        on_progress(num_ended)
    return simulation.figures()


class Simulation:
    """One run."""

    def __init__(
        self, traffic: Traffic, settings: Settings, method: str, seed: int, rate_scale: float = 1.0
    ) -> None:
        self.settings = settings
        self.now_s = 0.0
        self._page_size = traffic.page_size
        self.door = SimulatedFrontDoor(
            method,
            settings.num_groups,
            traffic.page_size,
            seed,
            settings.max_load_age_s,
            settings.waiting,
        )
        arrivals = traffic.arrivals_s(rate_scale, random.Random(f"arrivals {seed}"))
        pairs = zip(traffic.requests, arrivals, strict=True)
        self.jobs = [Job(request, at_s) for request, at_s in pairs]
        self.members = [self._member(dp_rank) for dp_rank in range(settings.num_groups)]
        self._barriers = self._make_barriers(random.Random(f"reports {seed}"))
        num_timed = len(self.jobs) if traffic.num_clients is None else traffic.num_clients
        self._coming, self._following = deque(self.jobs[:num_timed]), deque(self.jobs[num_timed:])
        self._unplaced: deque[Job] = deque()
        self._num_arrived = self._num_ended = 0
        self._window, self._outside = StepFigures(), StepFigures()
        self._order = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for death in settings.deaths:
            self._at(death.at_s, partial(self._die, death))
        for barrier in self._barriers:
            barrier.beat(0.0)

    def events(self) -> Iterator[int]:
        """Run from event to event; yield how many requests have ended after each."""
        while self._num_ended < len(self.jobs):
            self.now_s = self._next_s()
            self._run_due()
            self._arrive()
            for barrier in self._barriers:
                if not barrier.is_stepping:
                    self._begin_step(barrier)
            yield self._num_ended

    def figures(self) -> RunFigures:
        """Of what has happened so far."""
        steps = self._window
        if not steps.num_group_steps:
            steps = self._outside
        return run_figures(steps, self.jobs)

    @property
    def num_group_steps(self) -> int:
        """Steps times groups so far."""
        return self._window.num_group_steps + self._outside.num_group_steps

    def check_integrity(self) -> None:
        """All books, and each request in one place."""
        self.door.controller.check_integrity()
        for member in self.members:
            if member.group is not None:
                member.group.check_integrity()

    # Making

    def _member(self, dp_rank: int) -> Member:
        member = Member(dp_rank, 0, None)
        self._revive(member)
        return member

    def _make_barriers(self, rng: random.Random) -> list[Barrier]:
        alone = self.settings.pace is Pace.INDEPENDENT
        together = [[member] for member in self.members] if alone else [self.members]
        return [Barrier(group, self.settings, self.door.publish, rng) for group in together]

    def _revive(self, member: Member) -> None:
        """A new life, with nothing in it."""
        limits, size = self.settings.limits, self._page_size
        member.epoch += 1
        member.group = SimulatedGroup(
            limits,
            PrefixCache(limits.cache_tokens // size if size else 0),
            size,
            partial(self.door.hear, member.dp_rank, member.epoch),
            computes_prompts=self.settings.mode is Mode.UNIFIED,
            mixes=self.settings.prefill is Prefill.MIXED,
        )
        self.door.table(member.dp_rank, GroupState.READY, member.epoch)

    # Events

    def _at(self, at_s: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (at_s, self._order, event))

    def _next_s(self) -> float:
        """When something happens; heartbeats count if somebody waits for room."""
        times = [self._events[0][0]] if self._events else []
        if self._coming:
            times.append(self._coming[0].arrival_s)
        if self._unplaced or self.door.waiting:
            times.append(self.now_s + _HEARTBEAT_S)
        due_s = self.door.due_s()
        if due_s is not None:
            times.append(max(due_s, self.now_s))
        return min(times)

    def _run_due(self) -> None:
        while self._events and self._events[0][0] <= self.now_s:
            heapq.heappop(self._events)[2]()

    def _arrive(self) -> None:
        due = list(self._unplaced)
        self._unplaced.clear()
        while self._coming and self._coming[0].arrival_s <= self.now_s:
            self._num_arrived += 1
            due.append(self._coming.popleft())
        if not due and not self.door.waiting:
            return
        for barrier in self._barriers:
            if not (barrier.is_stepping or barrier.has_work):
                barrier.beat(self.now_s)
        self.door.refresh(self.now_s, self._streamed)
        if self.settings.waiting.can_wait:
            for job in due:
                self.door.wait(job, self.now_s)
            self.door.place_waiting(self.now_s, self._place)
            return
        for job in due:
            if self._place(job) is None:
                self._unplaced.append(job)

    def _place(self, job: Job) -> Assignment | None:
        """Send it to a group; one that is dead and not yet known to be cannot be reached."""
        while (assignment := self.door.assign(job)) is not None:
            member = self.members[assignment.dp_rank]
            if member.group is not None and member.epoch == assignment.group_epoch:
                member.inbox.append(job)
                return assignment
            self.door.release(job, End.NEVER_SENT)
            job.excluded += (member.dp_rank,)
        job.excluded = ()  # whoever is alive is full
        return None

    def _begin_step(self, barrier: Barrier) -> None:
        step_ms, refused = barrier.begin_step(self.now_s)
        for job in refused:
            self._end(job, Outcome.REFUSED, End.UNANSWERED)
        if step_ms:
            self._note(barrier, step_ms)
            self._at(self.now_s + step_ms / 1e3, partial(self._end_step, barrier))

    def _end_step(self, barrier: Barrier) -> None:
        barrier.is_stepping = False
        first, ended = barrier.end_step(self.now_s)
        for job in first:
            if job.first_s is None:
                job.first_s = self.now_s
        for job in ended:
            self._end(job, Outcome.COMPLETED, End.COMPLETED)

    def _end(self, job: Job, outcome: Outcome, end: End) -> None:
        assert job.outcome is None
        self.door.release(job, end)
        job.outcome, job.ended_s = outcome, self.now_s
        self._num_ended += 1
        if self._following:
            follower = self._following.popleft()
            follower.arrival_s = self.now_s
            self._coming.appendleft(follower)

    # Faults

    def _die(self, death: Death) -> None:
        """Its requests go elsewhere if they have no token yet; else they are lost."""
        member = self.members[death.dp_rank]
        if member.group is None:
            return
        sent, member.inbox = member.inbox, []
        had, member.group = member.group.lose_all(), None
        for job in (*had, *sent):
            if job.first_s is not None:
                self._end(job, Outcome.LOST, End.REACHED)
                continue
            self.door.release(job, End.UNANSWERED)
            job.excluded = (member.dp_rank,)
            self._unplaced.append(job)
        told = partial(self.door.table, member.dp_rank, GroupState.DEAD, member.epoch)
        self._at(self.now_s + death.noticed_after_s, told)
        back_after_s = max(death.noticed_after_s, death.back_after_s)
        self._at(self.now_s + back_after_s, partial(self._revive, member))

    def _streamed(self, dp_rank: int) -> Iterator[tuple[Job, int]]:
        group = self.members[dp_rank].group
        if group is not None:
            yield from ((job, group.decoding.num_produced(job)) for job in group.decoding)

    # Figures

    def _note(self, barrier: Barrier, step_ms: float) -> None:
        share = self._num_arrived / len(self.jobs)
        figures = self._window if _WARM_UP < share < 1 else self._outside
        alive = [member for member in self.members if member.group is not None]
        adds = [member.step_ms for member in alive]
        kv = [member.group.decoding.kv_tokens for member in alive if member.group is not None]
        base_ms = self.settings.step.base_ms
        level_ms = base_ms + sum(adds) / len(adds)
        stepping = [m.group for m in barrier.members if m.group is not None]
        if self.settings.pace is Pace.LOCKSTEP:
            idle = (step_ms - level_ms) / step_ms
            figures.add(step_ms, level_ms, idle, kv, 1.0)
        else:
            figures.add(step_ms, level_ms, 0.0, kv, sum(g.num_running for g in stepping))
        figures.num_group_steps += len(stepping)
