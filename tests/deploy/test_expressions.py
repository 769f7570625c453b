"""What `make check-dashboard` asks, and what it takes for an answer."""

import math

import pytest

from tests.deploy.live.expressions import all_expressions, answered, as_asked, has_data


def test_variables_stand_for_everything():
    """
    And the window for one that two scrapes fall into.
    """
    asked = as_asked('rate(a{instance=~"$instance", group=~"$group"}[$__rate_interval])')

    assert asked == 'rate(a{instance=~".*", group=~".*"}[15s])'


def test_a_window_of_all_that_is_shown_is_one():
    """
    As Grafana puts it in: the range, in steps of its points.
    """
    assert as_asked("avg_over_time(a[$__range:$__interval] @ end())") == (
        "avg_over_time(a[60000ms:1000ms] @ end())"
    )


def test_a_variable_is_asked_for_by_what_it_lists():
    """
    Grafana's own function is none of Prometheus'.
    """
    asked = as_asked('label_values(a{instance=~"$instance"}, model)')

    assert asked == 'count by (model) (a{instance=~".*"})'


@pytest.mark.parametrize(
    ("condition", "asked"),
    [
        ("a < 0.25", "a < bool 0.25"),
        ('a{b="c"} == 1', 'a{b="c"} == bool 1'),
        ("a > (6 * 0.01)\n  and b > 2", "a > bool (6 * 0.01)\n  and b > bool 2"),
        ('up{job=~"x.*"} < 1', 'up{job=~"x.*"} < bool 1'),
    ],
)
def test_an_alert_that_does_not_fire_is_an_answer(condition, asked):
    """
    0 instead of nothing, so that a name that is wrong is seen.
    """
    assert answered(condition) == asked


def test_nothing_and_no_number_are_no_data():
    """
    Zero is.
    """
    assert not has_data([])
    assert not has_data([math.nan])
    assert has_data([math.nan, 0.0])


def test_no_expression_is_left_with_a_variable():
    """
    Prometheus would refuse it, or find nothing.
    """
    assert [each for each in all_expressions() if "$" in each.text] == []
