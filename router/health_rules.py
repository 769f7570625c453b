"""What an instance is told about groups that fail, and about newcomers."""

from __future__ import annotations

from dataclasses import dataclass

from balancer.breaker import BreakerRules

_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class HealthRules:
    """The flags of router.health_flags, each under its own name."""

    cb_failure_threshold: int = 5
    cb_success_threshold: int = 2
    cb_timeout_duration_secs: float = 5.0
    cb_window_duration_secs: float = 30.0
    disable_circuit_breaker: bool = False
    slow_start_s: float = 30.0
    retry_budget_percent: int = 20

    @property
    def breaker(self) -> BreakerRules | None:
        """Of the breakers; None: there are to be none."""
        if self.disable_circuit_breaker:
            return None
        return BreakerRules(
            self.cb_failure_threshold,
            self.cb_success_threshold,
            round(self.cb_timeout_duration_secs * _NS_PER_S),
            round(self.cb_window_duration_secs * _NS_PER_S),
        )

    @property
    def slow_start_ns(self) -> int:
        """How long a newcomer's share grows."""
        return round(self.slow_start_s * _NS_PER_S)
