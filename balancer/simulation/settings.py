"""What is simulated: engines, reports, faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from balancer.simulation.group import GroupLimits
from balancer.simulation.step_time import StepTime
from balancer.waiting_room import WaitingRules


class Mode(Enum):
    """What the groups do."""

    DECODE = "decode"
    """A decode pool: prompts arrive with their KV."""
    UNIFIED = "unified"
    """Prompts are computed by the group that decodes."""


class Prefill(Enum):
    """What a step does that computes prompts."""

    MIXED = "mixed"
    """It decodes too, as vLLM's and the built-in workers' do."""
    FIRST = "first"
    """It does nothing else, as SGLang's unless told otherwise."""


class Pace(Enum):
    """Who waits for whom."""

    LOCKSTEP = "lockstep"
    """Attention is data-parallel: each step of all groups ends with the slowest one's."""
    INDEPENDENT = "independent"


@dataclass(frozen=True, slots=True)
class Death:
    """A group dies, is noticed, and is back."""

    at_s: float
    dp_rank: int
    noticed_after_s: float = 0.1
    """When the group table tells."""
    back_after_s: float = 10.0
    """When its next life is ready: not before it was noticed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything but traffic, method and seed."""

    num_groups: int
    mode: Mode = Mode.DECODE
    prefill: Prefill = Prefill.MIXED
    pace: Pace = Pace.LOCKSTEP
    limits: GroupLimits = field(default_factory=GroupLimits)
    step: StepTime = field(default_factory=StepTime)
    report_delay_steps: int = 1
    """A report sampled when a step begins is seen from so many steps later on."""
    report_loss: float = 0.0
    """Chance of each report to be lost."""
    max_load_age_s: float = 2.0
    deaths: tuple[Death, ...] = ()
    waiting: WaitingRules = field(default_factory=WaitingRules)
    """Of the front door, which has room for any number that waits."""
