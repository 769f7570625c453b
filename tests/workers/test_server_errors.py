import asyncio

import pytest

from tests.workers.server_rig import MAX_MODEL_LEN, events, post, serving
from workers.model.checkpoint import open_checkpoint

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
PROMPT = [40, 41, 42]
LONG = [5] * MAX_MODEL_LEN


@pytest.fixture(name="codec", scope="module")
def _codec(tiny_llama):
    return open_checkpoint(tiny_llama).tokenizer()


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "message"),
    [
        (CHAT, b"{", 400, None, "not JSON"),
        (CHAT, {"messages": []}, 400, "messages", "at least 1"),
        (CHAT, {}, 400, "messages", "required"),
        (CHAT, {"messages": [{"content": "x"}]}, 400, "messages", "role"),
        (CHAT, {"messages": MESSAGES, "max_tokens": "many"}, 400, "max_tokens", "integer"),
        (CHAT, {"messages": MESSAGES, "max_tokens": -1}, 400, "max_tokens", "-1"),
        (CHAT, {"messages": MESSAGES, "max_completion_tokens": -1}, 400,
         "max_completion_tokens", "-1"),
        (CHAT, {"messages": MESSAGES, "max_tokens": MAX_MODEL_LEN}, 400, "max_tokens", "200"),
        (CHAT, {"messages": MESSAGES, "temperature": -2}, 400, "temperature", "-2"),
        (CHAT, {"messages": MESSAGES, "top_logprobs": 2}, 400, "top_logprobs", "logprobs=true"),
        (CHAT, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 99}, 400,
         "top_logprobs", "99"),
        (CHAT, {"messages": MESSAGES, "n": 2}, 400, "n", "n=2"),
        (CHAT, {"messages": MESSAGES, "model": "gpt-9"}, 404, "model", "gpt-9"),
        (CHAT, {"messages": MESSAGES, "presence_penalty": 1}, 400, "presence_penalty", "1"),
        (COMPLETIONS, {"prompt": PROMPT, "echo": True}, 400, "echo", "not supported"),
        (COMPLETIONS, {"prompt": []}, 400, "prompt", "no tokens"),
        (COMPLETIONS, {"prompt": [99_999]}, 400, "prompt", "99999"),
        (COMPLETIONS, {"prompt": ["a", "b"]}, 400, "prompt", "2 texts"),
        (COMPLETIONS, {"prompt": LONG}, 400, "prompt", "200 tokens, the prompt has 200"),
        ("/tokenize", {}, 400, "prompt", "messages"),
        ("/settle", {"dp_balance_id": "x", "front_door": "0/1", "charge_tokens": 1}, 400,
         "x-levelhead-dp-balance-id", "16 lower-case"),
        ("/nowhere", {}, 404, None, "/nowhere"),
        ("/health", {}, 405, None, "Not Allowed"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_said_in_openais_shape(
    codec, path, body, status, param, message
):
    """
    The right status, the field that is to blame, and the values that disagree.
    """
    response = post(codec, path, body)

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_full_queue_is_503_with_retry_after(codec):
    """
    Overload is an answer, not a hang.
    """

    async def run():
        async with serving(codec, max_queued=0) as (_, client):
            bodies = [{"prompt": PROMPT, "max_tokens": 100}] * 3
            calls = [client.post(COMPLETIONS, json=body) for body in bodies]
            return await asyncio.gather(*calls)

    responses = asyncio.run(run())

    refused = [r for r in responses if r.status_code == 503]
    assert len(refused) == 2
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].json()["error"]["code"] == "queue_full"


def test_a_failed_step_is_500_or_the_last_event_of_a_stream(codec):
    """
    A stream that has begun cannot change its status, so the error is an event.
    """

    async def run():
        async with serving(codec) as (rig, client):
            rig.runner.errors = {1: ValueError("broken"), 4: ValueError("broken")}
            body = {"prompt": PROMPT, "stream": True}
            return [await client.post(COMPLETIONS, json=body) for _ in range(2)]

    first, second = asyncio.run(run())

    assert (first.status_code, first.json()["error"]["code"]) == (500, "step_failed")
    *chunks, last = events(second)
    assert chunks[0]["choices"][0]["text"]
    assert "ValueError: broken" in last["error"]["message"]


def test_a_body_without_end_is_cut_off(codec):
    """
    413, and the rest is not read.
    """
    response = post(codec, COMPLETIONS, b"x" * (16 * 1024 * 1024 + 1))

    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
