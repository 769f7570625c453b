"""Emulated ranks behind a real front door: real processes, short steps, no weights."""

import itertools
import json
import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.instance import RunningInstance, eventually

BASE_MS, TOKEN_MS, REQUEST_MS, PREFILL_MS = COST = (4.0, 0.001, 0.5, 0.0005)
LENGTHS = (30, 700, 80, 3010, 220, 5050)  # no two equal modulo 200: no prefix in common
MAX_TOKENS = 20


def flags(model, log):
    cost = ",".join(map(str, COST))
    return (
        *("--model", str(model), "--dp-size", "2", "--device", "emulated"),
        *("--emulated-step-cost", cost, "--emulated-step-log", str(log)),
        *("--max-model-len", "20000", "--load-balance-method", "round_robin"),
    )


def ask(instance, num_tokens, max_tokens=MAX_TOKENS):
    prompt = [17 + (num_tokens + 7 * n) % 200 for n in range(num_tokens)]
    body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
    return httpx.post(f"{instance.url}/v1/completions", json=body, timeout=60)


def rounds(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def own_ms(rank):
    return (
        TOKEN_MS * rank["kv_tokens"]
        + REQUEST_MS * rank["requests"]
        + PREFILL_MS * rank["prefill_tokens"]
    )


@pytest.mark.slow
def test_emulated_ranks_step_together_for_as_long_as_the_slowest_takes(tiny_llama, tmp_path):
    """
    All by the log's own figures.  Some prompts are longer than the model's context; each
    token of each is computed in some round.
    """
    log = tmp_path / "steps.jsonl"
    with RunningInstance(*flags(tiny_llama, log)) as instance:
        with ThreadPoolExecutor(len(LENGTHS)) as pool:
            answers = list(pool.map(lambda length: ask(instance, length), LENGTHS))
        instance.stop()

    assert [answer.status_code for answer in answers] == [200] * len(LENGTHS)
    assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [
        MAX_TOKENS
    ] * len(LENGTHS)
    made = rounds(log)
    for one in made:
        slowest_ms = max(map(own_ms, one["ranks"]))
        assert one["duration_ms"] == pytest.approx(BASE_MS + slowest_ms)
        assert [rank["cost_ms"] for rank in one["ranks"]] == pytest.approx(
            [own_ms(rank) for rank in one["ranks"]]
        )
    assert any(len(one["ranks"]) == 2 for one in made), "they were never in one round"
    for before, after in itertools.pairwise(made):
        assert after["start_s"] >= before["start_s"] + before["duration_ms"] / 1e3 - 1e-6
    computed = Counter()
    for one in made:
        for rank in one["ranks"]:
            computed["prompt"] += rank["prefill_tokens"]
    assert computed["prompt"] == sum(LENGTHS)


@pytest.mark.slow
def test_ranks_go_on_when_the_one_that_paces_them_has_died(tiny_llama, tmp_path):
    """
    They wait for its next life, as for a rank of DP attention; then requests end.
    """
    log = tmp_path / "steps.jsonl"
    with RunningInstance(*flags(tiny_llama, log), "--max-queued-requests", "64") as instance:
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, instance, 100 + n, 400) for n in range(4)]
            eventually(lambda: log.exists() and len(rounds(log)) > 5, "some rounds")
            os.kill(instance.children()["workers0"], signal.SIGKILL)
            statuses = [each.result().status_code for each in asked]
        assert set(statuses) <= {200, 502, 503}
        assert 200 in statuses
        eventually(lambda: ask(instance, 50, 5).status_code == 200, "an answer")
