"""Forks through the front door of a running instance: where they land, and what they find there."""

import concurrent.futures
from collections import Counter

import httpx
import pytest

from tests.e2e.instance import RunningInstance, events, eventually

pytestmark = pytest.mark.slow

PAGE_SIZE = 16
PREFIX_TOKENS = 40 * PAGE_SIZE
NUM_FAMILIES, NUM_ROUNDS, NUM_FORKS = 4, 3, 2


def serve(model, method, dp_size):
    return RunningInstance(
        "--model", str(model), "--served-model-name", "tiny", "--threads-per-rank", "1",
        "--dp-size", str(dp_size), "--load-balance-method", method,
        "--page-size", str(PAGE_SIZE), "--dtype", "float32",
    )  # fmt: skip


def prefix(family):
    """Token ids that no other family begins with."""
    return [10 + family, *((37 * i + family) % 400 + 50 for i in range(PREFIX_TOKENS - 1))]


def ask(client, prompt, max_tokens=1):
    body = {"model": "tiny", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
    answer = client.post("/v1/completions", json=body).raise_for_status()
    usage = answer.json()["usage"]
    return int(answer.headers["x-levelhead-dp-rank"]), usage["prompt_tokens_details"][
        "cached_tokens"
    ]


def forks(instance, client, beside=None):
    """
    By family, the (dp_rank, cached tokens) of its first request and of rounds of forks.

    Forks of a round are sent together, when what was before has ended: a home that is still
    busy with others is passed over, and rightly.  beside: run between rounds.
    """
    seen = {family: [ask(client, [*prefix(family), 7])] for family in range(NUM_FAMILIES)}
    with concurrent.futures.ThreadPoolExecutor(NUM_FORKS) as pool:
        for number in range(NUM_ROUNDS):
            for family in range(NUM_FAMILIES):
                quiet(instance)
                prompts = [[*prefix(family), 8 + number, 20 + i, 3] for i in range(NUM_FORKS)]
                seen[family] += pool.map(lambda prompt: ask(client, prompt), prompts)
            if beside is not None:
                beside(number)
    return seen


def quiet(instance):
    keys = ("holding_tokens", "in_flight_tokens")
    eventually(lambda: not any(load[k] for load in instance.loads() for k in keys), "quiet")


def follows(instance, dp_size):
    eventually(lambda: instance.metric("levelhead_prefix_groups") == dp_size, "groups tell")


@pytest.mark.parametrize("dp_size", [2, 4])
def test_forks_land_on_the_group_that_holds_their_prefix(tiny_llama, dp_size):
    """
    Round after round, while other requests keep all groups in use; the prediction is exact.
    """
    others = Counter()
    with (
        serve(tiny_llama, "slack_affinity", dp_size) as instance,
        httpx.Client(base_url=instance.url, timeout=60) as client,
    ):
        follows(instance, dp_size)

        def other_traffic(number):
            for i in range(2 * dp_size):
                others[ask(client, [300 + number, 100 + i, *range(30)])[0]] += 1

        seen = forks(instance, client, other_traffic)
        predicted = instance.metric("levelhead_predicted_cached_tokens_total")

    for family, answers in seen.items():
        first, *later = answers
        assert first[1] == 0
        assert later == [(first[0], PREFIX_TOKENS)] * (NUM_ROUNDS * NUM_FORKS), family
    assert len({answers[0][0] for answers in seen.values()}) == dp_size
    assert sorted(others) == list(range(dp_size))
    assert predicted == NUM_FAMILIES * NUM_ROUNDS * NUM_FORKS * PREFIX_TOKENS


def test_without_affinity_forks_miss_their_prefix(tiny_llama):
    """
    Dealt out by load alone, some compute again what another group has.
    """
    with (
        serve(tiny_llama, "minimum_tokens", 2) as instance,
        httpx.Client(base_url=instance.url, timeout=60) as client,
    ):
        seen = forks(instance, client)

    misses = [cached for answers in seen.values() for _, cached in answers[1:] if not cached]
    assert misses


def test_a_fork_does_not_follow_its_prefix_to_a_group_that_is_busy(tiny_llama):
    """
    Its group generates something long: it would be the slowest, and the other is idle.
    """
    long = {"model": "tiny", "prompt": prefix(0), "max_tokens": 1200, "ignore_eos": True,
            "stream": True}  # fmt: skip
    with (
        serve(tiny_llama, "slack_affinity", 2) as instance,
        httpx.Client(base_url=instance.url, timeout=60) as client,
    ):
        follows(instance, 2)
        with client.stream("POST", "/v1/completions", json=long) as stream:
            received = events(stream)
            for _ in range(100):
                next(received)
            home = int(stream.headers["x-levelhead-dp-rank"])
            small = [*prefix(0)[: 4 * PAGE_SIZE], 5]
            away = ask(client, small)
        quiet(instance)
        back = []
        for number in range(3):
            back.append(ask(client, [*prefix(0), 6 + number]))
            quiet(instance)

    assert away == (1 - home, 0)
    assert back == [(home, PREFIX_TOKENS)] * 3


def test_what_a_group_evicts_is_known_to_be_gone(tiny_llama):
    """
    A prefix that was pushed out of its group's cache draws no forks there any more.
    """
    with (
        RunningInstance(
            "--model", str(tiny_llama), "--served-model-name", "tiny", "--threads-per-rank", "1",
            "--load-balance-method", "slack_affinity", "--max-total-tokens", "1024",
        ) as instance,
        httpx.Client(base_url=instance.url, timeout=60) as client,
    ):  # fmt: skip
        follows(instance, 2)
        for family in range(8):
            ask(client, [*prefix(family), 7])
        eventually(
            lambda: instance.metric("levelhead_prefix_digests") <= 2 * 1024 / PAGE_SIZE, "told"
        )
        before = instance.metric("levelhead_predicted_cached_tokens_total")
        found = ask(client, [*prefix(0), 9])[1]
        after = instance.metric("levelhead_predicted_cached_tokens_total")

    assert after - before == found


def test_conversations_with_one_beginning_stay_together(tiny_llama):
    """
    Texts too: the front door cuts and names them as the groups do, to the last page.
    """
    system = {"role": "system", "content": "You are level-headed. Où est la gare, 1234? " * 40}

    def chat(client, question):
        messages = [system, {"role": "user", "content": question}]
        body = {"model": "tiny", "messages": messages, "max_tokens": 1}
        answer = client.post("/v1/chat/completions", json=body).raise_for_status()
        usage = answer.json()["usage"]
        return answer.headers["x-levelhead-dp-rank"], usage["prompt_tokens_details"]

    with (
        serve(tiny_llama, "slack_affinity", 2) as instance,
        httpx.Client(base_url=instance.url, timeout=60) as client,
    ):
        follows(instance, 2)
        home, _ = chat(client, "Which way is up?")
        later = []
        for number in range(4):
            quiet(instance)
            later.append(chat(client, f"And {number} more?"))
        predicted = instance.metric("levelhead_predicted_cached_tokens_total")

    assert [rank for rank, _ in later] == [home] * 4
    assert predicted == sum(details["cached_tokens"] for _, details in later) > 4 * 500
