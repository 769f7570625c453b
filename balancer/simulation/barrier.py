"""
Groups that step together: all in lock step, or one alone.

A report is sampled when a step begins, after what was sent has been accepted and before
anything is computed, and published `report_delay_steps` steps later.  If that is at once,
a group in which requests have ended reports again before they are answered, as live
groups do.  While nobody has work no step passes; then a heartbeat publishes what is so,
as the live groups' does.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from balancer.simulation.front_door import EPOCH, NS_PER_S
from balancer.simulation.group import SimulatedGroup
from balancer.simulation.job import Job
from balancer.simulation.settings import Settings
from shm.load import Accepted, LoadReport


@dataclass(slots=True, eq=False)
class Member:
    """A group's place: its present life, and what is on the way to it."""

    dp_rank: int
    epoch: int
    group: SimulatedGroup | None
    """None while it is dead."""
    inbox: list[Job] = field(default_factory=list)
    step_ms: float = 0.0
    """What its step under way adds to the base; 0 if it has nothing to do."""


class Barrier:
    """Steps its members; whoever calls knows the time."""

    def __init__(
        self,
        members: Sequence[Member],
        settings: Settings,
        publish: Callable[[list[LoadReport]], None],
        rng: random.Random,
    ) -> None:
        self.members = members
        self.is_stepping = False
        self._settings = settings
        self._publish = publish
        self._rng = rng
        self._last_ms = 0.0
        self._on_the_way: deque[list[LoadReport]] = deque()

    def begin_step(self, now_s: float) -> tuple[float, list[Job]]:
        """
        Accept, and begin a step if there is anything to do.

        Returns its milliseconds, 0 if there is none, and whom the groups refused.
        """
        refused = self._accept()
        if not self.has_work:
            for member in self.members:
                member.step_ms = 0.0
            self.beat(now_s)
            return 0.0, refused
        step, slowest_ms = self._settings.step, 0.0
        for member in self.members:
            group = member.group
            if group is None:
                continue
            group.begin_step()
            decoded = (
                (group.decoding.kv_tokens, len(group.decoding)) if group.is_decoding else (0, 0)
            )
            member.step_ms = step.group_ms(*decoded, group.step_prefill_tokens)
            slowest_ms = max(slowest_ms, member.step_ms)
        self._sample(now_s)
        self.is_stepping = True
        self._last_ms = step.base_ms + slowest_ms
        return self._last_ms, refused

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return any(member.group is not None and member.group.has_work for member in self.members)

    def beat(self, now_s: float) -> None:
        """Nobody has work: publish all that was sampled, and how it is now."""
        for reports in self._on_the_way:
            self._publish(reports)
        self._on_the_way.clear()
        self._publish(self._reports(self.members, now_s))

    def end_step(self, now_s: float) -> tuple[list[Job], list[Job]]:
        """Return who had a first token with this step, and who ended."""
        first: list[Job] = []
        ended: list[Job] = []
        relieved: list[Member] = []
        for member in self.members:
            if member.group is not None:
                begun, over = member.group.end_step()
                first += begun
                ended += over
                relieved += [member] if over else []
        if relieved and not self._settings.report_delay_steps:
            self._publish(self._reports(relieved, now_s))
        return first, ended

    def _accept(self) -> list[Job]:
        refused = []
        for member in self.members:
            if member.inbox and member.group is not None:
                for job in member.inbox:
                    assert job.assignment is not None
                    if not member.group.accept(job, job.assignment.charge_tokens):
                        refused.append(job)
                member.inbox.clear()
        return refused

    def _sample(self, now_s: float) -> None:
        self._on_the_way.append(self._reports(self.members, now_s))
        if len(self._on_the_way) > self._settings.report_delay_steps:
            self._publish(self._on_the_way.popleft())

    def _reports(self, members: Sequence[Member], now_s: float) -> list[LoadReport]:
        loss, rng = self._settings.report_loss, self._rng
        return [
            self._report(member, member.group, now_s)
            for member in members
            if member.group is not None and (not loss or rng.random() >= loss)
        ]

    def _report(self, member: Member, group: SimulatedGroup, now_s: float) -> LoadReport:
        limits = self._settings.limits
        return LoadReport(
            dp_rank=member.dp_rank,
            group_epoch=member.epoch,
            sampled_ns=round(now_s * NS_PER_S),
            holding_tokens=group.holding_tokens,
            running_requests=group.num_running,
            waiting_requests=group.num_waiting,
            waiting_uncached_tokens=group.uncached_tokens + group.step_prefill_tokens,
            kv_used_tokens=group.kv_tokens - group.step_prefill_tokens,
            kv_capacity_tokens=limits.kv_capacity_tokens,
            max_requests=limits.max_running_requests + limits.max_queued_requests,
            num_steps=group.num_steps,
            step_time_ns=round(self._last_ms * 1e6),
            step_prefill_tokens=group.last_prefill_tokens,
            computing_tokens=group.step_prefill_tokens,
            accepted=(
                Accepted(EPOCH, group.accepted_tokens, group.accepted_requests, *group.ended),
            ),
        )
