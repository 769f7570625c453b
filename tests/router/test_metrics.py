import ast
from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from balancer.in_flight import InFlight
from router.backends.backend import Backend
from router.backends.standing import Standing
from router.control_plane import group_metrics, metrics
from router.control_plane.figures import GroupFigures
from router.control_plane.metrics import exposition
from router.control_plane.totals import Totals
from router.front_door.meters import Meters
from shm.group_table import GroupEntry, GroupState
from tests.router.house import load_report


def group(dp_rank, *, reported=True, **fields):
    state = GroupState.READY if reported else GroupState.STARTING
    report = load_report(dp_rank, **fields) if reported else None
    age_s = 0.5 if reported else None
    return GroupFigures(GroupEntry(dp_rank, state, 11), report, InFlight(7, 1), age_s, 9, 2)


def told(slot, meters):
    """A door's meters as the control plane gets them."""
    extra = {"slot": slot, "epoch": 1, "method": "minimum_tokens", "book": [[40, 2], [0, 0]]}
    extra["bytes_per_token"] = 4.0
    wire = orjson.dumps(meters.as_dict() | extra, option=orjson.OPT_NON_STR_KEYS)
    return orjson.loads(wire)


@pytest.fixture
def scraped():
    """Families by name: two groups, one has not reported; three doors, one is away."""
    meters = Meters(2)
    meters.dispatches = [3, 4]
    meters.responses[200] = 5
    meters.responses[503] = 2
    meters.prompt_tokens["exact"] = 60
    meters.retries["lost"] = 3
    meters.settlements["unseen"] = 4
    meters.open_settlements = 6
    meters.stale_groups = [0, 1]
    meters.stale_transitions = [2, 5]
    for value in (0.0005, 0.05, 0.05, 9999.0):
        meters.ttft_s.observe(value)
    groups = [group(0, holding_tokens=50, num_steps=8, step_time_ns=2_000_000, kv_used_tokens=1024),
              group(1, reported=False)]  # fmt: skip
    totals = {1: Totals(60, 20, 40, 3, 9, 2)}
    text = exposition(groups, [told(0, meters), None, told(2, Meters(2))], totals).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(family, **labels):
    found = [sample.value for sample in family.samples if sample.labels == labels]
    assert len(found) == 1, family.samples
    return found[0]


def declared_names():
    """Every metric name that stands in the modules, with and without its prefix."""
    trees = [ast.parse(Path(module.__file__).read_text()) for module in (metrics, group_metrics)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    words = {node.value for node in nodes if isinstance(node, ast.Constant)}
    full = {word for word in words if isinstance(word, str) and word.startswith("levelhead_")}
    specs = (
        *group_metrics._REPORTED,
        *group_metrics._TOTALS,
        *metrics._HISTOGRAMS,
        *metrics._COUNTERS,
        *metrics._GAUGES,
        *metrics.KEYED,
    )
    short = {f"levelhead_{spec[0]}" for spec in specs}
    return {name for name in full if name != "levelhead_"} | short


def test_every_family_is_exposed(scraped):
    """
    Whatever is named in the module can be scraped, and everything has a help text.
    """
    assert declared_names() - set(scraped) == set()
    assert [family.name for family in scraped.values() if not family.documentation] == []


def test_without_groups_and_doors_the_families_are_there_still():
    """
    A dashboard finds its series before the first request.
    """
    text = exposition([], [], {}).decode()

    names = {family.name for family in text_string_to_metric_families(text)}

    assert declared_names() - names == set()


def test_figures_of_groups_carry_the_group(scraped):
    """
    One that has reported nothing has no series, but a state and charges in flight.
    """
    assert value(scraped["levelhead_holding_tokens"], group="0") == 50
    assert len(scraped["levelhead_holding_tokens"].samples) == 1
    assert value(scraped["levelhead_kv_usage_ratio"], group="0") == 0.25
    assert value(scraped["levelhead_step_time_seconds"], group="0") == pytest.approx(0.002)
    assert value(scraped["levelhead_steps"], group="0") == 8
    assert value(scraped["levelhead_in_flight_tokens"], group="1") == 7
    assert value(scraped["levelhead_group_state"], group="0", state="ready") == 1
    assert value(scraped["levelhead_group_state"], group="1", state="ready") == 0
    assert value(scraped["levelhead_group_state"], group="1", state="starting") == 1
    assert value(scraped["levelhead_group_state"], group="1", state="suspect") == 0
    assert value(scraped["levelhead_imbalance_ratio"]) == 1.0


def test_a_dead_group_has_a_state_and_no_figures():
    """
    Its last report stays where it is until its next life, and says nothing of now.
    """
    dead = GroupEntry(1, GroupState.DEAD, 11)
    figures = [group(0, holding_tokens=50), group(1, running_requests=3)._replace(entry=dead)]
    text = exposition(figures, [], {}).decode()
    found = {family.name: family for family in text_string_to_metric_families(text)}

    assert value(found["levelhead_group_state"], group="1", state="dead") == 1
    assert value(found["levelhead_group_epoch"], group="1") == 11
    for name in ("running_requests", "steps", "load_tokens", "in_flight_tokens"):
        assert [s.labels["group"] for s in found[f"levelhead_{name}"].samples] == ["0"]


def test_what_a_backend_does_not_tell_is_unknown_and_not_zero():
    """
    It takes steps, and nobody knows how many: 0 would be a group that starves.
    """
    entry = GroupEntry(0, GroupState.READY, 11, engine="vllm")
    figures = group(0, holding_tokens=50)._replace(entry=entry)
    text = exposition([figures], [], {}).decode()
    found = {family.name: family.samples for family in text_string_to_metric_families(text)}

    assert [sample.value for sample in found["levelhead_holding_tokens"]] == [50]
    for name in ("steps", "step_time_seconds", "waiting_uncached_tokens"):
        assert found[f"levelhead_{name}"] == []


def test_totals_of_groups_carry_the_group_that_told_them(scraped):
    """
    Each under a name of its own; the other group's are not zero, they are unknown.
    """
    names = ("prompt_tokens", "cached_tokens", "computed_tokens", "recomputed_tokens",
             "output_tokens", "retractions")  # fmt: skip
    families = [scraped[f"levelhead_group_{name}"] for name in names]

    assert [value(family, group="1") for family in families] == [60, 20, 40, 3, 9, 2]
    assert [len(family.samples) for family in families] == [1] * 6


def test_a_door_that_does_not_answer_is_down_and_has_no_other_series(scraped):
    """
    Its counters are not zero, they are unknown.
    """
    assert value(scraped["levelhead_front_door_up"], front_door="1") == 0
    assert value(scraped["levelhead_front_door_up"], front_door="2") == 1
    for name, family in scraped.items():
        if name != "levelhead_front_door_up":
            assert [s for s in family.samples if s.labels.get("front_door") == "1"] == []


def test_counters_of_doors_carry_the_door(scraped):
    """
    So that a restart of one looks like a restart of one.
    """
    labels = {"front_door": "0", "method": "minimum_tokens"}
    assert value(scraped["levelhead_dispatches"], **labels, group="1") == 4
    assert value(scraped["levelhead_responses"], front_door="0", status="503") == 2
    assert value(scraped["levelhead_prompt_tokens"], front_door="0", source="exact") == 60
    assert value(scraped["levelhead_retries"], front_door="0", reason="lost") == 3
    assert value(scraped["levelhead_settlements"], front_door="0", outcome="unseen") == 4
    assert value(scraped["levelhead_open_settlements"], front_door="0") == 6


def test_stale_figures_are_told_by_door_and_group(scraped):
    """
    Now, and how often it came to that.
    """
    stale = scraped["levelhead_stale_figures"]
    assert value(stale, front_door="0", group="0") == 0
    assert value(stale, front_door="0", group="1") == 1
    assert value(stale, front_door="2", group="1") == 0
    assert value(scraped["levelhead_stale_transitions"], front_door="0", group="1") == 5


def test_histograms_are_cumulative_and_end_with_all(scraped):
    """
    As Prometheus wants them.
    """
    family = scraped["levelhead_time_to_first_token_seconds"]
    buckets = {
        sample.labels["le"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["front_door"] == "0"
    }
    assert (buckets["0.001"], buckets["0.04"], buckets["0.06"], buckets["+Inf"]) == (1, 1, 3, 4)
    counts = list(buckets.values())
    assert counts == sorted(counts)
    of_door = [sample for sample in family.samples if sample.labels["front_door"] == "0"]
    assert [sample.value for sample in of_door if sample.name.endswith("_count")] == [4]


def test_drift_is_known_only_when_all_books_are(scraped):
    """
    With a door away the books' sum is not all books' sum.
    """
    assert scraped["levelhead_ledger_drift_tokens"].samples == []
    text = exposition([group(0, holding_tokens=50)], [told(0, Meters(2))], {}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert value(families["levelhead_ledger_drift_tokens"], group="0") == 50 + 7 - 40


def test_each_source_of_backends_tells_whether_it_is_good(caplog):
    """
    One that is bad goes on with what it told; one that never told has no time.
    """
    good, bad, new = (Standing(name, clock_s=lambda: 77.0) for name in ("good", "bad", "new"))
    for standing in (good, bad):
        standing.good([Backend("a", 1), Backend("b", 1)], lambda told: None)
    bad.bad("it is gone")
    text = exposition([], [], {}, (good, bad, new)).decode()
    found = {family.name: family for family in text_string_to_metric_families(text)}

    names = ("good", "backends", "changed_timestamp_seconds")
    told = {
        name: {
            sample.labels["source"]: sample.value
            for sample in found[f"levelhead_backend_source_{name}"].samples
        }
        for name in names
    }
    assert told == {
        "good": {"good": 1.0, "bad": 0.0, "new": 0.0},
        "backends": {"good": 2.0, "bad": 2.0, "new": 0.0},
        "changed_timestamp_seconds": {"good": 77.0, "bad": 77.0},
    }
