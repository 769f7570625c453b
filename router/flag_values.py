"""Types of flags for argparse, which say what is allowed when they refuse."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

_INSTANCE = re.compile(r"[A-Za-z0-9_.]{1,40}")
_INTEGER = re.compile(r"-?[0-9]+")
_MAX_SECONDS = 86_400


def integer(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """An integer within these bounds."""
    bounds = f"{lowest} or more" if highest is None else f"{lowest} to {highest}"

    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text) or not _within(int(text), lowest, highest):
            raise argparse.ArgumentTypeError(f"{text!r}: allowed are integers, {bounds}")
        return int(text)

    return parse


def seconds(lowest: float) -> Callable[[str], float]:
    """Seconds, from that to a day."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not lowest <= value <= _MAX_SECONDS:
            raise argparse.ArgumentTypeError(
                f"{text!r}: allowed are seconds, {lowest:g} to {_MAX_SECONDS}"
            )
        return value

    return parse


def checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """The text itself, which other processes parse again, if it can be parsed."""

    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return check


def instance(text: str) -> str:
    """The name of an instance."""
    if not _INSTANCE.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: allowed are 1 to 40 letters, digits, '_' and '.'"
        )
    return text


def _within(value: int, lowest: int, highest: int | None) -> bool:
    return lowest <= value and (highest is None or value <= highest)
