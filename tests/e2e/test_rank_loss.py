"""A rank of a set that computes together is lost: all begin anew, and who waits is answered."""

import concurrent.futures
import contextlib
import json
import os
import signal

import httpx
import pytest

from shm.process import ProcessId, is_alive
from tests.e2e.instance import RunningInstance, eventually

pytestmark = pytest.mark.slow

LONG = {"prompt": "a", "max_tokens": 1500, "ignore_eos": True, "temperature": 0, "stream": True}
SHORT = {"prompt": "b", "max_tokens": 4, "ignore_eos": True, "temperature": 0}
RANKS = ("workers0", "workers1")


@pytest.fixture(scope="module", name="instance")
def _instance(tiny_llama):
    """Two ranks that compute together; each group runs one request, and the others wait."""
    with RunningInstance(
        *("--model", str(tiny_llama), "--served-model-name", "tiny", "--threads-per-rank", "1"),
        *("--enable-dp-attention", "--dp-size", "2", "--dist-timeout", "3"),
        *("--max-running-requests", "1"),
    ) as running:
        yield running


def _asked(instance, pool):
    url = f"{instance.url}/v1/completions"
    return pool.submit(httpx.post, url, json=SHORT | {"model": "tiny"}, timeout=60)


def _is_quiet(instance):
    """Nothing is held, on its way, or waiting."""
    held = ("holding_tokens", "in_flight_tokens", "in_flight_requests")
    return (
        all(load[key] == 0 for load in instance.loads() for key in held)
        and instance.metric("levelhead_front_door_waiting_requests") == 0
    )


@contextlib.contextmanager
def _one_stream_each(instance):
    """Each group streams to a client that has had a byte, and has no place for another."""
    with contextlib.ExitStack() as stack:
        streams = []
        for _ in range(2):
            asking = httpx.stream(
                "POST", f"{instance.url}/v1/completions", json=LONG | {"model": "tiny"}, timeout=60
            )
            stream = stack.enter_context(asking)
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            streams.append((stream.headers["x-levelhead-dp-rank"], lines))
        assert {dp_rank for dp_rank, _ in streams} == {"0", "1"}
        yield [lines for _, lines in streams]


def _end_of(lines):
    """The error that a stream ends with, after which it says nothing."""
    *_, last = (json.loads(line.removeprefix("data: ")) for line in lines if line)
    return last["error"]["code"]


def _are_over(pids):
    return not any(is_alive(ProcessId(pid, 0)) for pid in pids)


def test_when_a_rank_is_killed_all_begin_anew_and_who_waits_is_answered(instance):
    """
    Streams end with one error event; what had no byte yet and what comes then waits.

    Afterwards nothing is held and nothing is in flight: each was counted once.
    """
    asking = concurrent.futures.ThreadPoolExecutor(4)
    with asking as pool, _one_stream_each(instance) as streams:
        before = [instance.children()[rank] for rank in RANKS]
        sent = [_asked(instance, pool) for _ in range(2)]
        eventually(lambda: instance.metric("levelhead_dispatches_total") == 4, "sent")

        os.kill(before[1], signal.SIGKILL)

        assert [_end_of(lines) for lines in streams] == ["dp_group_lost"] * 2
        late = [_asked(instance, pool) for _ in range(2)]
        answers = [answer.result() for answer in (*sent, *late)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert _are_over(before)
    eventually(lambda: _is_quiet(instance), "quiet")
    assert instance.metric("levelhead_ledger_drift_tokens") == 0
    assert instance.metric("levelhead_responses_total") == 6
    (told,) = [line for line in instance.seen() if "all 2 ranks are started again" in line]
    assert f"rank 1 (pid {before[1]}) was ended by SIGKILL" in told


def test_a_rank_that_is_stopped_is_found_by_those_who_wait_for_it(instance):
    """
    After --dist-timeout; who was sent to it, or comes in the meantime, is answered.
    """
    num_answered = instance.metric("levelhead_responses_total")
    before = [instance.children()[rank] for rank in RANKS]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        os.kill(before[1], signal.SIGSTOP)

        answers = [_asked(instance, pool) for _ in range(4)]

        assert [answer.result().status_code for answer in answers] == [200] * 4
    assert _are_over(before)
    assert any(f"rank 0 (pid {before[0]}) exited with status 1" in line for line in instance.seen())
    eventually(lambda: _is_quiet(instance), "quiet")
    assert instance.metric("levelhead_responses_total") == num_answered + 4
