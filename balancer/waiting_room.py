"""
The waiting room: requests that have come to a front door and gone to no group yet.

    enter ──► held ──released together──► in line ──placed──► gone
                └──────────leave────────────┴─────────────────► gone

Nothing is charged for who waits, so leaving costs nothing.  Pure: it is told the
time and asks `place` whether a group has room; what that returns, it hands back.

Order in line.  The highest priority that waits goes first, and beside it whoever has waited for
`max_overtaken_s`, whatever the priority.  Among these keys take turns, by prompt
tokens (start-time fair queueing: a key's tag is what it has been given, an own one
of virtual time where it comes anew, and the least tag goes first); within a key the
first that came.  Virtual time passes with what goes, divided among the keys that
wait, so no key is overtaken for ever by keys that have just come.

If the first has no room, of the oldest WINDOW the largest that has goes instead:
until the first has waited for `max_overtaken_s`, then all wait for it.  One that
asks for a certain group keeps nobody but those that ask for the same, and one that nobody who is
there could take (`is_away`) keeps nobody: no room would be of use to it.

Held are requests whose prompts should be computed in all groups at once, because
groups in lock step wait for whoever computes one.  They are released together, the longest
first, when there is one for each group, the oldest has been held for
`max_hold_s`, or no group has anything to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from balancer.load import RequestShape

WINDOW = 16
_NS_PER_S = 1_000_000_000
_Owner = TypeVar("_Owner")
_Result = TypeVar("_Result")


class Admission(Enum):
    """When a request is sent to a group."""

    IMMEDIATE = "immediate"
    LATE = "late"
    """As soon as a group has room."""


class PrefillAlign(Enum):
    """Whether prompts wait for each other."""

    OFF = "off"
    HOLD = "hold"


class WaitingRules(NamedTuple):
    """Who waits, how many, and for how long."""

    admission: Admission = Admission.IMMEDIATE
    prefill_align: PrefillAlign = PrefillAlign.OFF
    max_hold_s: float = 0.2
    max_waiting_requests: int = 1024
    max_overtaken_s: float = 5.0

    @property
    def can_wait(self) -> bool:
        """Whether anybody may have to."""
        return self.admission is Admission.LATE or self.prefill_align is PrefillAlign.HOLD


@dataclass(slots=True, eq=False)
class Waiter(Generic[_Owner]):
    """One request that waits; what it wants."""

    owner: _Owner
    request: RequestShape
    arrived_ns: int
    key: int = 0
    """Who asks: turns are taken by key."""
    priority: int = 0


_Line = dict[Waiter[_Owner], None]  # ordered by when they came to it


@dataclass(slots=True)
class _Share:
    """What a key has been given, and how many of its requests are in line."""

    tag: float
    num_waiting: int = 0


class _Passed(Generic[_Owner]):
    """Those who could not use any room that there is: they are passed over in one dispatch."""

    def __init__(self, is_away: Callable[[Waiter[_Owner]], bool]) -> None:
        self.full: set[int] = set()
        """Groups that were asked for, and have no room."""
        self._is_away = is_away
        self._known: dict[Waiter[_Owner], bool] = {}

    def __contains__(self, waiter: Waiter[_Owner]) -> bool:
        if waiter.request.dp_rank in self.full:
            return True
        if waiter not in self._known:
            self._known[waiter] = self._is_away(waiter)
        return self._known[waiter]


class WaitingRoom(Generic[_Owner]):
    """Belongs to one front door."""

    def __init__(self, rules: WaitingRules, num_groups: int) -> None:
        self.rules = rules
        self._num_groups = num_groups
        self._max_hold_ns = round(rules.max_hold_s * _NS_PER_S)
        self._max_overtaken_ns = round(rules.max_overtaken_s * _NS_PER_S)
        self._held: _Line[_Owner] = {}
        self._in_line: _Line[_Owner] = {}
        self._lines: dict[tuple[int, int], _Line[_Owner]] = {}
        """Those in line by key and priority."""
        self._shares: dict[int, _Share] = {}
        """Of the keys that have somebody in line."""
        self._virtual = 0.0

    def __len__(self) -> int:
        return len(self._held) + len(self._in_line)

    def __contains__(self, waiter: Waiter[_Owner]) -> bool:
        return waiter in self._held or waiter in self._in_line

    def enter(self, waiter: Waiter[_Owner]) -> None:
        """It waits; dispatch says whether it has to.  Those that come later are not older."""
        if self.rules.prefill_align is PrefillAlign.HOLD:
            self._held[waiter] = None
        else:
            self._join(waiter)

    def turn_away(self, waiter: Waiter[_Owner]) -> bool:
        """Whether it waits beyond the bound; then it waits no more."""
        if waiter not in self or len(self) <= self.rules.max_waiting_requests:
            return False
        self.leave(waiter)
        return True

    def leave(self, waiter: Waiter[_Owner]) -> None:
        """It is given up; one that does not wait is ignored."""
        if waiter in self._held:
            del self._held[waiter]
        elif waiter in self._in_line:
            self._remove(waiter)

    def dispatch(
        self,
        now_ns: int,
        place: Callable[[Waiter[_Owner]], _Result | None],
        *,
        is_idle: bool,
        is_away: Callable[[Waiter[_Owner]], bool] = lambda waiter: False,
    ) -> list[tuple[Waiter[_Owner], _Result]]:
        """
        Return who goes, and what `place` said of each; they wait no more.

        `place` returns None for one that has to wait on.  is_idle: no group has anything to do.
        is_away: whoever could take it is not there; `place` is not asked then.
        """
        passed = _Passed(is_away)
        gone: list[tuple[Waiter[_Owner], _Result]] = []
        was_empty = not self._in_line
        released = self._release(now_ns, is_idle=is_idle)
        for waiter in released if was_empty else ():
            if waiter not in passed:
                self._try(waiter, place, gone)
        while self._go_on(now_ns, place, gone, passed):
            pass
        return gone

    def due_ns(self) -> int | None:
        """When the oldest that is held has been so for long enough; None if nobody is."""
        oldest = next(iter(self._held), None)
        return None if oldest is None else oldest.arrived_ns + self._max_hold_ns

    def empty(self) -> list[Waiter[_Owner]]:
        """All leave; return them."""
        everybody = [*self._in_line, *self._held]
        for waiter in everybody:
            self.leave(waiter)
        return everybody

    def check_integrity(self) -> None:
        """Everybody is in one place, and the sums are what they add up to."""
        assert not self._held.keys() & self._in_line.keys()
        in_lines = [waiter for line in self._lines.values() for waiter in line]
        assert len(in_lines) == len(self._in_line)
        assert set(in_lines) == self._in_line.keys()
        assert all(self._lines.values())
        counted = Counter(waiter.key for waiter in self._in_line)
        assert counted == {key: share.num_waiting for key, share in self._shares.items()}

    # Holding

    def _release(self, now_ns: int, *, is_idle: bool) -> list[Waiter[_Owner]]:
        """Let all that are held join the line if it is time; return them, the longest first."""
        due_ns = self.due_ns()
        if due_ns is None:
            return []
        if not (is_idle or len(self._held) >= self._num_groups or now_ns >= due_ns):
            return []
        released = list(self._held)
        self._held.clear()
        for waiter in released:
            self._join(waiter)
        return sorted(released, key=lambda waiter: -waiter.request.prompt_tokens)

    # The line

    def _go_on(
        self,
        now_ns: int,
        place: Callable[[Waiter[_Owner]], _Result | None],
        gone: list[tuple[Waiter[_Owner], _Result]],
        passed: _Passed[_Owner],
    ) -> bool:
        """Let the next one go; False if nobody can."""
        first = self._first(now_ns, passed)
        if first is None:
            return False
        if self._try(first, place, gone):
            return True
        if first.request.dp_rank is not None:
            passed.full.add(first.request.dp_rank)
            return True
        if now_ns - first.arrived_ns >= self._max_overtaken_ns:
            return False
        others = (w for w in self._in_line if w is not first and w not in passed)
        window = sorted(islice(others, WINDOW), key=lambda waiter: -waiter.request.prompt_tokens)
        return any(self._try(waiter, place, gone) for waiter in window)

    def _try(
        self,
        waiter: Waiter[_Owner],
        place: Callable[[Waiter[_Owner]], _Result | None],
        gone: list[tuple[Waiter[_Owner], _Result]],
    ) -> bool:
        result = place(waiter)
        if result is None:
            return False
        self._count(waiter)
        self._remove(waiter)
        gone.append((waiter, result))
        return True

    def _first(self, now_ns: int, passed: _Passed[_Owner]) -> Waiter[_Owner] | None:
        """Whose turn it is, but for those that are passed over."""
        heads = [
            head
            for line in self._lines.values()
            if (head := next((w for w in line if w not in passed), None)) is not None
        ]
        if not heads:
            return None
        highest = max(head.priority for head in heads)

        def turn(head: Waiter[_Owner]) -> tuple[bool, float, int]:
            is_old = now_ns - head.arrived_ns >= self._max_overtaken_ns
            is_later = head.priority < highest and not is_old
            return is_later, self._shares[head.key].tag, head.arrived_ns

        return min(heads, key=turn)

    def _join(self, waiter: Waiter[_Owner]) -> None:
        self._in_line[waiter] = None
        self._lines.setdefault((waiter.key, waiter.priority), {})[waiter] = None
        share = self._shares.get(waiter.key)
        if share is None:
            share = self._shares[waiter.key] = _Share(self._virtual)
        share.num_waiting += 1

    def _count(self, waiter: Waiter[_Owner]) -> None:
        """It is its key that is given something."""
        cost = max(1, waiter.request.prompt_tokens)
        self._shares[waiter.key].tag += cost
        self._virtual += cost / len(self._shares)

    def _remove(self, waiter: Waiter[_Owner]) -> None:
        del self._in_line[waiter]
        line = self._lines[waiter.key, waiter.priority]
        del line[waiter]
        if not line:
            del self._lines[waiter.key, waiter.priority]
        share = self._shares[waiter.key]
        share.num_waiting -= 1
        if not share.num_waiting:
            del self._shares[waiter.key]
