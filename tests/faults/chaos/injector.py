"""
Carries the plan out: chooses a process, makes sure that the instance survives, and strikes.

A fault is held back while it would take the last ready group or the last front door, so that
errors stay explainable; after HELD_BACK_S it strikes the control plane instead.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection
from typing import NamedTuple

import httpx

from tests.faults.chaos.plan import Act, Fault, Target
from tests.faults.chaos.processes import Process, is_running, is_stopped
from tests.faults.chaos.watch import Watch, is_ready

HELD_BACK_S = 15.0
_YOUNG_S = 2.0
_LOOK_PERIOD_S = 0.1


class Struck(NamedTuple):
    """A fault that was done."""

    at_s: float
    act: Act
    process: Process
    epoch: int
    """Of the group, when it was struck."""
    was_ready: bool
    was_publisher: bool


class Standing(NamedTuple):
    """Who is fit to serve."""

    doors: frozenset[Process]
    leaders: frozenset[Process]

    def survives(self, struck: Collection[Process]) -> bool:
        """Whether somebody fit is left on both sides."""
        return bool(self.doors - set(struck)) and bool(self.leaders - set(struck))


class Injector:
    """Strikes, and remembers it."""

    def __init__(self, watch: Watch, url: str, clock_s: Callable[[], float]) -> None:
        self._watch, self._url, self._clock_s = watch, url, clock_s
        self._born_s: dict[Process, float] = {}
        self._resuming: set[asyncio.Task[None]] = set()
        self.struck: list[Struck] = []
        self.counts: Counter[str] = Counter()

    @property
    def kills(self) -> int:
        """SIGKILLs sent to running processes."""
        return self.counts["kill"]

    async def run(self, plan: list[Fault], seconds: float) -> None:
        """Spread the plan over that time."""
        until_s = self._clock_s() + seconds
        for number, fault in enumerate(plan):
            if not fault.at_once:
                left_s = max(0.0, until_s - self._clock_s())
                await asyncio.sleep(left_s / (len(plan) - number))
            await self._strike(fault)
        await asyncio.gather(*self._resuming)

    def continue_all(self) -> None:
        """Whoever is stopped goes on."""
        for child in self._watch.children():
            child.signal(signal.SIGCONT)

    async def _strike(self, fault: Fault) -> None:
        until_s = self._clock_s() + HELD_BACK_S
        while (process := self._choose(fault)) is None:
            if self._clock_s() > until_s:
                self.counts["held back"] += 1
                fault = fault._replace(target=Target.CONTROL_PLANE)
                if fault.act in (Act.DRAIN_BY_POST, Act.DRAIN_BY_SIGNAL):
                    return
                until_s = self._clock_s() + HELD_BACK_S
            await asyncio.sleep(_LOOK_PERIOD_S)
        self._note(fault.act, process)
        if fault.act is Act.KILL:
            self._kill(process)
        elif fault.act is Act.STOP:
            self._stop(process, fault)
        elif fault.act is Act.DRAIN_BY_SIGNAL:
            process.signal(signal.SIGTERM)
            self.counts["drains"] += 1
        else:
            await self._drain(process)

    def _choose(self, fault: Fault) -> Process | None:
        """A running process of that kind whose loss the instance survives."""
        children, term = self._watch.children(), self._watch.term()
        found = [child for child in children if self._is_meant(child, fault.target, term)]
        found = [child for child in found if not is_stopped(child)]
        standing = self._standing(children)
        if fault.target is not Target.CONTROL_PLANE:
            found = [child for child in found if standing.survives([child])]
        return found[int(fault.pick * len(found))] if found else None

    @staticmethod
    def _is_meant(child: Process, target: Target, term: object) -> bool:
        if target is Target.PUBLISHER:
            publishes = term is not None and child.number == getattr(term, "dp_rank", None)
            return child.target is Target.LEADER and publishes
        return child.target is target

    def _standing(self, children: list[Process]) -> Standing:
        now_s, entries = self._clock_s(), self._watch.entries()
        for child in children:
            self._born_s.setdefault(child, now_s if self.struck else now_s - _YOUNG_S)
        fit = [child for child in children if not is_stopped(child)]
        doors = [c for c in fit if c.target is Target.FRONT_DOOR]
        leaders = [c for c in fit if c.target is Target.LEADER and c.number in entries]
        return Standing(
            frozenset(door for door in doors if now_s - self._born_s[door] >= _YOUNG_S),
            frozenset(leader for leader in leaders if is_ready(entries[leader.number])),
        )

    def _note(self, act: Act, process: Process) -> None:
        entry, term = self._watch.entries().get(process.number), self._watch.term()
        is_leader = process.target is Target.LEADER
        epoch = entry.epoch if is_leader and entry else 0
        publishes = is_leader and term is not None and term.dp_rank == process.number
        now_s = self._clock_s()
        was_ready = is_leader and entry is not None and is_ready(entry)
        self.struck.append(Struck(now_s, act, process, epoch, was_ready, publishes))
        self._say(f"{act} {process.name}{' (publisher)' if publishes else ''}")

    def _kill(self, process: Process) -> None:
        if process.target is Target.FRONT_DOOR:
            self._watch.deaths_s.append(self._clock_s())
        self.counts["kill"] += is_running(process) and process.signal(signal.SIGKILL)

    def _stop(self, process: Process, fault: Fault) -> None:
        process.signal(signal.SIGSTOP)
        self.counts["stops"] += 1
        task = asyncio.create_task(self._after_stop(process, fault))
        self._resuming.add(task)
        task.add_done_callback(self._resuming.discard)

    async def _after_stop(self, process: Process, fault: Fault) -> None:
        await asyncio.sleep(fault.hold_s)
        if not is_running(process):
            self.counts["killed while stopped"] += 1
        elif fault.then_kill:
            self._note(Act.KILL, process)
            self._kill(process)
        else:
            self._say(f"continue {process.name} after {fault.hold_s:.1f} s")
            process.signal(signal.SIGCONT)

    async def _drain(self, process: Process) -> None:
        url = f"{self._url}/admin/groups/{process.number}/drain"
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.post(url, timeout=10)
        except httpx.HTTPError as error:
            self._say(f"drain {process.number} by post: {type(error).__name__} {error}")
            return
        self._say(f"drain {process.number} by post: {answer.status_code} {answer.text[:120]}")
        self.counts["drains"] += answer.status_code == httpx.codes.ACCEPTED

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{self._clock_s():7.2f} s  {text}\n")
        sys.stderr.flush()
