"""Types of the flags of `levelhead simulate`, which say what is allowed when they refuse."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from balancer.methods import METHODS
from balancer.simulation.settings import Death
from balancer.simulation.step_time import StepTime

ALL = "all"
STEP = ",".join(f"{value:g}" for value in StepTime())
_DEATH = re.compile(r"(\d+)@(\d+(?:\.\d+)?)(?:\+(\d+(?:\.\d+)?))?")
_T = TypeVar("_T")
_E = TypeVar("_E", bound=Enum)


def listed(parse: Callable[[str], _T]) -> Callable[[str], tuple[_T, ...]]:
    """Values between commas, each once."""
    return lambda text: tuple(dict.fromkeys(parse(part.strip()) for part in text.split(",")))


def number(lowest: float, highest: float) -> Callable[[str], float]:
    """A number within these bounds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not lowest <= value <= highest:
            bounds = f"{lowest:g} to {highest:g}"
            raise argparse.ArgumentTypeError(f"{text!r}: allowed are numbers, {bounds}")
        return value

    return parse


def member(kind: type[_E]) -> Callable[[str], _E]:
    """One of an enumeration, by its value."""

    def parse(text: str) -> _E:
        by_value = {one.value: one for one in kind}
        if text not in by_value:
            raise argparse.ArgumentTypeError(f"{text!r}: allowed are {', '.join(by_value)}")
        return by_value[text]

    return parse


def methods(text: str) -> tuple[str, ...]:
    """Names of methods, or all."""
    return tuple(METHODS) if text == ALL else listed(_method)(text)


def _method(text: str) -> str:
    if text not in METHODS:
        allowed = ", ".join((ALL, *METHODS))
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are {allowed}")
    return text


def step_time(text: str) -> StepTime:
    """Four costs in milliseconds; the first is more than 0."""
    parts = text.split(",")
    if len(parts) != len(StepTime._fields):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are four numbers, as in {STEP}")
    lowest = (1e-3, 0.0, 0.0, 0.0)
    return StepTime._make(number(low, 1e6)(part) for low, part in zip(lowest, parts, strict=True))


def death(text: str) -> Death:
    """A group's number, when it dies, and after how many seconds it is back."""
    found = _DEATH.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{text!r}: allowed is RANK@SECONDS or RANK@SECONDS+SECONDS"
        )
    dp_rank, at_s, back_after_s = found.groups()
    later = {} if back_after_s is None else {"back_after_s": float(back_after_s)}
    return Death(float(at_s), int(dp_rank), **later)
