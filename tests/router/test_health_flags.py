"""Flags about groups that fail, and about newcomers."""

from pathlib import Path

import pytest

from balancer.breaker import BreakerRules
from router.errors import ConfigError
from router.health_rules import HealthRules
from router.instance import Instance
from router.options import parse_serve


def parsed(*flags):
    return parse_serve(["--backend", "http://a:1", *flags], {}).health


def test_each_flag_is_a_rule():
    """
    By the names of sglang-router.
    """
    rules = parsed(
        "--cb-failure-threshold", "7", "--cb-success-threshold", "3",
        "--cb-timeout-duration-secs", "60", "--cb-window-duration-secs", "120.5",
        "--slow-start-s", "0", "--retry-budget-percent", "5",
    )  # fmt: skip

    assert rules == HealthRules(7, 3, 60.0, 120.5, False, 0.0, 5)
    assert rules.breaker == BreakerRules(7, 3, 60_000_000_000, 120_500_000_000)


def test_without_flags_the_rules_are_the_defaults():
    """
    And there are no breakers if there are to be none.
    """
    assert parsed() == HealthRules()
    assert parsed("--disable-circuit-breaker").breaker is None


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--cb-failure-threshold", "0", "1 to 1000"),
        ("--cb-success-threshold", "-1", "1 to 1000"),
        ("--cb-timeout-duration-secs", "0", "0.1 to 86400"),
        ("--cb-window-duration-secs", "0.5", "1 to 86400"),
        ("--slow-start-s", "-1", "0 to 86400"),
        ("--slow-start-s", "nan", "0 to 86400"),
        ("--retry-budget-percent", "101", "0 to 100"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_can(flag, value, allowed):
    """
    By name.
    """
    with pytest.raises(ConfigError) as refused:
        parsed(f"{flag}={value}")

    assert all(part in str(refused.value) for part in (flag, value, allowed))


def test_front_doors_are_told_the_rules(tmp_path):
    """
    In the instance's file.
    """
    rules = HealthRules(cb_failure_threshold=9, slow_start_s=1.5)
    Instance("a", 1, str(tmp_path), "127.0.0.1", 0, 1, health=rules).save()

    assert Instance.load(Path(tmp_path)).health == rules
