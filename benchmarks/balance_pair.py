"""
A live run and the simulator's, and whether the machine kept up with the live one.

A run is not valid if

* requests failed,
* planning took longer than the step in more than MAX_LATE_SHARE of the rounds,
* planning took more than MAX_GAP_SHARE of a step on average: it is hidden behind steps, and what
  a report says and who is chosen meanwhile is not what it would be,
* clients sent their requests more than MAX_SENT_LATE_SHARE of a step late, on average: the
  simulator's are on time.

Such a run says how fast the machine is, and is left out of all means and verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_LATE_SHARE = 0.05
MAX_GAP_SHARE = 0.25
MAX_SENT_LATE_SHARE = 0.25


@dataclass(frozen=True)
class Pair:
    """
    One plan, lived through and simulated.

    step_ms: mean duration of a live round.  gap_share: of a round, what planning it took,
    on average.  sent_late_ms: from when a request was due until it was sent, on average.
    """

    trace: str
    dp_size: int
    method: str
    seed: int
    load: float | None
    live_slowdown: float
    sim_slowdown: float
    live_kv: float
    sim_kv: float
    num_rounds: int
    step_ms: float
    late_share: float
    late_ms: float
    gap_share: float
    sent_late_ms: float
    failed: int

    @property
    def faults(self) -> list[str]:
        """Why it is not valid; empty if it is."""
        found = []
        if self.failed:
            found.append(f"{self.failed} requests failed")
        if self.late_share > MAX_LATE_SHARE:
            found.append(
                f"{self.late_share:.1%} of the rounds began late, by {self.late_ms:.0f} ms"
            )
        if self.gap_share > MAX_GAP_SHARE:
            found.append(f"planning took {self.gap_share:.0%} of a step")
        if self.sent_late_ms > MAX_SENT_LATE_SHARE * self.step_ms:
            found.append(
                f"clients sent {self.sent_late_ms:.0f} ms late, steps take {self.step_ms:.0f} ms"
            )
        return found

    @property
    def is_valid(self) -> bool:
        """Whether the machine kept up."""
        return not self.faults
