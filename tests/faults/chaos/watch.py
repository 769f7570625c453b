"""
The watch: what became of the instance's processes and groups, and when.

A thread that looks twenty times a second, so that times are known to 0.05 s on a machine that
has breath left.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from shm.errors import TornRead
from shm.group_table import GroupEntry, GroupState, GroupTableReader
from tests.faults.chaos.judgement import Doors
from tests.faults.chaos.plan import Target
from tests.faults.chaos.processes import Process, children_of, num_listening

PERIOD_S = 0.05


class Term(NamedTuple):
    """A publisher's time."""

    term: int
    dp_rank: int
    epoch: int


class Seen(NamedTuple):
    """An entry of the group table, and when it was first seen so."""

    at_s: float
    entry: GroupEntry


class Watch:
    """Notes changes until it is closed."""

    def __init__(
        self, instance: str, root_pid: int, port: int, run_dir: Path, clock_s: Callable[[], float]
    ) -> None:
        self._root_pid, self._port, self._run_dir = root_pid, port, run_dir
        self._clock_s = clock_s
        self._table = GroupTableReader.attach(instance)
        self.deaths_s: list[float] = []
        """Of front doors."""
        self.closed_s: list[tuple[float, float]] = []
        """Spans in which nobody listened on the port."""
        self.groups: list[Seen] = []
        self.terms: list[tuple[float, Term]] = []
        self.ever: set[Process] = set()
        """Every child that there ever was."""
        self._doors: set[Process] = set()
        self._entries: dict[int, GroupEntry] = {}
        self._stop = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._run, name="watch")
        self._thread.start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._table.close()

    @property
    def doors(self) -> Doors:
        """What the judgement needs of it."""
        return Doors(tuple(self.deaths_s), tuple(self.closed_s))

    def entries(self) -> dict[int, GroupEntry]:
        """The table as last seen, by dp_rank."""
        return dict(self._entries)

    def children(self) -> list[Process]:
        """The root's children now."""
        return children_of(self._root_pid)

    def term(self) -> Term | None:
        """Who publishes, as publisher.json says now."""
        try:
            told = json.loads((self._run_dir / "publisher.json").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return Term(told["term"], told["dp_rank"], told["epoch"])

    def first_s(self, since_s: float, is_it: Callable[[GroupEntry], bool]) -> float | None:
        """When an entry was first so, not before since_s."""
        return next((s.at_s for s in self.groups if s.at_s >= since_s and is_it(s.entry)), None)

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._look()

    def _look(self) -> None:
        children = self.children()
        now_s = self._clock_s()  # after what was seen: never before what caused it
        self.ever.update(children)
        doors = {child for child in children if child.target is Target.FRONT_DOOR}
        self.deaths_s += [now_s for _ in self._doors - doors]
        self._doors = doors
        if num_listening(self._port) == 0:
            self._note_closed(now_s)
        self._look_at_table()
        term = self.term()
        if term is not None and (not self.terms or self.terms[-1][1] != term):
            self.terms.append((self._clock_s(), term))

    def _note_closed(self, now_s: float) -> None:
        if self.closed_s and now_s - self.closed_s[-1][1] < 4 * PERIOD_S:
            self.closed_s[-1] = (self.closed_s[-1][0], now_s)
        else:
            self.closed_s.append((now_s, now_s))

    def _look_at_table(self) -> None:
        try:
            table = self._table.snapshot()
        except TornRead:
            return
        now_s = self._clock_s()
        for entry in table.groups if table else ():
            known = self._entries.get(entry.dp_rank)
            if known is None or (known.state, known.epoch) != (entry.state, entry.epoch):
                self.groups.append(Seen(now_s, entry))
            self._entries[entry.dp_rank] = entry


def is_ready(entry: GroupEntry) -> bool:
    """Whether the table says so."""
    return entry.state is GroupState.READY
