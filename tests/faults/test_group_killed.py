"""A group is killed under load: who notices, how soon, and who does not."""

import asyncio
import json
import signal
import time

import pytest

from tests.e2e.instance import RunningInstance, eventually
from tests.faults.chaos.client import Ask, Connection
from tests.faults.chaos.plan import Target
from tests.faults.chaos.processes import run_folder_of
from tests.faults.chaos.reading import End
from tests.faults.chaos.watch import Watch, is_ready

pytestmark = pytest.mark.slow

NUM_GROUPS = 3
RUNNING = 4
STREAMS = 24
BODY = {"model": "tiny", "prompt": "a", "max_tokens": 1900, "ignore_eos": True, "temperature": 0,
        "stream": True}  # fmt: skip
NOTICED_WITHIN_S = 2.0


@pytest.fixture(scope="module", name="instance")
def _instance(tiny_llama):
    """At most RUNNING requests of a group have had a byte; the others wait."""
    with RunningInstance(
        *("--model", str(tiny_llama), "--served-model-name", "tiny", "--threads-per-rank", "1"),
        *("--dp-size", str(NUM_GROUPS), "--front-doors", "2"),
        *("--max-running-requests", str(RUNNING), "--retry-max-retries", "1"),
    ) as running:
        yield running


@pytest.fixture(name="watch")
def _watch(instance):
    root, port = instance.process.pid, int(instance.url.rpartition(":")[2])
    with Watch(instance.name, root, port, run_folder_of(root), time.monotonic) as watch:
        eventually(lambda: _num_ready(watch) == NUM_GROUPS, "all groups are ready")
        yield watch


def _num_ready(watch):
    return sum(map(is_ready, watch.entries().values()))


def _leader(watch, dp_rank):
    return next(c for c in watch.children() if (c.target, c.number) == (Target.LEADER, dp_rank))


async def _streams_while(instance, strike):
    """Readings of STREAMS streams, during which strike() was called."""
    port = int(instance.url.rpartition(":")[2])
    ask = Ask(0, "/v1/completions", json.dumps(BODY).encode(), True)
    clients = [Connection("127.0.0.1", port, time.monotonic) for _ in range(STREAMS)]
    asking = [asyncio.create_task(client.ask(ask)) for client in clients]
    await asyncio.to_thread(eventually, lambda: _is_full(instance), "every group is full")
    await asyncio.to_thread(strike)
    readings = await asyncio.gather(*asking)
    for client in clients:
        client.close(by_reset=True)
    return readings


def _is_full(instance):
    """Whether every group runs what it may, and has requests that wait."""
    return all(
        load["num_running_reqs"] == RUNNING and load["num_waiting_reqs"]
        for load in instance.loads()
    )


def test_streams_of_other_groups_go_on_and_waiting_requests_move(instance, watch):
    """
    A stream of the killed group gets one error event if it has had a byte; else it is retried.

    Once, as the instance allows no more, so the first retry succeeds.  The group is excluded
    within 2 s, and comes back in a new epoch with figures of its own.
    """
    victim = (watch.term().dp_rank + 1) % NUM_GROUPS
    epoch = watch.entries()[victim].epoch
    struck_s = []

    def strike():
        struck_s.append(time.monotonic())
        _leader(watch, victim).signal(signal.SIGKILL)

    readings = asyncio.run(_streams_while(instance, strike))
    broken = [reading for reading in readings if reading.num_errors]
    whole = [reading for reading in readings if reading.is_done and not reading.num_errors]

    assert len(broken) + len(whole) == STREAMS
    assert {reading.dp_rank for reading in broken} <= {victim}
    assert {(r.end, r.status, r.num_errors, r.after_error) for r in broken} <= {
        (End.WHOLE, 200, 1, False)
    }
    assert len(broken) <= RUNNING
    assert {reading.finish_reason for reading in whole} == {"length"}
    retries = instance.metric("levelhead_retries_total")
    assert retries >= 1
    excluded_s, back_s = _told(watch, victim, epoch, struck_s[0])
    print(f"\n{len(broken)} broken, {retries:.0f} retries")
    print(f"excluded after {excluded_s:.2f} s, ready again after {back_s:.2f} s")
    assert excluded_s < NOTICED_WITHIN_S, "\n".join(
        map(str, [struck_s, victim, *watch.groups, *instance.seen()])
    )
    eventually(lambda: _ages(instance)[victim] is not None, "it reports in its new epoch")


def _told(watch, dp_rank, epoch, struck_s):
    """Seconds to exclusion and to recovery."""

    def is_out(entry):
        return entry.dp_rank == dp_rank and (entry.epoch != epoch or not is_ready(entry))

    def is_back(entry):
        return entry.dp_rank == dp_rank and entry.epoch > epoch and is_ready(entry)

    back_s = eventually(lambda: watch.first_s(struck_s, is_back), "it is ready again")
    return watch.first_s(struck_s, is_out) - struck_s, back_s - struck_s


def _ages(instance):
    return {load["dp_rank"]: load["age_s"] for load in instance.loads()}


def test_when_the_publisher_dies_another_publishes(instance, watch):
    """
    A new term begins at once, and the figures of those who live do not go stale for long.
    """
    term = watch.term()
    struck_s = time.monotonic()
    _leader(watch, term.dp_rank).signal(signal.SIGKILL)
    following = eventually(lambda: watch.term().term > term.term and watch.term(), "a new term")
    took_s = time.monotonic() - struck_s

    def living_report():
        ages = {rank: age for rank, age in _ages(instance).items() if rank != term.dp_rank}
        return all(age is not None and age < 1.0 for age in ages.values())

    eventually(living_report, "figures of the living are fresh")
    fresh_s = time.monotonic() - struck_s
    print(
        f"\ngroup {following.dp_rank} publishes after {took_s:.2f} s, fresh after {fresh_s:.2f} s"
    )
    eventually(lambda: watch.entries()[term.dp_rank].epoch > term.epoch, "its next life")
    eventually(lambda: _num_ready(watch) == NUM_GROUPS, "the old publisher is back")
    eventually(lambda: all(age is not None for age in _ages(instance).values()), "all report")
    assert watch.term() == following, "who comes back does not take over"
