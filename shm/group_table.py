"""
The group table: who is a DP group, where, and in which state and epoch.

Written by the control plane alone, as JSON in a double-buffered segment: it
changes when a group comes or goes, not when a request does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum

import orjson

from shm import double_buffer, segment
from shm.errors import InvalidRecord
from shm.names import Kind, segment_name
from shm.segment import Segment

_BYTES_PER_GROUP = 2304  # names of models, and four long places


class GroupState(StrEnum):
    """What may be done with a group."""

    STARTING = "starting"
    """Not yet heard of: no candidate."""
    READY = "ready"
    """A candidate."""
    SUSPECT = "suspect"
    """Its figures are old and it does not answer: a candidate only if no ready group is."""
    DRAINING = "draining"
    """Finishes what it has: no candidate."""
    RELEASED = "released"
    """Has given its memory back until it is told to take it again: no candidate."""
    DEAD = "dead"
    """Was ready and does not answer: no candidate."""


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """One DP group."""

    dp_rank: int
    state: GroupState
    epoch: int = 0
    """Incarnation of the group, from its own card; 0 while unknown."""
    host: str = ""
    port: int = 0
    model: str = ""
    """Name under which it is served."""
    max_model_len: int = 0
    tokenizer_dir: str | None = None
    """Folder with tokenizer.json and chat.json; None if its tokenizer is not known."""
    page_size: int = 0
    """Tokens in a page of its prefix cache; 0 if not known."""
    engine: str = ""
    """Kind of an engine that is not ours; empty: a worker of ours."""
    engine_rank: int | None = None
    """Its DP rank in that engine; None if the engine is one group."""
    models: tuple[str, ...] = ()
    """Names that it serves, and no others; none: not known, or `model` alone."""
    load_factor: float = 1.0
    """What each token and request there counts, so that stronger groups get more: 1 or more."""
    tls: str = ""
    """How a backend's certificate is verified: see router.backends.tls; empty: plain HTTP."""
    kv_events: str = ""
    """ZeroMQ endpoint at which it publishes what it caches; empty: it does not, or is ours."""
    kv_replay: str = ""
    """That at which it repeats what it published; empty: it does not."""
    ready_since_ns: int = field(default=0, compare=False)
    """
    When it began to serve, on the host's monotonic clock: a suspect time does not end that.

    Whoever publishes the table knows it, and it changes with the state alone.
    """

    @property
    def is_backend(self) -> bool:
        """Whether it is somebody else's engine, or a rank of one: it knows nothing of charges."""
        return bool(self.engine)


@dataclass(frozen=True, slots=True)
class GroupTable:
    """A consistent copy of the table."""

    sequence: int
    groups: tuple[GroupEntry, ...]


def create(instance: str, max_groups: int, epoch: int) -> Segment:
    """Make instance's table; the caller owns it and unlinks it."""
    size = double_buffer.payload_bytes(max_groups * _BYTES_PER_GROUP)
    return segment.create(segment_name(instance, Kind.TABLE), Kind.TABLE, size, epoch)


class GroupTableWriter:
    """The control plane's side."""

    def __init__(self, table_segment: Segment) -> None:
        self._segment = table_segment
        self._buffer = double_buffer.DoubleBufferWriter(table_segment)

    @classmethod
    def attach(cls, instance: str) -> GroupTableWriter:
        """Open instance's table to write; raises as shm.segment.attach does."""
        name = segment_name(instance, Kind.TABLE)
        return cls(segment.attach(name, Kind.TABLE, writable=True))

    def publish(self, groups: Iterable[GroupEntry], published_ns: int) -> None:
        """Replace the table.  Raises PayloadTooLarge before anything is written."""
        self._buffer.publish(orjson.dumps([asdict(group) for group in groups]), published_ns)

    def close(self) -> None:
        """Unmap the segment."""
        self._segment.close()


class GroupTableReader:
    """A reader's side."""

    def __init__(self, table_segment: Segment) -> None:
        self._segment = table_segment
        self._buffer = double_buffer.DoubleBufferReader(table_segment)

    @classmethod
    def attach(cls, instance: str) -> GroupTableReader:
        """Open instance's table to read; raises as shm.segment.attach does."""
        return cls(segment.attach(segment_name(instance, Kind.TABLE), Kind.TABLE))

    @property
    def current_sequence(self) -> int:
        """Sequence of the current table, one load; 0 before the first."""
        return self._buffer.current_sequence

    def snapshot(self) -> GroupTable | None:
        """Copy the table; None if nothing was published yet.  Raises TornRead."""
        record = self._buffer.snapshot()
        if record is None:
            return None
        return GroupTable(record.sequence, _entries(record.body))

    def close(self) -> None:
        """Unmap the segment."""
        self._segment.close()


def _entries(body: bytes) -> tuple[GroupEntry, ...]:
    try:
        rows = orjson.loads(body)
        return tuple(
            GroupEntry(**row | {"state": GroupState(row["state"]), "models": tuple(row["models"])})
            for row in rows
        )
    except (orjson.JSONDecodeError, TypeError, KeyError, ValueError) as error:
        raise InvalidRecord(f"group table of {len(body)} bytes is not one: {error}") from error
