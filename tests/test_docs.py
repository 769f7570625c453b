"""The documents tell what there is, and nothing else."""

import argparse
import re
from pathlib import Path

import pytest

from balancer.methods import METHODS
from balancer.simulation.figures import RunFigures
from router.flags import serve_parser
from router.simulate.options import simulate_parser
from router.top.options import top_parser
from shm.load import LoadReport

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def section(title):
    return REFERENCE.split(f"\n## {title}")[1].split("\n## ")[0]


def first_cells(text):
    return {
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


def test_every_method_is_documented_and_every_documented_one_exists():
    """
    The table of methods and --load-balance-method name the same.
    """
    assert first_cells(section("Methods")) == set(METHODS)


def test_every_flag_is_documented_and_every_documented_one_exists():
    """
    The table of flags and `levelhead serve --help` name the same, aliases included.
    """
    actions = [a for a in serve_parser({})._actions if not isinstance(a, argparse._HelpAction)]
    flags = {flag for action in actions for flag in action.option_strings}

    assert first_cells(section("Flags of `levelhead serve`")) == flags


def test_every_flag_of_the_simulator_is_documented_and_every_documented_one_exists():
    """
    As for `serve`.
    """
    actions = [a for a in simulate_parser()._actions if not isinstance(a, argparse._HelpAction)]
    flags = {flag for action in actions for flag in action.option_strings}

    assert first_cells(section("Flags of `levelhead simulate`")) == flags


def test_every_flag_of_top_is_documented_and_every_documented_one_exists():
    """
    As for `serve`, and what is no flag but a place.
    """
    actions = [a for a in top_parser()._actions if not isinstance(a, argparse._HelpAction)]
    flags = {flag for action in actions for flag in action.option_strings or [action.metavar]}

    assert first_cells(section("Flags of `levelhead top`")) == flags


def test_every_figure_of_a_run_is_documented_and_every_documented_one_exists():
    """
    The table in simulate.md and the JSON of a run name the same.
    """
    page = (ROOT / "docs" / "simulate.md").read_text()
    table = page.split("\n## Figures")[1].split("\n\n")[1]

    assert first_cells(table) == {"load", *RunFigures._fields}


def test_every_field_of_a_report_is_documented_and_every_documented_one_exists():
    """
    The table of the load segment and LoadReport name the same.
    """
    assert first_cells(section("A group's report")) == set(LoadReport._fields)


@pytest.mark.parametrize(
    "page",
    sorted(ROOT.glob("*.md"))
    + sorted(ROOT.glob("docs/**/*.md"))
    + sorted(ROOT.glob("deploy/**/*.md")),
)
def test_links_between_documents_lead_somewhere(page):
    """
    Every relative link names a file or folder that is there.
    """
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_two_set_up_commands_stand_first_in_the_readme():
    """
    A newcomer sees `make serve` and `make test` before anything else to type.
    """
    first_block = (ROOT / "README.md").read_text().split("```")[1]

    assert [line.split("#")[0].strip() for line in first_block.strip().splitlines()] == [
        "make serve",
        "make test",
    ]
