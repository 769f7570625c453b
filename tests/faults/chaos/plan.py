"""The plan: which faults, in which order, out of a seed.  When and on whom the run decides."""

from __future__ import annotations

import random
from enum import StrEnum
from typing import NamedTuple

_KILLS_PER_S = 0.19
_FEWEST_KILLS = 6
_STOPS_PER_KILL = 0.4
_DRAINS_PER_KILL = 0.12
_SHORTEST_STOP_S, _LONGEST_STOP_S = 0.5, 8.0
_TOGETHER_SHARE = 0.15
_KILL_WHILE_STOPPED_SHARE = 0.2


class Act(StrEnum):
    """What is done."""

    KILL = "kill"
    STOP = "stop"
    DRAIN_BY_POST = "drain by post"
    DRAIN_BY_SIGNAL = "drain by signal"


class Target(StrEnum):
    """To whom."""

    FRONT_DOOR = "front door"
    LEADER = "leader"
    PUBLISHER = "publisher"
    CONTROL_PLANE = "control plane"


_KILLED = (
    Target.FRONT_DOOR,
    Target.LEADER,
    Target.PUBLISHER,
    Target.CONTROL_PLANE,
    Target.LEADER,
    Target.FRONT_DOOR,
)
_STOPPED = (Target.PUBLISHER, Target.FRONT_DOOR, Target.LEADER, Target.CONTROL_PLANE)


class Fault(NamedTuple):
    """One step of the plan."""

    act: Act
    target: Target
    pick: float
    """Chooses among the processes of that kind that there are then: 0 to 1."""
    hold_s: float = 0.0
    """How long a stopped process stays stopped."""
    then_kill: bool = False
    """A stopped process is killed and not continued."""
    at_once: bool = False
    """Together with the one before."""


def num_kills(seconds: float) -> int:
    """SIGKILLs in a plan of that length."""
    return max(_FEWEST_KILLS, round(seconds * _KILLS_PER_S))


def make_plan(seed: int, seconds: float) -> list[Fault]:
    """A plan of num_kills(seconds) kills, with stops and drains between them."""
    rng, kills = random.Random(f"plan {seed}"), num_kills(seconds)
    num_stops = max(2, round(kills * _STOPS_PER_KILL))
    num_drains = max(1, round(kills * _DRAINS_PER_KILL))
    stops = [_stop(rng, number) for number in range(num_stops)]
    kills -= sum(stop.then_kill for stop in stops)
    faults = [
        Fault(Act.KILL, _KILLED[number % len(_KILLED)], rng.random()) for number in range(kills)
    ]
    drains = [
        Fault((Act.DRAIN_BY_POST, Act.DRAIN_BY_SIGNAL)[n % 2], Target.LEADER, rng.random())
        for n in range(num_drains)
    ]
    plan = faults + stops + drains
    rng.shuffle(plan)
    return [
        fault._replace(at_once=rng.random() < _TOGETHER_SHARE and number > 0)
        for number, fault in enumerate(plan)
    ]


def _stop(rng: random.Random, number: int) -> Fault:
    hold_s = rng.uniform(_SHORTEST_STOP_S, _LONGEST_STOP_S)
    then_kill = rng.random() < _KILL_WHILE_STOPPED_SHARE
    target = _STOPPED[number % len(_STOPPED)]
    return Fault(Act.STOP, target, rng.random(), hold_s, then_kill)
