"""The recording rules and the alerts, and the tests that `promtool` makes of them."""

import subprocess

import pytest
import yaml

from router.front_door.meters import LATENCY_BOUNDS_S
from tests.deploy.live.prometheus import RULES, TESTS, NotFound, find


def alerts():
    told = yaml.safe_load((RULES / "levelhead.alerts.yaml").read_text())
    return {rule["alert"]: rule for group in told["groups"] for rule in group["rules"]}


def cases():
    """Of all test files, those of alerts."""
    for name in TESTS:
        for test in yaml.safe_load((RULES / name).read_text())["tests"]:
            yield from test.get("alert_rule_test", ())


def test_rules_do_what_their_tests_say():
    """
    By `promtool`, where there is one; `make check-dashboard` gets one.
    """
    try:
        promtool = find("promtool", fetch=False)
    except NotFound as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [promtool, "test", "rules", *TESTS],
        cwd=RULES, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire():
    """
    And in the same file not to, for somebody else or before its time.
    """
    fire = {case["alertname"] for case in cases() if case.get("exp_alerts")}

    assert fire == set(alerts())


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_how_bad_it_is_and_whom_it_is_about(name):
    """
    A severity, and a sentence that names the instance.
    """
    rule = alerts()[name]

    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
    assert rule["annotations"]["description"]


def test_the_objective_of_the_first_token_is_a_bound_of_its_histogram():
    """
    Else nothing would ever be within it.
    """
    rules = (RULES / "levelhead.rules.yaml").read_text()

    assert rules.count('le="2.5"') == 4
    assert 2.5 in LATENCY_BOUNDS_S
