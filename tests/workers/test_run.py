"""
Two real ranks: processes, gloo, HTTP, and the load segment they publish in.

Processes take their time, so these tests wait, with a limit, for what the
segment says; what they assert does not depend on how long that takes.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from shm import load
from shm.load import Accepted, LoadReader

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
EPOCH = 4321
PROMPT = list(range(10, 30))
ENDLESS = {"prompt": PROMPT, "max_tokens": 1500, "ignore_eos": True, "stream": True}


def wait_for(what, probe):
    """Return probe's first true result."""
    deadline = time.monotonic() + LIMIT_S
    while not (result := probe()):
        assert time.monotonic() < deadline, f"no {what} within {LIMIT_S} s"
        time.sleep(0.01)
    return result


class Ranks:
    """Two groups of a tiny model, and a reader of their load segment."""

    def __init__(self, model, run_dir):
        self.run_dir = run_dir
        self.instance = f"test_{uuid4().hex[:12]}"
        self.segment = load.create(self.instance, 2, 2, EPOCH)
        self.reader = LoadReader.attach(self.instance)
        self.processes = [self._start(rank, model) for rank in range(2)]

    def _start(self, rank, model):
        flags = {
            "--instance": self.instance, "--instance-epoch": EPOCH, "--run-dir": self.run_dir,
            "--dp-rank": rank, "--dp-size": 2, "--num-front-doors": 2,
            "--rendezvous": f"file://{self.run_dir}/rendezvous", "--model": model,
            "--served-model-name": "tiny", "--dtype": "float32", "--heartbeat-s": 0.05,
        }  # fmt: skip
        return start(*(str(part) for flag in flags.items() for part in flag))

    def card(self, rank):
        path = self.run_dir / f"group-{rank}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def url(self, rank):
        return "http://{host}:{port}".format(**wait_for("card", lambda: self.card(rank)))

    def report(self, rank):
        snapshot = self.reader.snapshot()
        reports = snapshot.reports if snapshot else ()
        return next((r for r in reports if r.dp_rank == rank), None)

    def wait_for_report(self, rank, what, condition):
        """Return the rank's first report for which condition holds."""

        def probe():
            report = self.report(rank)
            return report if report is not None and condition(report) else None

        return wait_for(what, probe)

    def close(self):
        for process in self.processes:
            process.kill()
            process.communicate()
        self.reader.close()
        self.segment.close()
        self.segment.unlink()


def start(*flags):
    command = [sys.executable, "-m", "workers", *flags]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.fixture(name="ranks")
def _ranks(tiny_llama, tmp_path):
    ranks = Ranks(tiny_llama, tmp_path)
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
        assert report.accepted == (Accepted(0, 0, 0), Accepted(99, 25, 1))
        assert report.group_epoch == ranks.card(rank)["epoch"]

    check_disconnect(ranks, second)

    ranks.processes[1].kill()
    before = ranks.wait_for_report(0, "report", lambda r: r.running_requests == 0)
    assert httpx.post(f"{first}/v1/completions", json=answer).status_code == 200
    ranks.wait_for_report(0, "report after the kill", lambda r: r.sampled_ns > before.sampled_ns)
    assert ranks.report(1) is not None, "the last report of the dead rank stands"

    check_stop(ranks, first)
    _, log = ranks.processes[0].communicate(timeout=LIMIT_S)
    assert ranks.processes[0].returncode == 0
    assert ranks.card(0) is None
    assert log.count("rank 1 sends no load reports any more") == 1


def check_stop(ranks, url):
    """A worker that is stopped ends its streams with a reason."""
    with httpx.stream("POST", f"{url}/v1/completions", json=ENDLESS) as response:
        lines = response.iter_lines()
        next(lines)
        ranks.processes[0].send_signal(signal.SIGTERM)
        *_, last, done = (line for line in lines if line)
    assert "stopped" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert done == "data: [DONE]"


def check_disconnect(ranks, url):
    with httpx.stream(
        "POST", f"{url}/v1/completions", json=ENDLESS, headers=charged(7, 30)
    ) as response:
        chunks = response.iter_raw()  # dropping it would close the connection
        next(chunks)
        report = ranks.wait_for_report(1, "growth", lambda r: r.holding_tokens > len(PROMPT) + 5)
        assert report.running_requests == 1
        assert report.accepted[1] == Accepted(99, 55, 2)
        assert report.kv_used_tokens >= len(PROMPT)
    report = ranks.wait_for_report(1, "abort", lambda r: not r.holding_tokens)
    assert report.num_steps < 1500
    assert report.accepted[1] == Accepted(99, 55, 2)


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
        "--rendezvous": f"file://{tmp_path}/rendezvous", "--model": str(tiny_llama),
        "--served-model-name": "tiny", "--log-level": "error",
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
        "--rendezvous", f"file://{tmp_path}/rendezvous", "--model", str(tiny_llama),
        "--served-model-name", "tiny",
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
def test_a_rank_that_waits_for_the_others_can_be_stopped(tiny_llama, tmp_path):
    """
    The signal is heard although the main thread is inside torch.distributed.
    """
    process = start(
        "--instance", "none", "--instance-epoch", "1", "--run-dir", str(tmp_path),
        "--dp-rank", "0", "--dp-size", "2", "--num-front-doors", "1",
        "--rendezvous", f"file://{tmp_path}/rendezvous", "--model", str(tiny_llama),
        "--served-model-name", "tiny",
    )  # fmt: skip
    wait_for("rendezvous", (tmp_path / "rendezvous").exists)

    process.send_signal(signal.SIGTERM)

    _, log = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert "stopped by signal 15" in log
