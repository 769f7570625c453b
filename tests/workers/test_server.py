import asyncio

import orjson
import pytest

from tests.workers.fakes import expected_output
from tests.workers.server_rig import MAX_MODEL_LEN, Connection, Rig, events, post, serving

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
PROMPT = [40, 41, 42]


def test_a_chat_completion_has_openais_shape(codec):
    """
    One choice, a finish reason, and usage with cached tokens.
    """
    body = post(codec, CHAT, {"model": "tiny", "messages": MESSAGES, "max_tokens": 5}).json()

    prompt = codec.encode_chat(MESSAGES)
    output = expected_output(prompt, 5)
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": codec.decode(output)},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 5,
        "total_tokens": len(prompt) + 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_a_chat_stream_says_the_same_in_chunks(codec):
    """
    Role first, then text, then the finish reason, then usage if asked for.
    """
    request = {"messages": MESSAGES, "max_tokens": 9, "stream": True}
    request |= {"stream_options": {"include_usage": True}}

    first, *chunks, last, usage = events(post(codec, CHAT, request))

    output = codec.decode(expected_output(codec.encode_chat(MESSAGES), 9))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["choices"][0]["delta"]["content"] for c in [*chunks, last]) == output
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * len(chunks)
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 9
    assert len({chunk["id"] for chunk in (first, *chunks, last, usage)}) == 1
    assert [chunk["usage"] for chunk in (first, *chunks, last)] == [None] * (len(chunks) + 2)


@pytest.mark.parametrize("prompt", ["Hello", ["Hello"], PROMPT], ids=["text", "list", "tokens"])
def test_a_completion_takes_text_or_tokens(codec, prompt):
    """
    The answer is the text alone; without max_tokens it has OpenAI's 16 tokens.
    """
    body = post(codec, COMPLETIONS, {"prompt": prompt}).json()

    ids = prompt if prompt is PROMPT else codec.encode("Hello", add_special_tokens=True)
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == codec.decode(expected_output(ids, 16, codec.eos_token_ids))
    assert body["usage"]["prompt_tokens"] == len(ids)


def test_a_completion_stream_has_text_chunks_and_no_role(codec):
    """
    Without include_usage no chunk carries usage.
    """
    request = {"prompt": PROMPT, "max_tokens": 6, "stream": True}

    chunks = events(post(codec, COMPLETIONS, request))

    texts = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert texts == codec.decode(expected_output(PROMPT, 6))
    assert not any("usage" in chunk for chunk in chunks)


def test_a_stop_string_ends_the_output_before_it(codec):
    """
    The text is cut, and the tokens after the stop string are never computed.
    """
    whole = codec.decode(expected_output(PROMPT, 30))
    stop = whole[3:5]

    body = post(codec, COMPLETIONS, {"prompt": PROMPT, "max_tokens": 30, "stop": stop}).json()

    assert body["choices"][0]["text"] == whole[: whole.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] < 30


def test_integers_do_for_fields_of_any_number(codec):
    """
    JSON has one kind of number, and a top_k beyond the vocabulary, or any int, keeps all.
    """
    request = {"prompt": PROMPT, "temperature": 1, "top_p": 1, "min_p": 0, "top_k": 10**19}

    assert post(codec, COMPLETIONS, request).status_code == 200


def test_unknown_fields_and_neutral_ones_are_ignored(codec):
    """
    As vLLM does: clients send what they send to everybody.
    """
    request = {"prompt": PROMPT, "user": "me", "frequency_penalty": 0, "n": 1, "made_up": {}}

    assert post(codec, COMPLETIONS, request).status_code == 200


def test_logprobs_have_each_apis_shape(codec):
    """
    Chat: entries with bytes; completions: parallel lists with offsets.
    """
    from workers.engine.request import FinishReason
    from workers.model.sampling import TokenLogprobs
    from workers.server.answers import ChatAnswer, CompletionAnswer, Head, Piece, Usage

    tokens = [TokenLogprobs(40, -0.5, ((40, -0.5), (41, float("-inf"))))] * 2
    text = [codec.token_text(i) for i in (40, 41)]
    piece, usage = Piece("xx", tokens, FinishReason.STOP), Usage(1, 0, 2)
    head = Head("id", 0, "tiny")

    chat = ChatAnswer(head, codec).whole([piece], usage)["choices"][0]["logprobs"]
    completion = CompletionAnswer(head, codec).whole([piece], usage)["choices"][0]["logprobs"]

    entry = {"token": text[0], "logprob": -0.5, "bytes": list(codec.token_bytes(40))}
    assert chat["content"][0] | {"top_logprobs": []} == entry | {"top_logprobs": []}
    assert [top["logprob"] for top in chat["content"][0]["top_logprobs"]] == [-0.5, -9999.0]
    assert completion == {
        "tokens": [text[0]] * 2,
        "token_logprobs": [-0.5] * 2,
        "top_logprobs": [{text[0]: -0.5, text[1]: -9999.0}] * 2,
        "text_offset": [0, len(text[0])],
    }


def test_tokens_that_are_parts_of_a_character_are_named_by_their_bytes(codec):
    """
    Each has the offset of its character, over chunk borders too; an end token adds no text.
    """
    from workers.model.sampling import TokenLogprobs
    from workers.server.answers import CompletionAnswer, Head, Piece

    parts = [codec.encode(letter) for letter in ("a", "\U0001f600", "b")]
    token_ids = [*(i for part in parts for i in part), *codec.eos_token_ids, *parts[0]]
    tokens = [TokenLogprobs(i, -0.5, ((i, -0.5),)) for i in token_ids]
    answer = CompletionAnswer(Head("id", 0, "tiny"), codec)
    found = [
        answer.chunk(Piece("", some, None))["choices"][0]["logprobs"]
        for some in (tokens[:3], tokens[3:])
    ]

    names = ["a", "bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80", "b"]
    assert [t for piece in found for t in piece["tokens"]] == [*names, "<|im_end|>", "a"]
    assert [o for piece in found for o in piece["text_offset"]] == [0, 1, 1, 1, 1, 2, 3, 3]
    assert found[0]["top_logprobs"][1] == {"bytes:\\xf0": -0.5}


def test_tokenize_counts_prompts_and_messages(codec):
    """
    In vLLM's shape, with the tokens that the generating endpoints would use.
    """
    prompt = post(codec, "/tokenize", {"prompt": "Hello"}).json()
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    chat = post(codec, "/tokenize", {"messages": parts}).json()

    ids = codec.encode("Hello", add_special_tokens=True)
    assert prompt == {"count": len(ids), "max_model_len": MAX_MODEL_LEN, "tokens": ids}
    assert chat["tokens"] == codec.encode_chat(MESSAGES)


def test_models_and_health_answer(codec):
    """
    The model's name and context; 200 as long as requests are let in.
    """

    async def run():
        async with serving(codec) as (rig, client):
            models, healthy = await client.get("/v1/models"), await client.get("/health")
            rig.engine.stop()
            return models.json(), healthy.status_code, (await client.get("/health")).status_code

    models, healthy, stopping = asyncio.run(run())

    assert [(m["id"], m["max_model_len"]) for m in models["data"]] == [("tiny", MAX_MODEL_LEN)]
    assert (healthy, stopping) == (200, 503)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_a_client_that_hangs_up_frees_the_group_at_once(codec, stream, num_steps):
    """
    Streaming or not, waiting, or decoding: the next report holds nothing.
    """

    async def run():
        rig = Rig(codec)
        body = orjson.dumps({"prompt": PROMPT, "max_tokens": 150, "stream": stream})
        connection = Connection(rig.app, COMPLETIONS, body)
        await connection.settle_down()
        for _ in range(num_steps):
            rig.engine.step(0.0)
            await connection.settle_down()
        before = rig.reports[-1].holding_tokens if rig.reports else 0
        connection.hang_up()
        await connection.settle_down()
        assert connection.task.done()
        await connection.task
        return before, rig.holding_tokens

    before, after = asyncio.run(run())

    assert before == (len(PROMPT) + num_steps - 1 if num_steps else 0)
    assert after == 0


def test_an_answer_that_is_cancelled_frees_the_group(codec):
    """
    The server gives up waiting for a connection, for instance when it shuts down.
    """

    async def run():
        rig = Rig(codec)
        body = orjson.dumps({"prompt": PROMPT, "max_tokens": 150, "stream": True})
        connection = Connection(rig.app, COMPLETIONS, body)
        await connection.settle_down()
        before = rig.holding_tokens
        connection.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.task
        return before, rig.holding_tokens

    assert asyncio.run(run()) == (len(PROMPT), 0)


@pytest.mark.parametrize("body", [{"prompt": PROMPT}, {"prompt": PROMPT, "stream": True}])
def test_a_drain_waits_for_the_last_byte_of_a_request(codec, body):
    """
    From its arrival on, before the engine has it.
    """

    async def run():
        rig = Rig(codec)
        connection = Connection(rig.app, COMPLETIONS, orjson.dumps(body))
        rig.drain.begin()
        await connection.settle_down()
        open_s = rig.drain.remaining_s()
        while not connection.task.done():
            rig.engine.step(0.0)
            await connection.settle_down()
        return open_s, rig.drain.remaining_s()

    open_s, ended_s = asyncio.run(run())

    assert open_s > 0
    assert ended_s == 0
