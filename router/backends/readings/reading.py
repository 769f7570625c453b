"""What an engine says of one of its DP ranks, and what may be wrong with that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from router.errors import RouterError

READ_PERIOD_S = 0.5
"""From one question to the next."""
LEAST_LOAD_AGE_S = 2 * READ_PERIOD_S
"""What is told has to live for a period and an answer."""
_MAX_COUNT = 1 << 48  # no engine has more, and a sum of many still fits 64 bits

Answers = Mapping[str, bytes | None]
"""Bodies of an engine's good answers, by path; None where there was none."""


class Condition(StrEnum):
    """Why a reading is not used."""

    MISSING = "missing"
    """It is not told: no answer, no such endpoint, no such figure."""
    MALFORMED = "malformed"
    """It is told in a form that is not known, or cannot be."""
    ALWAYS_ZERO = "always_zero"
    """It says that nothing is held while requests of ours are."""
    FROZEN = "frozen"
    """It does not change while requests of ours come and go."""


class Reading(NamedTuple):
    """One DP rank at some instant before it was asked, shortly unless it tells an age."""

    running_requests: int
    waiting_requests: int
    held_tokens: int
    """At least so many: KV of running requests, and prompts of waiting ones where they are told."""
    kv_used_tokens: int
    kv_capacity_tokens: int
    age_ns: int = 0
    """Of the figures when they were told, by the engine's own clock; 0 where that is not told."""

    @property
    def requests(self) -> int:
        """Running and waiting."""
        return self.running_requests + self.waiting_requests

    @property
    def is_zero(self) -> bool:
        """Whether it says that there is nothing."""
        return not (self.requests or self.held_tokens)


class ReadingError(RouterError):
    """There is no reading that could be used."""

    def __init__(self, condition: Condition, message: str) -> None:
        super().__init__(message)
        self.condition = condition


def missing(what: str) -> ReadingError:
    """It tells no such thing."""
    return ReadingError(Condition.MISSING, what)


def malformed(what: str) -> ReadingError:
    """It tells something else than is known."""
    return ReadingError(Condition.MALFORMED, what)


def count_of(fields: Mapping[str, Any], name: str) -> int:
    """A figure of that name: zero, or what an engine can have.  Raises ReadingError."""
    value = fields.get(name)
    if value is None:
        raise missing(f"it tells no {name}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise malformed(f"{name} is {value!r}")
    if not 0 <= value <= _MAX_COUNT:  # nan is not, too
        raise malformed(f"{name} is {value!r}")
    return round(value)


def combined(readings: Iterable[Reading]) -> Reading:
    """Of several ranks together: sums, and the age of the oldest."""
    each = list(readings)
    sums = Reading(*(sum(column) for column in zip(*each, strict=True)))
    return sums._replace(age_ns=max(one.age_ns for one in each))


def checked(reading: Reading) -> Reading:
    """The same, if each figure of it can be.  Raises ReadingError."""
    if not all(0 <= figure <= _MAX_COUNT for figure in reading):
        raise malformed(f"{reading}")
    return reading
