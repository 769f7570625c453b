"""Two real ranks in lock step: what the barrier costs them, and what their reports say of steps."""

from uuid import uuid4

import httpx
import pytest

from shm import load
from shm.load import LoadReader
from tests.workers.ranks_rig import EPOCH, read_json, start, wait_for


@pytest.fixture(name="leaders")
def _leaders(tiny_llama, tmp_path):
    """URLs of both groups' leaders, and a reader of their reports."""
    instance = f"test_{uuid4().hex[:12]}"
    segment = load.create(instance, 2, 1, EPOCH)
    reader = LoadReader.attach(instance)
    flags = {
        "--instance": instance, "--instance-epoch": EPOCH, "--run-dir": tmp_path, "--dp-size": 2,
        "--tp-size": 2, "--num-front-doors": 1, "--model": tiny_llama, "--dtype": "float32",
        "--served-model-name": "tiny", "--heartbeat-s": 0.05,
    }  # fmt: skip
    words = [str(part) for flag in flags.items() for part in flag]
    logs = [(tmp_path / f"log-{rank}").open("w") for rank in (0, 1)]
    ranks = [
        start(*words, "--enable-dp-attention", "--dp-rank", str(rank), stderr=log)
        for rank, log in enumerate(logs)
    ]
    try:
        cards = [wait_for("card", lambda i=i: read_json(tmp_path / f"group-{i}.json"))
                 for i in (0, 1)]  # fmt: skip
        yield ["http://{host}:{port}".format(**card) for card in cards], reader
    finally:
        for rank, log in zip(ranks, logs, strict=True):
            rank.kill()
            rank.wait()
            log.close()
        reader.close()
        segment.close()
        segment.unlink()


@pytest.mark.slow
def test_a_request_to_one_group_is_steps_of_both(leaders):
    """
    Rank 0 tells what that cost; the other group was idle, and reports the steps that it joined.
    """
    (first, second), reader = leaders

    body = {"prompt": [5, 6, 7, 8], "max_tokens": 6, "ignore_eos": True}
    httpx.post(f"{second}/v1/completions", json=body, timeout=60).raise_for_status()

    barrier = wait_for("time of the last step", lambda: _all_timed(first))
    assert barrier["num_steps"] == 6
    assert [group["num_idle_steps"] for group in barrier["groups"]] == [6, 0]
    assert barrier["quantities"]["tokens"]["by_group"] == [0, 4 + 5]
    assert barrier["quantities"]["tokens"]["ratio"]["total"] == 6 * 2
    assert all(group["step_s"] > 0 for group in barrier["groups"])
    assert all(0 <= g["waited_s"]["total"] < g["step_s"] for g in barrier["groups"])
    assert "barrier" not in httpx.get(f"{second}/totals").json()
    reports = wait_for("reports", lambda: _of_steps(reader, 6))
    assert {report.step_time_ns for report in reports} == {reports[0].step_time_ns}
    assert reports[0].step_time_ns > 0


def _all_timed(url):
    barrier = httpx.get(f"{url}/totals").json()["barrier"]
    timed = sum(barrier["groups"][0]["waited_s"]["counts"])
    return barrier if timed == barrier["num_steps"] > 0 else None


def _of_steps(reader, num_steps):
    snapshot = reader.snapshot()
    reports = snapshot.reports if snapshot else ()
    is_told = len(reports) == 2 and all(report.num_steps == num_steps for report in reports)
    return reports if is_told else None
