import asyncio

import pytest

from tests.workers.server_rig import MAX_MODEL_LEN, MAX_REQUEST_BYTES, events, post, serving

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
PROMPT = [40, 41, 42]
LONG = [5] * MAX_MODEL_LEN


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
        (CHAT, {"messages": MESSAGES, "n": 0}, 400, "n", "n is 0, for 1 prompts"),
        (CHAT, {"messages": MESSAGES, "model": "gpt-9"}, 404, "model", "gpt-9"),
        (CHAT, {"messages": MESSAGES, "presence_penalty": 1}, 400, "presence_penalty", "1"),
        (CHAT, {"messages": MESSAGES, "echo": True}, 400, "echo", "not supported"),
        (COMPLETIONS, {"prompt": PROMPT, "echo": 1}, 400, "echo", "boolean"),
        (COMPLETIONS, {"prompt": PROMPT, "priority": "high"}, 400, "priority", "integer"),
        (COMPLETIONS, {"prompt": []}, 400, "prompt", "no tokens"),
        (COMPLETIONS, {"prompt": [99_999]}, 400, "prompt", "99999"),
        (COMPLETIONS, {"prompt": ["a"] * 65, "n": 2}, 400, "n", "n is 2, for 65 prompts"),
        (COMPLETIONS, {"prompt": ["a", [1]]}, 400, "prompt", "valid"),
        (COMPLETIONS, {"prompt": [[1], []]}, 400, "prompt", "no tokens"),
        (COMPLETIONS, {"prompt": LONG}, 400, "prompt", "200 tokens, the prompt has 200"),
        (COMPLETIONS, {"prompt": PROMPT, "max_tokens": "5"}, 400, "max_tokens", "integer"),
        (COMPLETIONS, {"prompt": PROMPT, "max_tokens": True}, 400, "max_tokens", "integer"),
        (COMPLETIONS, {"prompt": PROMPT, "temperature": "1"}, 400, "temperature", "number"),
        (COMPLETIONS, {"prompt": PROMPT, "top_p": True}, 400, "top_p", "number"),
        (COMPLETIONS, {"prompt": PROMPT, "stream": 1}, 400, "stream", "boolean"),
        (COMPLETIONS, {"prompt": PROMPT, "stream": True, "stream_options": {"include_usage": 1}},
         400, "stream_options", "boolean"),
        (COMPLETIONS, {"prompt": PROMPT, "n": True}, 400, "n", "integer"),
        (COMPLETIONS, {"prompt": PROMPT, "presence_penalty": False}, 400,
         "presence_penalty", "False"),
        (COMPLETIONS, {"prompt": [1, True]}, 400, "prompt", "prompt"),
        (COMPLETIONS, {"prompt": PROMPT, "stop_token_ids": ["1"]}, 400,
         "stop_token_ids", "integer"),
        (COMPLETIONS, {"prompt": PROMPT, "top_k": -2}, 400, "top_k", "-2"),
        (COMPLETIONS, {"prompt": PROMPT, "stop": [""]}, 400, "stop", "one character"),
        (COMPLETIONS, {"prompt": PROMPT, "stop": ["x"] * 17}, 400, "stop", "17 strings"),
        (COMPLETIONS, {"prompt": PROMPT, "stop": "x" * 257}, 400, "stop", "257 characters"),
        (COMPLETIONS, {"prompt": PROMPT, "stream_options": {}}, 400,
         "stream_options", "stream=true"),
        ("/tokenize", {}, 400, "prompt", "messages"),
        ("/tokenize", {"prompt": "x", "add_special_tokens": 1}, 400,
         "add_special_tokens", "boolean"),
        ("/settle", {"dp_balance_id": "0" * 16, "front_door": "0/1", "charge_tokens": "1"}, 400,
         "charge_tokens", "integer"),
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


@pytest.mark.parametrize("path", [COMPLETIONS, "/tokenize", "/settle"])
def test_a_body_over_the_limit_is_refused_wherever_it_goes(codec, path):
    """
    413 with the limit; one byte less is read, and found to be no JSON.
    """
    refused = post(codec, path, b"x" * (MAX_REQUEST_BYTES + 1))
    read = post(codec, path, b"x" * MAX_REQUEST_BYTES)

    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (413, "body_too_large")
    assert f"more than {MAX_REQUEST_BYTES} bytes" in error["message"]
    assert (read.status_code, "not JSON" in read.json()["error"]["message"]) == (400, True)


def test_a_text_that_cannot_fit_is_refused_before_it_is_cut(codec):
    """
    More bytes than the context has tokens times the longest token: the numbers are named.
    """
    longest = max(len(codec.token_bytes(i)) for i in range(codec.vocab_size))
    most = MAX_MODEL_LEN * longest

    long = post(codec, COMPLETIONS, {"prompt": "é" * (most // 2 + 1)}).json()["error"]
    chat = {"messages": [{"role": "user", "content": "x" * most}]}
    shorter = post(codec, COMPLETIONS, {"prompt": "x" * most}).json()["error"]

    assert (long["code"], long["param"]) == ("context_length_exceeded", "prompt")
    assert f"{MAX_MODEL_LEN} tokens, of at most {longest} bytes each" in long["message"]
    assert f"{most // 2 * 2 + 2} bytes" in long["message"]
    assert post(codec, CHAT, chat).json()["error"]["param"] == "messages"
    assert "the prompt has" in shorter["message"]
    assert "bytes" not in shorter["message"], "it was cut into tokens, and those were counted"
