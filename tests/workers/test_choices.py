"""Several choices of one body: copies of a prompt, and several prompts."""

import asyncio

import orjson
import pytest
import torch

from tests.workers.fakes import expected_output
from tests.workers.server_rig import Connection, Rig, events, post, serving
from workers.engine.batch import BatchBuilder
from workers.engine.radix_cache import RadixCache
from workers.engine.runner import ModelRunner
from workers.model.llama import KVCache
from workers.model.sampling import Sampler

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
PROMPT = [40, 41, 42, 43, 44, 45, 46, 47, 48]
CPU = torch.device("cpu")
CHARGE = [
    ("x-levelhead-dp-balance-id", "0" * 16),
    ("x-levelhead-front-door", "0/5"),
    ("x-levelhead-charge-tokens", "27"),
]


def sampled(codec, model, **body):
    """The choices' texts, from the tiny Llama."""
    kv = KVCache.allocate(model.config, 256, CPU, torch.float32)
    runner = ModelRunner(model, kv, BatchBuilder(256, 4, CPU), Sampler(0), 1)
    body = {"prompt": PROMPT, "max_tokens": 12, "ignore_eos": True} | body
    options = {"runner": runner, "max_running": 4, "cache": RadixCache(4)}
    choices = post(codec, COMPLETIONS, body, **options).json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    return [choice["text"] for choice in choices]


def test_greedy_copies_are_equal(codec, model):
    """
    Each is what a request alone would get.
    """
    alone = sampled(codec, model, temperature=0)

    assert sampled(codec, model, temperature=0, n=3) == alone * 3


def test_sampled_copies_differ_and_can_be_had_again(codec, model):
    """
    Each has a seed of its own, the first one the client's, if it gave any.
    """
    first, again = (sampled(codec, model, seed=7, n=4) for _ in range(2))

    assert len(set(first)) == 4
    assert first == again
    assert sampled(codec, model, seed=7) == first[:1]
    assert len(set(sampled(codec, model, n=4))) == 4


def test_the_prompt_is_computed_once_and_counted_once(codec):
    """
    The copies start after its full pages, and usage tells of one prompt.
    """

    async def run():
        async with serving(codec, max_running=4, cache=RadixCache(4)) as (rig, client):
            answer = await client.post(COMPLETIONS, json={"prompt": PROMPT, "n": 3})
            return rig, answer.json()

    rig, body = asyncio.run(run())

    output = codec.decode(expected_output(PROMPT, 16, codec.eos_token_ids))
    assert [choice["text"] for choice in body["choices"]] == [output] * 3
    assert body["usage"]["prompt_tokens"] == len(PROMPT)
    assert body["usage"]["completion_tokens"] == 3 * 16
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert (
        sum(report.step_prefill_tokens for report in {r.num_steps: r for r in rig.reports}.values())
        == 9 + 1 + 1
    )


def test_a_body_of_copies_has_one_charge_and_each_copy_holds_its_tokens(codec):
    """
    They are taken in by one step: the charge is accepted when all of them are held.
    """

    async def run():
        rig = Rig(codec, max_running=4, cache=RadixCache(4))
        body = orjson.dumps({"prompt": PROMPT, "max_tokens": 50, "n": 3})
        connection = Connection(rig.app, COMPLETIONS, body, CHARGE)
        await connection.settle_down()
        rig.engine.step(0.0)
        report = rig.reports[-1]
        connection.hang_up()
        await connection.settle_down()
        return report, rig.holding_tokens, rig.accepted

    report, after, accepted = asyncio.run(run())

    assert report.accepted[0] == (5, 27, 1, 0, 0)
    assert report.holding_tokens == 27
    assert after == 0, "a client that leaves takes all copies with it"
    assert accepted[0] == (5, 27, 1, 1, 0)


def test_a_body_of_copies_has_ended_with_the_last_of_them(codec):
    """
    One of two seats is free, so they are computed one after the other.
    """

    async def run():
        rig = Rig(codec, max_running=1, cache=RadixCache(4))
        body = orjson.dumps({"prompt": PROMPT, "max_tokens": 1, "n": 3})
        connection = Connection(rig.app, COMPLETIONS, body, CHARGE)
        await connection.settle_down()
        ended = []
        while not rig.engine.step(0.0):
            ended.append(rig.reports[-1].accepted[0].ended_requests)
        await connection.settle_down()
        return ended

    assert asyncio.run(run()) == [0, 0, 1]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_stream_tells_which_choice_a_chunk_is_of(codec, path):
    """
    Each ends with a finish reason, and usage, once for all, comes last.
    """
    given = {"messages": MESSAGES} if path == CHAT else {"prompt": PROMPT}
    request = given | {"max_tokens": 9, "n": 3, "stream": True, "ignore_eos": True}
    request |= {"stream_options": {"include_usage": True}}

    *chunks, usage = events(post(codec, path, request, max_running=4))

    prompt = codec.encode_chat(MESSAGES) if path == CHAT else PROMPT
    texts, reasons = ["", "", ""], []
    for chunk in chunks:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["delta"]["content"] if path == CHAT else choice["text"]
        reasons += [choice["index"]] if choice["finish_reason"] else []
    assert texts == [codec.decode(expected_output(prompt, 9))] * 3
    assert sorted(reasons) == [0, 1, 2]
    assert usage["usage"]["completion_tokens"] == 27


def test_several_prompts_of_a_body_are_choices_in_their_order(codec):
    """
    Texts or token ids, each with its copies side by side; usage is that of all.
    """
    prompts = [PROMPT, PROMPT[:4]]

    body = post(codec, COMPLETIONS, {"prompt": prompts, "n": 2, "max_tokens": 6}).json()

    texts = [codec.decode(expected_output(p, 6, codec.eos_token_ids)) for p in prompts]
    found = [(choice["index"], choice["text"]) for choice in body["choices"]]
    assert found == list(enumerate([texts[0], texts[0], texts[1], texts[1]]))
    assert body["usage"]["prompt_tokens"] == 13


@pytest.mark.parametrize("stream", [False, True])
def test_if_there_is_no_room_for_all_choices_there_are_none(codec, stream):
    """
    503 while somebody else has a seat, and those that had been let in are stopped.
    """

    async def run():
        async with serving(codec, max_queued=2) as (rig, client):
            body = {"prompt": PROMPT, "max_tokens": 180, "ignore_eos": True}
            other = Connection(rig.app, COMPLETIONS, orjson.dumps(body))
            await other.settle_down()
            answer = await client.post(COMPLETIONS, json=body | {"n": 3, "stream": stream})
            other.hang_up()
            await other.settle_down()
            return answer, rig.holding_tokens

    answer, held = asyncio.run(run())

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
    assert held == 0


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": MESSAGES, "n": 4}, "n"),
        (COMPLETIONS, {"prompt": PROMPT, "n": 4}, "n"),
        ("/generate", {"input_ids": PROMPT, "sampling_params": {"n": 4}}, "sampling_params.n"),
    ],
)
def test_more_choices_than_a_group_ever_takes_are_the_clients_fault(codec, path, body, param):
    """
    400, not 503 for ever: there are as many seats and places in the queue as there are.
    """
    answer = post(codec, path, body, max_running=1, max_queued=2)
    error = answer.json()["error"]

    assert (answer.status_code, error["param"]) == (400, param)
    assert error["message"] == (
        f"{param} is 4, for 1 prompts; each choice is a request, and a group takes at most 3, "
        "running and waiting ones together"
    )


def test_several_prompts_count_as_so_many_choices(codec):
    """
    As many as the group takes are served, one more is refused.
    """
    statuses = [
        post(codec, COMPLETIONS, {"prompt": [PROMPT] * num, "n": 2}, max_queued=3).status_code
        for num in (2, 3)
    ]

    assert statuses == [200, 400]


def test_a_step_that_fails_ends_all_choices_of_a_stream(codec):
    """
    One error event, and nothing after it.
    """

    async def run():
        async with serving(codec, max_running=2) as (rig, client):
            rig.runner.errors = {6: ValueError("broken")}
            body = {"prompt": PROMPT, "n": 2, "stream": True}
            return await client.post(COMPLETIONS, json=body), rig.holding_tokens

    answer, held = asyncio.run(run())

    *chunks, last = events(answer)
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}
    assert "ValueError: broken" in last["error"]["message"]
    assert held == 0


def test_a_higher_priority_goes_first(codec):
    """
    Of those that wait, whoever came first; nobody who runs makes way.
    """

    async def run():
        async with serving(codec) as (_, client):
            ended = []

            async def ask(name, priority):
                body = {"prompt": PROMPT, "priority": priority}
                await client.post(COMPLETIONS, json=body)
                ended.append(name)

            await asyncio.gather(ask("running", 0), ask("later", 0), ask("urgent", 5))
            return ended

    assert asyncio.run(run()) == ["urgent", "running", "later"]
