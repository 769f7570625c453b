"""
Which group holds which prefix: page digests, and the groups that have those pages.

    told       digest -> groups    what groups say: stored, and not yet evicted
    expected   digest -> groups    what was dispatched to a group and will be stored there

A prompt's match in a group is as many of its pages, from the first on, as the
group was told or expected to hold (see shm.page_digest for what names a page).

An expectation is there from the dispatch on, because forks come while the first
request is still being computed.  When its request ends in an answer, the group
has stored the prompt and is about to say so.  The expectation goes when the
group tells its last page, or with the second `age` that follows: the group may
tell nothing, or have stored and evicted it before.  A request that was refused,
lost or never sent takes its expectation with it at once.  So what is expected
wrongly is forgotten within two periods of `age`.

Bounded: told digests by max_digests, the longest unused are forgotten first, and
of a prefix its end before its beginning; expected ones by max_expected_digests,
the oldest request's first.  A digest that was forgotten is found again when its
group evicts and stores it, or tells all anew.

Groups are bits of an integer: with 8 or with 1,024 of them a page costs one look
and one `and`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

MAX_DIGESTS = 262_144  # 4 million tokens in pages of 16; see benchmarks/bench_prefix for bytes
MAX_EXPECTED_DIGESTS = 65_536


class Change(Enum):
    """What a group tells of its prefix cache."""

    BEGUN = "begun"
    """Forget what it told before: all that it holds follows."""
    STORED = "stored"
    EVICTED = "evicted"


class PrefixEvent(NamedTuple):
    """One thing that a group told; digests: of which pages."""

    change: Change
    digests: Sequence[int] = ()


@dataclass(slots=True, eq=False)
class Expectation:
    """Pages that a group will hold when it has computed a request."""

    dp_rank: int
    digests: Sequence[int]
    is_past: bool = False
    """Whether an `age` has seen it since its request ended."""

    @property
    def last(self) -> int:
        """The digest of its last page."""
        return self.digests[-1]

    @property
    def key(self) -> tuple[int, int]:
        """What its group will tell of it."""
        return self.last, self.dp_rank


class PrefixIndex:
    """Belongs to one front door; pure, and knows no time but the calls of `age`."""

    def __init__(
        self,
        num_groups: int,
        max_digests: int = MAX_DIGESTS,
        max_expected_digests: int = MAX_EXPECTED_DIGESTS,
    ) -> None:
        self._all_groups = (1 << num_groups) - 1
        self._num_groups = num_groups
        self._max_digests = max_digests
        self._max_expected_digests = max_expected_digests
        self._told: OrderedDict[int, int] = OrderedDict()  # digest -> groups; the last used last
        self._held: list[set[int]] = [set() for _ in range(num_groups)]  # the same by group
        self._expected: dict[int, int] = {}
        self._counts: dict[tuple[int, int], int] = {}  # digest, dp_rank -> expectations
        self._open: dict[Expectation, None] = {}  # in the order of dispatch, as is the next
        self._ended: dict[Expectation, None] = {}
        self._awaited: dict[tuple[int, int], list[Expectation]] = {}  # ended, by last page
        self._num_expected = 0

    def __repr__(self) -> str:
        held = ", ".join(f"{rank}:{len(digests)}" for rank, digests in enumerate(self._held))
        return f"<PrefixIndex {len(self)} told [{held}], {self._num_expected} expected>"

    def __len__(self) -> int:
        return len(self._told)

    def match(self, digests: Sequence[int]) -> list[int]:
        """Return how many leading pages each group has, by dp_rank; this counts as use."""
        pages, depth, holders = [0] * self._num_groups, 0, self._all_groups
        told, expected = self._told.get, self._expected.get
        for digest in digests:
            still = holders & (told(digest, 0) | expected(digest, 0))
            if still != holders and depth:
                for dp_rank in _bits(holders & ~still):
                    pages[dp_rank] = depth
            holders = still
            if not holders:
                break
            depth += 1
        for dp_rank in _bits(holders if depth else 0):
            pages[dp_rank] = depth
        self._use(digests[:depth])
        return pages

    def observe(self, dp_rank: int, event: PrefixEvent) -> None:
        """Take over what a group tells; in the order in which it tells it."""
        if event.change is Change.STORED:
            self._store(dp_rank, event.digests)
        elif event.change is Change.EVICTED:
            self._evict(dp_rank, event.digests)
        else:
            self._evict(dp_rank, list(self._held[dp_rank]))

    def begin_group(self, dp_rank: int) -> None:
        """The group lives anew: it holds nothing, and nothing that was sent to it counts."""
        self.observe(dp_rank, PrefixEvent(Change.BEGUN))
        for expectation in [e for e in (*self._open, *self._ended) if e.dp_rank == dp_rank]:
            self.withdraw(expectation)

    def expect(self, dp_rank: int, digests: Sequence[int]) -> Expectation:
        """A request with these pages goes to that group; the caller ends what it gets, once."""
        expectation = Expectation(dp_rank, digests)
        self._open[expectation] = None
        self._num_expected += len(digests)
        counts, expected, bit = self._counts, self._expected, 1 << dp_rank
        for digest in digests:
            key = (digest, dp_rank)
            if key in counts:
                counts[key] += 1
            else:
                counts[key] = 1
                expected[digest] = expected.get(digest, 0) | bit
        while self._num_expected > self._max_expected_digests:
            self.withdraw(next(iter(self._ended or self._open)))
        return expectation

    def fulfil(self, expectation: Expectation) -> None:
        """Its request was computed: the group stored those pages, and says so soon."""
        if expectation not in self._open:
            return  # forgotten for want of room
        if not expectation.digests or expectation.last in self._held[expectation.dp_rank]:
            self.withdraw(expectation)
        else:
            del self._open[expectation]
            self._ended[expectation] = None
            self._awaited.setdefault(expectation.key, []).append(expectation)

    def withdraw(self, expectation: Expectation) -> None:
        """Its request may not have been computed.  Twice does no harm, nor after fulfil."""
        if expectation in self._open:
            del self._open[expectation]
        elif expectation in self._ended:
            del self._ended[expectation]
            self._awaited[expectation.key].remove(expectation)
            if not self._awaited[expectation.key]:
                del self._awaited[expectation.key]
        else:
            return
        self._num_expected -= len(expectation.digests)
        self._expect_less(expectation)

    def age(self) -> None:
        """Some seconds have passed: drop what ended before the last time that this was called."""
        for expectation in list(self._ended):
            if expectation.is_past:
                self.withdraw(expectation)
            else:
                expectation.is_past = True

    def check_integrity(self) -> None:
        """Raise AssertionError unless the books agree."""
        assert len(self._told) <= self._max_digests
        for digest, groups in self._told.items():
            assert groups
            assert [digest in held for held in self._held] == [
                bool(groups >> rank & 1) for rank in range(self._num_groups)
            ]
        assert set().union(*self._held) == set(self._told)
        counts: dict[tuple[int, int], int] = {}
        for expectation in (*self._open, *self._ended):
            for digest in expectation.digests:
                key = (digest, expectation.dp_rank)
                counts[key] = counts.get(key, 0) + 1
        assert counts == self._counts
        awaited = [each for waiting in self._awaited.values() for each in waiting]
        assert sorted(map(id, awaited)) == sorted(map(id, self._ended))
        assert self._num_expected == sum(counts.values()) <= self._max_expected_digests
        masks: dict[int, int] = {}
        for digest, dp_rank in counts:
            masks[digest] = masks.get(digest, 0) | 1 << dp_rank
        assert masks == self._expected

    def _store(self, dp_rank: int, digests: Sequence[int]) -> None:
        told, bit = self._told, 1 << dp_rank
        for digest in digests:
            told[digest] = told.get(digest, 0) | bit
        self._held[dp_rank].update(digests)
        self._use(digests)
        for key in [(digest, dp_rank) for digest in digests] if self._awaited else ():
            for expectation in list(self._awaited.get(key, ())):
                self.withdraw(expectation)
        while len(told) > self._max_digests:
            digest, groups = told.popitem(last=False)
            for rank in _bits(groups):
                self._held[rank].discard(digest)

    def _evict(self, dp_rank: int, digests: Sequence[int]) -> None:
        told, held, bit = self._told, self._held[dp_rank], 1 << dp_rank
        for digest in digests:
            if digest not in held:
                continue  # forgotten here
            held.discard(digest)
            told[digest] &= ~bit
            if not told[digest]:
                del told[digest]

    def _use(self, digests: Sequence[int]) -> None:
        """Make those that are told the last used, the first page the very last."""
        told = self._told
        for digest in reversed(digests):
            if digest in told:
                told.move_to_end(digest)

    def _expect_less(self, expectation: Expectation) -> None:
        counts, expected, dp_rank = self._counts, self._expected, expectation.dp_rank
        bit = 1 << dp_rank
        for digest in expectation.digests:
            key = (digest, dp_rank)
            if counts[key] > 1:
                counts[key] -= 1
                continue
            del counts[key]
            if expected[digest] == bit:
                del expected[digest]
            else:
                expected[digest] &= ~bit


def _bits(groups: int) -> Iterator[int]:
    """Numbers of the bits that are set, in order."""
    while groups:
        lowest = groups & -groups
        yield lowest.bit_length() - 1
        groups ^= lowest
