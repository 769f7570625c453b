"""
Flags of `serve` about groups that fail, and about newcomers.

Those of circuit breakers are spelt as in sglang-router and SMG, where `-secs` takes integers.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from router import flag_values as values
from router.health_rules import HealthRules

_LEAST_COOL_DOWN_S = 0.1
_LEAST_WINDOW_S = 1.0
_MAX_IN_A_ROW = 1000


def add_health(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    group, rules = parser.add_argument_group("groups that fail, and newcomers"), HealthRules()
    group.add_argument(
        "--cb-failure-threshold",
        type=values.integer(1, _MAX_IN_A_ROW),
        default=rules.cb_failure_threshold,
        metavar="N",
        help="failures in a row after which a backend gets no request while another can take it",
    )
    group.add_argument(
        "--cb-success-threshold",
        type=values.integer(1, _MAX_IN_A_ROW),
        default=rules.cb_success_threshold,
        metavar="N",
        help="good answers in a row, to one request at a time, after which it serves as before",
    )
    group.add_argument(
        "--cb-timeout-duration-secs",
        type=values.seconds(_LEAST_COOL_DOWN_S),
        default=rules.cb_timeout_duration_secs,
        metavar="S",
        help="time until it is tried again; doubled each time that it fails again, up to 16 times",
    )
    group.add_argument(
        "--cb-window-duration-secs",
        type=values.seconds(_LEAST_WINDOW_S),
        default=rules.cb_window_duration_secs,
        metavar="S",
        help="time in which half of 20 requests or more must fail for the same",
    )
    group.add_argument(
        "--disable-circuit-breaker",
        action="store_true",
        help="send requests to backends whatever became of those before",
    )
    _add_slow_start(group, rules)


def _add_slow_start(group: argparse._ArgumentGroup, rules: HealthRules) -> None:
    group.add_argument(
        "--slow-start-s",
        type=values.seconds(0),
        default=rules.slow_start_s,
        metavar="S",
        help="time in which a group that joins others grows from a tenth of their load to all of "
        "it; 0: it takes its full share at once",
    )
    group.add_argument(
        "--retry-budget-percent",
        type=values.integer(0, 100),
        default=rules.retry_budget_percent,
        metavar="N",
        help="requests of 100 that may be sent to another group in the long run, beside 3 a second",
    )


def take_health_rules(given: dict[str, Any]) -> HealthRules:
    """Take these flags out of what was given."""
    return HealthRules(**{each.name: given.pop(each.name) for each in fields(HealthRules)})
