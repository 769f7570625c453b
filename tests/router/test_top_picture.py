"""What is shown of an instance, before any terminal."""

import json
import re
from pathlib import Path

import pytest

from router.top.bars import FINE, bar, sparkline
from router.top.decisions import Decisions
from router.top.group_lines import group_line
from router.top.picture import Album, as_json
from shm.group_table import GroupState
from tests.figures import group_figures
from tests.router.pictures import front_doors, loads, look, meters, picture


def test_a_groups_row_has_what_it_holds_what_waits_of_it_and_what_is_in_flight():
    """
    Waiting prompt tokens are part of holding, and never more.
    """
    told = loads(
        group_figures(0, in_flight=(50, 2), holding_tokens=300, waiting_uncached_tokens=120),
        group_figures(1, holding_tokens=10, waiting_uncached_tokens=99),
    )

    first, second = picture(look(told=told)).groups

    assert (first.holding_tokens, first.waiting_tokens, first.in_flight_tokens) == (300, 120, 50)
    assert first.load_tokens == 350
    assert second.waiting_tokens == 10


def test_what_is_in_flight_to_a_backend_counts_once():
    """
    Its own figures have it; what is compared is what imbalance is made of, and fills the bar.
    """
    figures = group_figures(0, in_flight=(400, 2), holding_tokens=1000)._replace(booked_tokens=1100)
    told = loads(figures, group_figures(1, holding_tokens=100))

    row, other = picture(look(told=told)).groups

    assert (row.holding_tokens, row.in_flight_tokens, row.load_tokens) == (1000, 400, 1100)
    assert told.imbalance == 1100 / ((row.load_tokens + other.load_tokens) / 2)
    line = group_line(row, 1100, FINE, 80).plain
    assert line.count(FINE.in_flight) < line.count(FINE.computed) / 5


def test_a_group_that_has_reported_nothing_has_unknown_figures_and_no_error():
    """
    As one that is starting.
    """
    told = loads(group_figures(0)._replace(report=None, age_s=None))

    row = picture(look(told=told)).groups[0]

    assert (row.running_requests, row.step_time_ms, row.age_s) == (None, None, None)
    assert row.load_tokens == 0
    assert not row.is_stale


@pytest.mark.parametrize(("age_s", "said", "is_stale"), [(1.9, 0, 0), (2.1, 0, 1), (0.1, 1, 1)])
def test_figures_are_stale_by_their_age_or_a_front_doors_word(age_s, said, is_stale):
    """
    The limit is the instance's own.
    """
    door = meters() | {"stale_groups": [said, 0]}
    told = loads(group_figures()._replace(age_s=age_s), doors=front_doors(door))

    assert picture(look(told=told)).groups[0].is_stale == bool(is_stale)


def test_the_worst_come_first_where_not_all_have_room():
    """
    Who is not well before the fullest; with room for all, by number.
    """
    groups = [group_figures(rank, holding_tokens=rank) for rank in range(200)]
    groups[7] = group_figures(7, GroupState.DEAD)
    shown = picture(look(told=loads(*groups, doors=front_doors(meters(to=(0,) * 200)))))

    assert [row.dp_rank for row in shown.worst(4)] == [7, 199, 198, 197]
    assert [row.dp_rank for row in shown.worst(200)] == list(range(200))


def test_an_instance_that_tells_nothing_leaves_a_gap_and_says_so():
    """
    The last figures stay, with their age; when it answers again the notice goes.
    """
    album = Album()
    album.take(look(10.0))
    album.miss("refused")

    lost = album.picture(15.0)
    album.take(look(16.0))
    back = album.picture(16.0)

    assert lost.notices == ("no figures for 5 s: refused",)
    assert [row.load_tokens for row in lost.groups] == [300, 100]
    assert back.imbalances == (1.5, None, 1.5)
    assert back.notices == ()


def test_a_restart_is_told_for_a_while():
    """
    By the instance's epoch; its rates begin anew.
    """
    album = Album()
    album.take(look(0.0, loads(doors=front_doors(meters(requests=9), epoch=1))))
    album.take(look(1.0, loads(doors=front_doors(meters(requests=1), epoch=2))))

    assert album.picture(4.0).notices == ("the instance was started anew 3 s ago",)
    assert album.picture(4.0).rates is None
    assert album.picture(40.0).notices == ()


def test_front_doors_that_do_not_answer_are_told_of():
    """
    As many as there should be are known.
    """
    told = loads(doors=front_doors(meters(), num_front_doors=3))

    assert picture(look(told=told)).notices == ("1 of 3 front doors answer",)

    nobody = picture(look(told=loads(doors=front_doors(num_front_doors=1))))
    assert (nobody.num_front_doors_up, nobody.open_requests, nobody.waiting_requests) == (
        0, None, None,
    )  # fmt: skip


def test_an_earlier_versions_loads_show_groups_and_say_what_is_missing():
    """
    Nothing is made up for it.
    """
    told = loads()
    told.front_doors = None

    shown = picture(look(told=told), look(1.0, told))

    assert shown.rates is None
    assert shown.open_requests is None
    assert "of an earlier version" in shown.notices[0]
    assert [row.requests_per_s for row in shown.groups] == [None, None]


def test_what_scripts_get_is_json_with_the_same_figures():
    """
    Nothing is left out that the terminal shows.
    """
    doors = front_doors(meters(requests=8, prompt=100, to=(6, 2), ttfts=(0.05,)))
    told = as_json(
        picture(
            look(0.0, loads(doors=front_doors(meters()))),
            look(2.0, loads(doors=doors), Decisions(({"dp_rank": 1},))),
        )
    )

    assert json.loads(json.dumps(told)) == told
    assert list(told) == [
        "instance", "method", "timestamp", "imbalance", "num_front_doors", "num_front_doors_up",
        "open_requests", "waiting_requests", "rates_per_s", "latencies_s", "groups", "decisions",
        "no_decisions", "notices",
    ]  # fmt: skip
    assert list(told["groups"][0]) == [
        "dp_rank", "state", "holding_tokens", "waiting_tokens", "in_flight_tokens",
        "load_tokens", "running_requests", "waiting_requests", "requests_per_s", "step_time_ms",
        "age_s", "is_stale", "condition",
    ]  # fmt: skip
    reference = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    _, section = reference.split("## Flags of `levelhead top`")
    documented = set(re.findall(r"`(\w+)`", section.split("\n## ")[0]))
    assert {*told, *told["groups"][0], *told["rates_per_s"], *told["latencies_s"]} <= documented
    assert told["imbalance"] == 1.5
    assert told["rates_per_s"] == {
        "requests": 4.0, "errors": 0.0, "prompt_tokens": 50.0, "streamed_tokens": 0.5,
    }  # fmt: skip
    assert set(told["latencies_s"]) == {"ttft", "inter_token", "end_to_end", "decision"}
    assert [group["requests_per_s"] for group in told["groups"]] == [3.0, 1.0]
    assert told["decisions"] == [{"dp_rank": 1}]


def test_bars_of_equal_sums_are_equally_long_and_small_parts_are_seen():
    """
    Ends are rounded, and not each part by itself.
    """
    assert sum(bar(333, 333, 334, 1000, 20)) == sum(bar(1000, 0, 0, 1000, 20)) == 20
    assert bar(5000, 0, 1, 10_000, 20) == (10, 0, 1)
    assert bar(0, 0, 0, 0, 20) == (0, 0, 0)
    assert sum(bar(9999, 1, 1, 10_001, 20)) == 20


def test_a_sparkline_rises_from_level_and_has_gaps_where_nothing_is_known():
    """
    The newest at the right; a ripple stays low.
    """
    assert sparkline([1.0, 1.05, None, 2.0], 6, FINE.rising) == "  ▁▁ █"
    assert sparkline([1.0, 3.0], 2, FINE.rising) == "▁█"
    assert sparkline([5.0] * 9, 3, FINE.rising) == "███"
    assert sparkline([1.0], 0, FINE.rising) == ""
