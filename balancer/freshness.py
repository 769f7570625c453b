"""
Which groups' figures count: those that were sampled no longer ago than a limit.

A report counts from the first observe_time at which it is young enough, and no
longer than the first at which it is too old; until then, and after, the books
of the front doors stand in (see balancer.ledger).  *Stale* is a group that has
reported in its present epoch, but too long ago.  One that has not is not
stale: it has nothing to be old.

Judged are groups that the table says are alive and serve: ready, suspect or
draining.  A dead or starting one is neither fresh nor stale, and neither is
one that begins a new epoch, until it reports: that a group reports no more
because it was restarted is no news.

What is told is each change between fresh and stale, once, of groups that are
judged.  One that was stale and is judged no more is not told to be fresh.

The age is that of the group's own sample.  So one group that stands still is
stale alone, and with a publisher that stands still all groups are, one after
the other within a step, and then books are compared with books.

Who calls: the controller, with the time that it is given.  No clock in here.
"""

from __future__ import annotations

from typing import NamedTuple

from balancer.ledger import Ledger

_NEVER_NS = 1 << 63


class FreshnessChange(NamedTuple):
    """A group's figures went stale, or are fresh again."""

    dp_rank: int
    is_fresh: bool
    age_ns: int
    """Of its newest report, when that was noticed."""


class Freshness:
    """
    Judges the newest reports of a ledger by their age.

    `is_fresh` has, for each dp_rank, whether its report counts.  Between two
    deadlines observe_time costs one comparison: a newer report only moves a
    group's deadline back, so the earliest one, once known, is never too late.
    """

    def __init__(self, ledger: Ledger, num_groups: int, max_age_ns: int) -> None:
        self.is_fresh = [False] * num_groups
        self._ledger = ledger
        self._max_age_ns = max_age_ns
        self._told_stale = [False] * num_groups
        self._is_judged = [False] * num_groups
        self._to_judge: set[int] = set()
        """Groups that do not count and have reported since they were last looked at."""
        self._deadline_ns = _NEVER_NS
        """No fresh group can go stale before it is over."""

    def has_reported(self, dp_rank: int) -> None:
        """A group that is not fresh has a new report: to be judged at the next observe_time."""
        if self._is_judged[dp_rank]:
            self._to_judge.add(dp_rank)

    def judge(self, dp_rank: int) -> None:
        """The group serves: its figures are judged from the next observe_time on."""
        if self._is_judged[dp_rank]:
            return
        self._is_judged[dp_rank] = True
        if self._ledger.report(dp_rank) is not None:
            self._to_judge.add(dp_rank)

    def disregard(self, dp_rank: int) -> None:
        """The group is dead, starts, or begins a new epoch: its figures are neither."""
        self.is_fresh[dp_rank] = self._told_stale[dp_rank] = self._is_judged[dp_rank] = False
        self._to_judge.discard(dp_rank)

    def is_stale(self, dp_rank: int) -> bool:
        """Whether the last that was told of the group is that it is stale."""
        return self._told_stale[dp_rank]

    def observe_time(self, now_ns: int) -> list[FreshnessChange]:
        """It is that late now: return what was judged otherwise than before, told or not."""
        if now_ns <= self._deadline_ns and not self._to_judge:
            return []
        changes = self._admit(now_ns)
        if now_ns > self._deadline_ns:
            changes += self._expire(now_ns)
        return changes

    def to_tell(self, changes: list[FreshnessChange]) -> list[FreshnessChange]:
        """Those that turn what was told last; from here on they have been told."""
        told = [c for c in changes if c.is_fresh is self._told_stale[c.dp_rank]]
        for change in told:
            self._told_stale[change.dp_rank] = not change.is_fresh
        return told

    def _admit(self, now_ns: int) -> list[FreshnessChange]:
        """Judge the groups that have reported and did not count."""
        judged = []
        for dp_rank in sorted(self._to_judge):
            sampled_ns = self._sampled_ns(dp_rank)
            age_ns = now_ns - sampled_ns
            self.is_fresh[dp_rank] = age_ns <= self._max_age_ns
            if self.is_fresh[dp_rank]:
                self._deadline_ns = min(self._deadline_ns, sampled_ns + self._max_age_ns)
            judged.append(FreshnessChange(dp_rank, self.is_fresh[dp_rank], age_ns))
        self._to_judge.clear()
        return judged

    def _expire(self, now_ns: int) -> list[FreshnessChange]:
        """Find the groups that count no more, and the earliest deadline of those that still do."""
        expired, self._deadline_ns = [], _NEVER_NS
        for dp_rank, is_fresh in enumerate(self.is_fresh):
            if not is_fresh:
                continue
            sampled_ns = self._sampled_ns(dp_rank)
            age_ns = now_ns - sampled_ns
            if age_ns > self._max_age_ns:
                self.is_fresh[dp_rank] = False
                expired.append(FreshnessChange(dp_rank, False, age_ns))
            else:
                self._deadline_ns = min(self._deadline_ns, sampled_ns + self._max_age_ns)
        return expired

    def _sampled_ns(self, dp_rank: int) -> int:
        report = self._ledger.report(dp_rank)
        assert report is not None  # it has reported in this epoch
        return report.sampled_ns
