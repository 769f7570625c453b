"""deploy/grafana/levelhead.json: made by its program, and asking for what there is."""

import json
import re

import pytest

from deploy.grafana import dashboard
from deploy.grafana.panel import Drawn
from deploy.grafana.panels import ROWS, VARIABLES
from deploy.metrics_page import full_name, sections
from shm.group_table import GroupState
from tests.deploy.live.expressions import all_expressions, recorded

_NAME = re.compile(r"\blevelhead(?:_[a-z0-9_]+|:[a-z0-9_:]+)")
_BY_GROUP_OF = re.compile(
    r"(?P<what>.+) and \(?(?:(?: or )?(?:topk|bottomk)\(\d+, "
    r"(?:avg|max)_over_time\(\((?P=what)\)\[\$__range:\$__interval\] @ end\(\)\)\))+\)?"
)
PANELS = [panel for row in ROWS for panel in row.panels]


def scraped_names():
    """Names of series, as they are scraped."""
    for metrics in sections().values():
        for metric in metrics:
            name = full_name(metric)
            ends = ("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",)
            yield from (name + end for end in ends)


def test_the_dashboard_is_the_one_that_its_program_makes():
    """
    Made again, it is the same: `make generated` was not forgotten.
    """
    assert dashboard.FILE.read_text() == dashboard.rendered()


def test_everything_that_is_asked_for_is_scraped_or_recorded():
    """
    By the dashboard, the rules and the alerts.
    """
    asked = {name for each in all_expressions() for name in _NAME.findall(each.text)}

    assert asked - set(scraped_names()) - set(recorded()) == set()


def test_every_recording_rule_is_asked_for():
    """
    By a panel, an alert or another rule: one that nobody asks for costs for nothing.
    """
    asked = {name for each in all_expressions() for name in _NAME.findall(each.text)}

    assert set(recorded()) - asked == set()


def test_the_first_row_answers_whether_the_groups_are_level():
    """
    Before anything has to be scrolled.
    """
    panels = json.loads(dashboard.FILE.read_text())["panels"]
    first = [panel["title"] for panel in panels[1:8]]

    assert panels[0]["title"] == "Are my groups level?"
    assert panels[13 - 1]["type"] == "row"
    assert any("Imbalance" in title for title in first)
    assert any("Slow-down" in title for title in first)
    assert any("Barrier idle" in title for title in first)
    assert any("Holding + in-flight" in title for title in first)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_shows_few_lines_however_many_groups_there_are(panel):
    """
    What is by group is a heatmap, or the ends of it; all else is summed up over groups.  The
    ends are those of all the time shown: at each point they would be others, until all had a line.
    """
    for query in panel.queries:
        if "{{group}}" not in query.legend:
            assert not re.match(r"levelhead\S*group", query.expr), "a line for each group"
        elif panel.drawn is not Drawn.HEATMAP:
            assert _BY_GROUP_OF.fullmatch(query.expr), query.expr


def test_panels_fill_their_lines():
    """
    24 columns, as Grafana counts them; ids are all different.
    """
    panels = json.loads(dashboard.FILE.read_text())["panels"]
    places = {}
    for panel in panels:
        place = panel["gridPos"]
        places.setdefault(place["y"], []).append((place["x"], place["w"]))

    for line in places.values():
        assert sum(width for _, width in line) == 24
        assert sorted(x for x, _ in line) == [x for x, _ in line]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_a_model_narrows_the_instances_and_both_the_groups():
    """
    Groups of other instances have the same numbers, so a model has to leave these instances out.
    """
    assert list(VARIABLES) == ["model", "instance", "group"]
    assert "$model" in VARIABLES["instance"]
    assert "$model" in VARIABLES["group"]
    assert "$instance" in VARIABLES["group"]


def test_a_group_without_a_model_is_among_all():
    """
    It starts, or its engine does not say.
    """
    told = json.loads(dashboard.FILE.read_text())["templating"]["list"]
    all_values = {each["name"]: each.get("allValue") for each in told if each["type"] == "query"}

    assert all_values == {"model": ".*", "instance": None, "group": None}


def test_a_group_that_starves_is_not_green():
    """
    Of most numbers much is bad; of the slowest group's share of steps, little is.
    """
    panels = json.loads(dashboard.FILE.read_text())["panels"]
    (slowest,) = [panel for panel in panels if panel["title"] == "Slowest group's steps"]
    steps = slowest["fieldConfig"]["defaults"]["thresholds"]["steps"]

    assert [(step["value"], step["color"]) for step in steps] == [(None, "red"), (0.25, "green")]


def test_every_state_of_a_group_has_a_colour_and_a_number():
    """
    The rule gives the number, the panel the colour, in the same order.
    """
    (panel,) = [panel for panel in PANELS if panel.title == "State of groups: the worst"]
    names = [state.name for state in panel.states]
    (rule,) = [each.text for each in all_expressions() if "group_state:code" in each.where]
    numbers = {
        name: int(times or (name != "ready"))
        for name, times in re.findall(r'state="(\w+)"\}(?: \* (\d))?', rule)
    }

    assert set(names) == {state.value for state in GroupState}
    assert numbers == {name: number for number, name in enumerate(names)}
