"""What clients generate through a front door: SGLang's body, copies, draft and verify."""

import json
import subprocess
import sys

import httpx
import pytest

from tests.e2e.instance import RunningInstance

PROMPT = "The capital of France is"


@pytest.fixture(name="instance", scope="module")
def _instance():
    with RunningInstance("--dp-size", "1", "--dtype", "float32") as instance:
        yield instance


def charged(instance):
    """Prompt tokens that the front door has counted so far, exactly and by estimate."""
    lines = httpx.get(f"{instance.url}/metrics").text.splitlines()
    rows = [line.split(" ") for line in lines if line.startswith("levelhead_prompt_tokens_total")]
    return {name.split('source="')[1].rstrip('"}'): float(value) for name, value in rows}


@pytest.mark.parametrize(
    ("path", "body", "num_copies"),
    [
        ("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 3}}, 1),
        ("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 3, "n": 2}}, 2),
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 3, "n": 3}, 3),
    ],
)
def test_the_front_door_charges_what_the_group_will_hold(instance, path, body, num_copies):
    """
    The prompt's tokens, counted exactly, once for each copy of it.
    """
    ids = httpx.post(f"{instance.url}/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    before = charged(instance)

    answer = httpx.post(instance.url + path, json=body, timeout=60)

    assert answer.status_code == 200
    after = charged(instance)
    assert after["exact"] - before.get("exact", 0) == len(ids) * num_copies
    assert after.get("estimated") == before.get("estimated")


def test_draft_and_verify_computes_new_tokens_and_at_most_a_page(instance):
    """
    The script's own figures: nothing missed, and the output is that of plain decoding.
    """
    command = [sys.executable, "-m", "examples.draft_verify", "--url", instance.url]

    output = subprocess.run(
        [*command, "--rounds", "3", "--prompt-tokens", "200"],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip

    found = json.loads(output.splitlines()[-1])
    assert (found["requests"], found["misses"], found["groups"]) == (7, 0, [0])
    assert found["is_greedy"]


def test_a_groups_totals_grow_by_what_the_answers_usage_says(instance):
    """
    Over all groups, in /metrics: what leaders count reaches the control plane.
    """
    names = ("prompt_tokens", "output_tokens", "cached_tokens", "computed_tokens")

    def totals():
        return [instance.metric(f"levelhead_group_{name}_total") for name in names]

    before = totals()
    body = {"prompt": PROMPT, "max_tokens": 3}
    usage = httpx.post(f"{instance.url}/v1/completions", json=body, timeout=60).json()["usage"]

    cached = usage["prompt_tokens_details"]["cached_tokens"]
    grown = [now - then for now, then in zip(totals(), before, strict=True)]
    assert grown == [usage["prompt_tokens"], 3, cached, usage["prompt_tokens"] - cached]
