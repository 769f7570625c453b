"""
Reads a trace of requests, in whichever of these formats its first line shows it to be.

    Mooncake     JSON lines: timestamp (ms), input_length, output_length, hash_ids
    levelhead    JSON lines, as `levelhead serve --request-log` writes them
    Azure        CSV: TIMESTAMP, ContextTokens, GeneratedTokens
    BurstGPT     CSV: Timestamp (s), Request tokens, Response tokens, ...

Requests without prompt or output failed where the trace was made, and are left out.
Requests need not be in order.  Nothing but lengths, times and digests is read.

A front door that is killed while it appends leaves the beginning of a line in our own log, and
the next line of another door may stand right behind it.  Such beginnings, no whole JSON, are
left out and their number is told.  All else that cannot be read, and any line of another
format, is refused.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from balancer.simulation.traffic import TracedRequest, Traffic
from router.errors import TraceError

_log = logging.getLogger("levelhead.simulate")
_MOONCAKE_PAGE = 512
_OURS_BEGINS = '{"arrival_s":'
_ALLOWED = (
    "allowed are JSON lines with timestamp, input_length and output_length (Mooncake) or "
    "arrival_s, prompt_tokens and output_tokens (levelhead), and CSV with TIMESTAMP, "
    "ContextTokens, GeneratedTokens (Azure) or Timestamp, Request tokens, Response tokens "
    "(BurstGPT)"
)


class _Read(NamedTuple):
    """A request, and the tokens in each of its pages (0: none are named)."""

    request: TracedRequest
    page_size: int = 0


class _NoJson(NamedTuple):
    """A line that is no JSON: why, and whether it may be a torn one of our own log."""

    why: str
    is_torn: bool


_Row = Mapping[str, Any]
_Reader = Callable[[_Row], _Read]


def read_trace(path: Path, tell: Callable[[str], None] = _log.warning) -> Traffic:
    """
    Return the trace's traffic, named after the file.  Raises TraceError: file, line, why.

    `tell` hears what was left out of a log of ours, if anything was.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            read = list(_read(path, lines, tell))
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    requests = sorted((one.request for one in read), key=lambda request: request.arrival_s)
    if not requests:
        raise TraceError(f"{path}: there is no request with a prompt and an output in it")
    return Traffic(path.stem, requests, max(one.page_size for one in read))


def _read(path: Path, lines: Iterator[str], tell: Callable[[str], None]) -> Iterator[_Read]:
    reader, page_size = None, 0
    for number, row in _whole_rows(path, lines, tell):
        reader = reader or _reader(path, number, row)
        try:
            one = reader(row)
        except (KeyError, TypeError, ValueError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise TraceError(f"{path}, line {number}: {why}") from None
        page_size = page_size or one.page_size
        if one.page_size not in (0, page_size):
            raise TraceError(
                f"{path}, line {number}: page_size {one.page_size}, in earlier lines {page_size}"
            )
        if one.request.prompt_tokens and one.request.output_tokens:
            yield one


def _whole_rows(
    path: Path, lines: Iterator[str], tell: Callable[[str], None]
) -> Iterator[tuple[int, _Row]]:
    """Rows, without the torn ones of a log of ours, which its first whole row shows it to be."""
    is_ours, torn = None, []
    for number, row in _rows(path, lines):
        if isinstance(row, _NoJson):
            error = TraceError(f"{path}, line {number}: no JSON: {row.why}")
            if not row.is_torn:
                raise error
            torn.append(error)
        elif is_ours is None:
            is_ours = all(key in row for key in _FORMATS[_levelhead])
        if not isinstance(row, _NoJson):
            yield number, row
    if torn and not is_ours:
        raise torn[0]
    if torn:
        tell(f"{path}: torn lines left out: {len(torn)}")


def _rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, _Row | _NoJson]]:
    """Rows by their keys or columns, with the number of the line each ends on."""
    head = next(lines, "")
    if not head.lstrip().startswith("{"):
        table = csv.DictReader(lines, fieldnames=[name.strip() for name in head.split(",")])
        yield from ((table.line_num + 1, row) for row in table)
        return
    for number, line in enumerate((head, *lines), 1):
        for part in _untangled(line.strip()):
            row = _json(part)
            if not isinstance(row, dict | _NoJson):
                raise TraceError(f"{path}, line {number}: no JSON object")
            yield number, row


def _untangled(line: str) -> tuple[str, ...]:
    """The line, or a torn one of our log and the whole one that was appended to it."""
    whole = line.rfind(_OURS_BEGINS)
    return (line[:whole], line[whole:]) if whole > 0 else (line,) if line else ()


def _json(line: str) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        is_begun = _OURS_BEGINS.startswith(line[: len(_OURS_BEGINS)])
        return _NoJson(str(error), is_torn=is_begun and not line.endswith("}"))


def _reader(path: Path, number: int, row: _Row) -> _Reader:
    for reader, keys in _FORMATS.items():
        if all(key in row for key in keys):
            return reader
    names = ", ".join(str(key) for key in row)
    raise TraceError(f"{path}, line {number}: there are {names[:200]}; {_ALLOWED}")


def _mooncake(row: _Row) -> _Read:
    prompt_tokens = _count(row, "input_length")
    pages = _digests(row, "hash_ids")[: prompt_tokens // _MOONCAKE_PAGE]
    at_s = _seconds(row["timestamp"]) / 1e3
    request = TracedRequest(at_s, prompt_tokens, _count(row, "output_length"), pages)
    return _Read(request, _MOONCAKE_PAGE if pages else 0)


def _levelhead(row: _Row) -> _Read:
    pages = _digests(row, "page_digests")
    lengths = _count(row, "prompt_tokens"), _count(row, "output_tokens")
    request = TracedRequest(_seconds(row["arrival_s"]), *lengths, pages)
    page_size = _count(row, "page_size") if pages else 0
    if len(pages) * page_size > request.prompt_tokens or (pages and not page_size):
        raise ValueError(f"{len(pages)} pages of {page_size} tokens do not fit into the prompt")
    return _Read(request, page_size)


def _azure(row: _Row) -> _Read:
    at = datetime.fromisoformat(row["TIMESTAMP"])
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    lengths = _count(row, "ContextTokens"), _count(row, "GeneratedTokens")
    return _Read(TracedRequest(at.timestamp(), *lengths))


def _burstgpt(row: _Row) -> _Read:
    lengths = _count(row, "Request tokens"), _count(row, "Response tokens")
    return _Read(TracedRequest(_seconds(row["Timestamp"]), *lengths))


_FORMATS: dict[_Reader, tuple[str, ...]] = {
    _mooncake: ("timestamp", "input_length", "output_length"),
    _levelhead: ("arrival_s", "prompt_tokens", "output_tokens"),
    _azure: ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    _burstgpt: ("Timestamp", "Request tokens", "Response tokens"),
}


def _count(row: _Row, key: str) -> int:
    value = row[key]
    number = int(value) if isinstance(value, str) else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"{key} is {value!r}: allowed are integers, 0 or more")
    return number


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not abs(seconds) < 1e15:
        raise ValueError(f"{value!r} is no time")
    return seconds


def _digests(row: _Row, key: str) -> tuple[int, ...]:
    pages = row.get(key) or []
    if not isinstance(pages, list) or not all(type(page) is int for page in pages):
        raise ValueError(f"{key} is no list of integers")
    return tuple(pages)
