"""What the answers of one process add up to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_MAX_MISSED = 1


class Answer(Enum):
    """What became of one question."""

    GIVEN = "given"
    MISSED = "missed"
    NOT_YET = "not yet"
    """The process is still starting."""
    LEAVING = "leaving"
    """The process was asked to end, and closes what it has open."""
    UNKNOWN = "unknown"
    """It could not be asked, for a reason of ours: no evidence."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often in a row an answer may be put off; None: as often as it likes."""

    max_not_yet: int | None = None
    max_leaving: int | None = None


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the last answers of one process were."""

    pid: int
    num_missed: int = 0
    num_not_yet: int = 0
    num_leaving: int = 0

    def after(self, answer: Answer) -> Pulse:
        """The pulse after one more question."""
        match answer:
            case Answer.GIVEN:
                return Pulse(self.pid)
            case Answer.MISSED:
                return Pulse(self.pid, num_missed=self.num_missed + 1)
            case Answer.NOT_YET:
                return Pulse(self.pid, num_not_yet=self.num_not_yet + 1)
            case Answer.LEAVING:
                return Pulse(self.pid, num_leaving=self.num_leaving + 1)
            case Answer.UNKNOWN:
                return self

    def has_stopped(self, patience: Patience) -> bool:
        """Whether that was once too often."""
        return (
            self.num_missed > _MAX_MISSED
            or _is_over(self.num_not_yet, patience.max_not_yet)
            or _is_over(self.num_leaving, patience.max_leaving)
        )


def _is_over(count: int, limit: int | None) -> bool:
    return limit is not None and count > limit
