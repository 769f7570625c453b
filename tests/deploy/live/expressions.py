"""Every expression that we give to others to ask: of the dashboard, the rules and the alerts."""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import yaml

from deploy.grafana.series import expression

DEPLOY = Path(__file__).parents[3] / "deploy"
_COMPARISON = re.compile(r" (<|>|==) (?!bool )")
_LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")


class Expression(NamedTuple):
    """`where` is for people."""

    where: str
    text: str


def all_expressions():
    """In the order of the files."""
    return [
        *_of_dashboard(),
        *_of_rules("levelhead.rules.yaml"),
        *_of_rules("levelhead.alerts.yaml"),
    ]


def _of_dashboard():
    told = json.loads((DEPLOY / "grafana" / "levelhead.json").read_text())
    for variable in told["templating"]["list"]:
        if variable["type"] == "query":
            yield Expression(f"variable {variable['name']}", as_asked(variable["query"]))
    for panel in told["panels"]:
        for target in panel.get("targets", ()):
            yield Expression(f"panel {panel['title']!r}", as_asked(target["expr"]))


def _of_rules(name):
    for rule in _rules(name):
        if "record" in rule:
            yield Expression(f"rule {rule['record']}", rule["expr"])
        else:
            yield Expression(f"alert {rule['alert']}", answered(rule["expr"]))


def recorded():
    """Names of what the recording rules record."""
    return [rule["record"] for rule in _rules("levelhead.rules.yaml")]


def _rules(name):
    told = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
    return [rule for group in told["groups"] for rule in group["rules"]]


def as_asked(text):
    """With every variable as it is at first: everything."""
    found = _LABEL_VALUES.fullmatch(text)
    if found:
        text = f"count by ({found[2]}) ({found[1]})"
    return expression(text)


def answered(condition):
    """An alert's condition, true or not: 1 or 0 where it would else be there or not."""
    return _COMPARISON.sub(r" \1 bool ", condition)


def has_data(values):
    """Whether there is a number among them: nothing over nothing is none."""
    return not all(map(math.isnan, values))
