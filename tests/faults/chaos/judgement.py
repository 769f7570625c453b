"""
What became of a request: the judgement of a chaos run, and nothing else.

* completed  the whole of the expected text, in an answer that ended as answers end
* errored    one clear error: a status with OpenAI's error body, a stream whose last event is
             an error, or a connection that broke because its front door was killed just then
* abandoned  the client left on purpose, and what it had read until then was right
* hung       nothing came for longer than a client should wait
* lost       everything else: a stream cut without a word, a repeated or a missing token, two
             errors, an answer that cannot be read, a status that a right request must not get
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from tests.faults.chaos.reading import End, Reading

# Between a death and the moment at which a client on a busy machine sees its connection break.
EXPLAINED_BEFORE_S = 0.3
EXPLAINED_AFTER_S = 2.0
HONEST_STATUSES = (500, 502, 503, 504)


class Outcome(StrEnum):
    """What became of a request."""

    COMPLETED = "completed"
    ERRORED = "errored"
    ABANDONED = "abandoned"
    LOST = "lost"
    HUNG = "hung"


class Verdict(NamedTuple):
    """An outcome and why."""

    outcome: Outcome
    why: str


class Doors(NamedTuple):
    """When front doors died, and spans (begin, end) in which none listened."""

    deaths_s: Sequence[float] = ()
    closed_s: Sequence[tuple[float, float]] = ()


def judge(seen: Reading, expected: str, doors: Doors) -> Verdict:
    """Judge a reading against the text that a quiet instance gave."""
    if seen.end is End.SILENT:
        return Verdict(Outcome.HUNG, f"silent; status {seen.status}, {seen.events} events")
    if wrong := _wrong(seen, expected):
        return Verdict(Outcome.LOST, wrong)
    if seen.end is End.LEFT:
        return Verdict(Outcome.ABANDONED, "left")
    if seen.end is End.WHOLE:
        return _whole(seen, expected)
    if _is_explained(seen, doors):
        return Verdict(Outcome.ERRORED, f"{seen.end}: a front door was killed")
    return Verdict(Outcome.LOST, f"{seen.end} after {seen.events} events, and no front door died")


def _wrong(seen: Reading, expected: str) -> str | None:
    """What no fault excuses."""
    if seen.malformed:
        return f"unreadable: {seen.malformed[0][:200]!r}"
    if seen.end is End.NOT_HTTP:
        return "not HTTP"
    if not expected.startswith(seen.text):
        return f"wrong text: {seen.text[-80:]!r} at {len(seen.text)} of {len(expected)}"
    if seen.num_errors > 1:
        return f"{seen.num_errors} errors"
    if seen.after_error:
        return "a chunk after the error"
    return None


def _whole(seen: Reading, expected: str) -> Verdict:
    if seen.num_errors:
        if seen.status in (200, *HONEST_STATUSES) and (seen.status != 200 or seen.is_stream):
            return Verdict(Outcome.ERRORED, f"{seen.status} {seen.error[:160]}")
        return Verdict(Outcome.LOST, f"status {seen.status}: {seen.error[:200]}")
    if seen.status != 200:
        return Verdict(Outcome.LOST, f"status {seen.status} without an error body")
    if seen.is_stream and not seen.is_done:
        return Verdict(Outcome.LOST, f"no [DONE], no error, {seen.events} events")
    if seen.text != expected:
        return Verdict(Outcome.LOST, f"short text: {len(seen.text)} of {len(expected)}")
    if seen.finish_reason != "length":
        return Verdict(Outcome.LOST, f"finish_reason {seen.finish_reason}")
    return Verdict(Outcome.COMPLETED, "whole")


def _is_explained(seen: Reading, doors: Doors) -> bool:
    """Whether a front door died just when the connection broke, or none was there to take it."""
    broke_s = seen.ended_s
    died = any(
        -EXPLAINED_BEFORE_S <= broke_s - death_s <= EXPLAINED_AFTER_S for death_s in doors.deaths_s
    )
    closed = any(
        begin_s - EXPLAINED_BEFORE_S <= broke_s <= end_s + EXPLAINED_BEFORE_S
        for begin_s, end_s in doors.closed_s
    )
    return died or (seen.end is End.REFUSED and closed)
