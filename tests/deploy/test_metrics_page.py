"""docs/metrics.md: made of the metrics, and of nothing else."""

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from balancer.breaker import BreakerState
from deploy.metric_bounds import LABELS, Size, factors
from deploy.metric_names import ELSEWHERE
from deploy.metrics_page import PAGE, full_name, max_series, page, sections
from router.control_plane.metrics import exposition
from router.control_plane.totals import Totals
from router.front_door.meters import Meters
from shm.group_table import GroupState
from tests.figures import group_figures
from tests.router.test_barrier_metrics import read, told_barrier

NUM_GROUPS, NUM_DOORS = 3, 2


def told_meters(slot):
    meters = Meters(NUM_GROUPS)
    meters.breaker_states = dict.fromkeys(range(NUM_GROUPS), 0)
    meters.slow_start_factors = dict.fromkeys(range(NUM_GROUPS), 1.0)
    extra = {"slot": slot, "epoch": 7, "method": "random", "book": [[0, 0]] * NUM_GROUPS}
    return orjson.loads(orjson.dumps(meters.as_dict() | extra, option=orjson.OPT_NON_STR_KEYS))


def scraped(totals):
    """Families of an instance of three groups and two front doors."""
    figures = [group_figures(rank) for rank in range(NUM_GROUPS)]
    text = exposition(figures, [told_meters(slot) for slot in range(NUM_DOORS)], totals).decode()
    return list(text_string_to_metric_families(text))


def documented():
    return {full_name(metric): metric for metrics in sections().values() for metric in metrics}


def test_the_page_is_the_one_that_the_code_makes():
    """
    Made again, it is the same: `make generated` was not forgotten.
    """
    assert PAGE.read_text() == page()


def test_every_metric_is_on_the_page_and_every_one_on_the_page_is_scraped():
    """
    Each once, with a meaning.
    """
    families = scraped({})
    names = [f.name + ("_total" if f.type == "counter" else "") for f in families]

    assert sorted(names) == sorted(documented())
    assert all(metric.documentation for metric in documented().values())
    assert all(page().count(f"\n| `{name}` | {documented()[name].type} |") == 1 for name in names)


@pytest.mark.anyio
async def test_an_instance_has_as_many_series_of_each_metric_as_the_page_allows():
    """
    All labels that the page tells of, no others, and no more values.
    """
    totals = await read(told_barrier(), num_groups=NUM_GROUPS)
    size = Size(NUM_GROUPS, NUM_DOORS)
    told = documented()
    for family in scraped(totals):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels <= set(vars(told[name])["_labelnames"])
        count, most = len(family.samples), max_series(size, [told[name]])
        assert count <= most
        if family.type == "histogram":
            assert count in (0, most) or "dp_attention" in name


def test_every_label_is_explained():
    """
    And no label that no metric has.
    """
    used = {label for metric in documented().values() for label in vars(metric)["_labelnames"]}

    assert used | {"le"} == set(LABELS)


def test_a_label_whose_values_nobody_has_counted_is_refused():
    """
    Whoever adds one has to say what bounds it.
    """
    with pytest.raises(KeyError, match="client"):
        factors("levelhead_new", ("group", "client"))


def test_every_state_has_a_name_on_the_page():
    """
    Of groups and of breakers.
    """
    states = documented()["levelhead_group_state"].documentation
    turns = documented()["levelhead_breaker_transitions_total"].documentation

    assert all(state.value in states for state in GroupState)
    assert all(state.value in turns for state in BreakerState)


def test_what_others_call_differently_is_there():
    """
    The left column names metrics that exist.
    """
    assert {ours for ours, _ in ELSEWHERE} <= set(documented())


def test_what_has_not_happened_is_zero():
    """
    A rate of retries is 0 from the start, not unknown.
    """
    found = {family.name: family.samples for family in scraped({0: Totals(0, 0, 0, 0, 0, 0)})}

    for name in ("responses", "retries", "settlements", "prompt_tokens"):
        assert {sample.value for sample in found[f"levelhead_{name}"]} == {0.0}
