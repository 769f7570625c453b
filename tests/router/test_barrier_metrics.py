"""What the barrier costs, from a leader's answer to a scrape."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.control_plane.barrier_figures import QUANTITIES
from router.control_plane.metrics import exposition
from router.control_plane.totals import Totals, TotalsReader
from tests.router.asking import entry
from workers.lockstep import barrier_totals
from workers.lockstep.barrier_totals import BarrierTotals
from workers.lockstep.row import StepRow, Timing, Work

pytestmark = pytest.mark.anyio

MS = 1_000_000
TOTALS = Totals(60, 20, 40, 3, 9, 2)


def row(*work, step_ms=0, waited_ms=0):
    return StepRow(Work(*work), Timing(step_ms * MS, waited_ms * MS), False, 0, None)


def told_barrier():
    """Two groups, two steps: one in which the first has all tokens, one in which they are level."""
    totals = BarrierTotals(2)
    totals.note([row(6, 1, 1, 6, 6, 21), row()])
    totals.note([row(1, 1, 1, 7, 0, 7, step_ms=50, waited_ms=2),
                 row(1, 1, 1, 7, 0, 7, step_ms=50, waited_ms=32)])  # fmt: skip
    totals.note([row(step_ms=20, waited_ms=3), row(step_ms=20, waited_ms=3)])
    return totals.read().as_dict()


async def read(barrier, num_groups=2):
    answers = {1000: TOTALS._asdict() | {"barrier": barrier}}

    def respond(request):
        plain = {name: value for name, value in TOTALS._asdict().items() if name != "barrier"}
        return httpx.Response(200, json=answers.get(request.url.port, plain))

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        return await TotalsReader(client).read([entry(rank) for rank in range(num_groups)])


def families(totals):
    text = exposition([], [], totals).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(family, name=None, **labels):
    (found,) = [s.value for s in family.samples if s.labels == labels and name in (None, s.name)]
    return found


def test_both_sides_speak_of_the_same_quantities():
    """
    The one that counts and the one that reads.
    """
    assert tuple(barrier_totals.QUANTITIES) == QUANTITIES


async def test_a_scrape_tells_the_share_of_time_that_each_group_waits():
    """
    70 ms of steps; the second was in collectives for 30 ms longer than the first.
    """
    scraped = families(await read(told_barrier()))

    prefix = "levelhead_dp_attention"
    waits, seconds = scraped[f"{prefix}_sync_wait_seconds"], scraped[f"{prefix}_step_seconds"]
    told = {
        group: value(waits, f"{prefix}_sync_wait_seconds_sum", group=group)
        / value(seconds, f"{prefix}_step_seconds_total", group=group)
        for group in ("0", "1")
    }
    assert told == {"0": 0, "1": pytest.approx(3 / 7)}
    bucket = f"{prefix}_sync_wait_seconds_bucket"
    assert value(waits, bucket, group="1", le="0.025") == 1
    assert value(waits, bucket, group="1", le="0.05") == 2
    assert value(waits, bucket, group="1", le="+Inf") == 2
    assert value(scraped[f"{prefix}_steps"], group="1") == 2
    assert value(scraped[f"{prefix}_idle_steps"], group="0") == 0
    assert value(scraped[f"{prefix}_idle_steps"], group="1") == 1


async def test_a_scrape_tells_how_unlike_the_groups_were():
    """
    By group, the largest, and the ratio of each step.
    """
    scraped = families(await read(told_barrier()))

    prefix = "levelhead_dp_attention"
    assert value(scraped[f"{prefix}_tokens"], group="0") == 7
    assert value(scraped[f"{prefix}_tokens"], group="1") == 1
    assert value(scraped[f"{prefix}_max_tokens"]) == 7
    assert value(scraped[f"{prefix}_kv_tokens"], group="0") == 13
    assert value(scraped[f"{prefix}_attention_pairs"], group="1") == 7
    ratio = scraped[f"{prefix}_token_imbalance_ratio"]
    name = f"{prefix}_token_imbalance_ratio"
    assert value(ratio, f"{name}_sum") == 3
    assert value(ratio, f"{name}_count") == 2
    assert value(ratio, f"{name}_bucket", le="1.0") == 1
    assert value(ratio, f"{name}_bucket", le="2.0") == 2
    assert {f"{prefix}_{each}_imbalance_ratio" for each in
            ("token", "request", "kv_token", "attention_pair")} <= set(scraped)  # fmt: skip


async def test_groups_without_a_barrier_have_no_such_series():
    """
    The names are there still, as all are.
    """
    scraped = families(await read(None))

    mine = [family for name, family in scraped.items() if "dp_attention" in name]
    assert len(mine) == 4 + 3 * len(QUANTITIES)
    assert [family.name for family in mine if family.samples] == []
    assert value(scraped["levelhead_group_prompt_tokens"], group="0") == 60


BAD = {
    "list": [1],
    "no-groups": {"num_steps": 1, "quantities": {}},
    "a-quantity-less": told_barrier() | {"quantities": {}},
    "a-bound-less": told_barrier()
    | {"groups": [{"num_idle_steps": 0, "step_s": 1.0,
                   "waited_s": {"bounds": [], "counts": [1, 2], "total": 0.0}}]},
}  # fmt: skip


@pytest.mark.parametrize("barrier", BAD.values(), ids=list(BAD))
async def test_a_barrier_that_cannot_be_read_takes_nothing_from_other_groups(barrier):
    """
    Who told it has no totals.
    """
    assert list(await read(barrier)) == [1]
