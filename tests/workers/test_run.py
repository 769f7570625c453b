"""Real ranks from their start to their end."""

import json
import os
import signal
import subprocess
import sys
from uuid import uuid4

import httpx
import pytest

from shm import load
from shm.load import Accepted
from tests.workers.ranks_rig import EPOCH, LIMIT_S, ROOT, Ranks, start, wait_for

PROMPT = list(range(10, 30))
DRAINED = {"state": "draining"}
ENDLESS = {"prompt": PROMPT, "max_tokens": 1500, "ignore_eos": True, "stream": True}


@pytest.fixture(name="ranks")
def _ranks(tiny_llama, tmp_path):
    ranks = Ranks(tiny_llama, tmp_path, num_ranks=2)
    yield ranks
    ranks.close()


def charged(number, tokens):
    return {
        "x-levelhead-dp-balance-id": f"{number:016x}",
        "x-levelhead-front-door": "1/99",
        "x-levelhead-charge-tokens": str(tokens),
    }


@pytest.mark.slow
def test_two_ranks_serve_and_report(ranks):
    """
    Holding rises with a request and falls to zero when it ends or its client leaves;
    its charge is counted at once, and stays counted; and a rank that is killed
    leaves the other serving and publishing.
    """
    first, second = ranks.url(0), ranks.url(1)
    answer = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0}
    texts = [
        httpx.post(f"{url}/v1/completions", json=answer, headers=charged(n, 25)).json()["choices"]
        for n, url in enumerate((first, second))
    ]
    assert texts[0] == texts[1]
    for rank in (0, 1):
        report = ranks.wait_for_report(rank, "end", lambda r: r.num_steps and not r.holding_tokens)
        assert report.accepted == (Accepted(0, 0, 0, 0, 0), Accepted(99, 25, 1, 1, rank))
        assert report.group_epoch == ranks.card(rank)["epoch"]

    check_disconnect(ranks, second)

    ranks.kill(1)
    assert httpx.post(f"{first}/v1/completions", json=answer).status_code == 200
    ranks.wait_for_fresh_reports(0)
    assert ranks.report(1) is not None, "the last report of the dead rank stands"

    check_drain(ranks, first)
    assert "the link on which group 1 sent load reports is lost" in ranks.log(0)


def check_drain(ranks, url):
    """What runs at SIGTERM ends as it would have, and so does what comes after it."""
    slow = ENDLESS | {"max_tokens": 1000}
    with httpx.stream("POST", f"{url}/v1/completions", json=slow) as response:
        lines = response.iter_lines()
        next(lines)
        ranks.signal(0, signal.SIGTERM)
        wait_for("drain", lambda: ranks.card(0)["state"] == "draining")
        ranks.signal(0, signal.SIGTERM)  # again, which changes nothing
        late = {"prompt": PROMPT, "max_tokens": 2}
        assert httpx.post(f"{url}/v1/completions", json=late).status_code == 200
        *_, last, done = (line for line in lines if line)
    assert json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert done == "data: [DONE]"
    ranks.processes[0].wait(LIMIT_S)
    assert ranks.processes[0].returncode == 0
    assert ranks.card(0) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit_s", "signals"),
    [(0.1, [signal.SIGTERM]), (LIMIT_S, [signal.SIGINT, signal.SIGINT])],
    ids=["limit", "second SIGINT"],
)
def test_a_drain_is_cut(tiny_llama, tmp_path, limit_s, signals):
    """
    By its limit or by somebody's second SIGINT: streams end with a reason, and the
    exit code is 0.
    """
    ranks = Ranks(tiny_llama, tmp_path, num_ranks=1, drain_timeout_s=limit_s)
    try:
        url = ranks.url(0)
        with httpx.stream("POST", f"{url}/v1/completions", json=ENDLESS) as response:
            lines = response.iter_lines()
            next(lines)
            for number in signals:
                ranks.signal(0, number)
                wait_for("drain", lambda: (ranks.card(0) or DRAINED)["state"] == "draining")
            *_, last, done = (line for line in lines if line)
        assert "stopped" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert done == "data: [DONE]"
        assert ranks.processes[0].wait(LIMIT_S) == 0
        assert ranks.card(0) is None
    finally:
        ranks.close()


@pytest.mark.slow
def test_a_body_of_more_choices_than_the_flags_leave_room_for_is_refused(tiny_llama, tmp_path):
    """
    Seats and places in the queue together; as many as there are would be served.
    """
    limits = {"max_running_requests": 2, "max_queued_requests": 1}
    ranks = Ranks(tiny_llama, tmp_path, num_ranks=1, **limits)
    try:
        url = f"{ranks.url(0)}/v1/completions"
        body = {"prompt": PROMPT, "max_tokens": 2}
        refused = httpx.post(url, json=body | {"n": 4})
        assert refused.status_code == 400
        assert "a group takes at most 3" in refused.json()["error"]["message"]
        assert len(httpx.post(url, json=body | {"n": 3}).json()["choices"]) == 3
    finally:
        ranks.close()


def check_disconnect(ranks, url):
    with httpx.stream(
        "POST", f"{url}/v1/completions", json=ENDLESS, headers=charged(7, 30)
    ) as response:
        chunks = response.iter_raw()  # dropping it would close the connection
        next(chunks)
        report = ranks.wait_for_report(1, "growth", lambda r: r.holding_tokens > len(PROMPT) + 5)
        assert report.running_requests == 1
        assert report.accepted[1] == Accepted(99, 55, 2, 1, 1)
        assert report.kv_used_tokens >= len(PROMPT)
    report = ranks.wait_for_report(1, "abort", lambda r: not r.holding_tokens)
    assert report.num_steps < 1500
    assert report.accepted[1] == Accepted(99, 55, 2, 2, 1 + 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--dp-rank": "1"}, "--dp-rank is 1; with --dp-size 1 it must be in [0, 0]"),
        ({"--model": "/nowhere"}, "/nowhere"),
        ({"--page-size": "0"}, "0 is less than 1"),
        ({"--max-model-len": "4096"}, "--max-model-len is 4096; the model's 2048"),
    ],
)
def test_what_cannot_work_ends_with_code_2_and_one_line(tiny_llama, tmp_path, changes, message):
    """
    The line says what was asked for and what is possible.
    """
    flags = {
        "--instance": "none", "--instance-epoch": "1", "--run-dir": str(tmp_path),
        "--dp-rank": "0", "--dp-size": "1", "--num-front-doors": "1",
        "--model": str(tiny_llama), "--served-model-name": "tiny", "--log-level": "error",
    } | changes  # fmt: skip

    process = start(*(part for flag in flags.items() for part in flag))
    _, log = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 2
    assert log.count("\n") == 1
    assert message in log


LOADED_THEN_STOPPED = """
import signal, sys
from workers.config import parse
from workers.leader import run
run(parse(sys.argv[1:]), lambda: signal.raise_signal(signal.SIGTERM), on_fatal=print)
"""


@pytest.mark.slow
def test_a_signal_between_loading_and_serving_is_not_lost(tiny_llama, tmp_path):
    """
    It comes just when the one who listens while loading has stopped listening.
    """
    instance = f"test_{uuid4().hex[:12]}"
    segment = load.create(instance, 1, 1, EPOCH)
    flags = [
        "--instance", instance, "--instance-epoch", str(EPOCH), "--run-dir", str(tmp_path),
        "--dp-rank", "0", "--dp-size", "1", "--num-front-doors", "1",
        "--model", str(tiny_llama), "--served-model-name", "tiny",
    ]  # fmt: skip
    try:
        command = [sys.executable, "-c", LOADED_THEN_STOPPED, *flags]
        ended = subprocess.run(command, cwd=ROOT, timeout=LIMIT_S, check=False)
    finally:
        segment.close()
        segment.unlink()

    assert ended.returncode == 0
    assert not list(tmp_path.glob("group-*"))


@pytest.mark.slow
def test_a_rank_that_loads_can_be_stopped(tiny_llama, tmp_path):
    """
    The signal is heard although the main thread may be inside torch; here it reads
    a model that never comes.
    """
    model = tmp_path / "endless.gguf"
    os.mkfifo(model)
    process = start(
        "--instance", "none", "--instance-epoch", "1", "--run-dir", str(tmp_path),
        "--dp-rank", "0", "--dp-size", "2", "--num-front-doors", "1",
        "--model", str(model), "--served-model-name", "tiny",
    )  # fmt: skip
    model_file = os.open(model, os.O_WRONLY)  # waits until the worker opens it to read
    try:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=LIMIT_S)
    finally:
        os.close(model_file)

    assert process.returncode == 0
    assert "stopped by signal 15" in log
