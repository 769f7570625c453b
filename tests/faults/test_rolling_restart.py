"""Every group is restarted in turn, under load."""

import asyncio
import time

import httpx
import pytest

from tests.e2e.instance import RunningInstance, eventually
from tests.faults.chaos.cases import learn_cases
from tests.faults.chaos.judgement import Doors, Outcome, judge
from tests.faults.chaos.traffic import Traffic

pytestmark = pytest.mark.slow

NUM_GROUPS = 2
LIMIT_S = 120.0


def _drain_in_turn(instance):
    for dp_rank in range(NUM_GROUPS):
        before = _groups(instance)[dp_rank]
        answer = httpx.post(f"{instance.url}/admin/groups/{dp_rank}/drain")
        assert answer.status_code == 202, answer.text
        eventually(lambda r=dp_rank, b=before: _is_back(instance, r, b), f"{dp_rank} is back")


def _groups(instance):
    """State and epoch by group."""
    return {load["dp_rank"]: (load["state"], load["epoch"]) for load in instance.loads()}


def _is_back(instance, dp_rank, before):
    state, epoch = _groups(instance)[dp_rank]
    return state == "ready" and epoch > before[1]


async def _under_load(traffic, act):
    running = asyncio.create_task(traffic.run(LIMIT_S))
    await asyncio.to_thread(act)
    traffic.end()
    await running


def test_a_rolling_restart_under_load_fails_no_request(tiny_llama):
    """
    Each group drains, ends and comes back in a new epoch; every request gets its whole answer.
    """
    with RunningInstance(
        *("--model", str(tiny_llama), "--served-model-name", "tiny", "--threads-per-rank", "1"),
        *("--dtype", "float32", "--dp-size", str(NUM_GROUPS), "--front-doors", "2"),
    ) as instance:
        cases = learn_cases(instance.url, "tiny")
        before = _groups(instance)
        traffic = Traffic(instance.url, cases, 1, time.monotonic, leaving_share=0.0)
        asyncio.run(_under_load(traffic, lambda: _drain_in_turn(instance)))
        after = _groups(instance)

    verdicts = [judge(read, cases[ask.case].expected, Doors()) for ask, read in traffic.readings]
    print(f"\n{len(verdicts)} requests during {NUM_GROUPS} restarts")
    assert [v for v in verdicts if v.outcome is not Outcome.COMPLETED] == []
    assert len(verdicts) > 20
    assert all(after[rank][1] > before[rank][1] for rank in range(NUM_GROUPS))
