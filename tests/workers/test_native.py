"""SGLang's native /generate."""

import asyncio
import itertools

import pytest

from tests.workers.fakes import START, expected_output, fake_logprob, step
from tests.workers.server_rig import DP_RANK, MAX_MODEL_LEN, events, post, serving
from workers.engine.radix_cache import RadixCache

GENERATE = "/generate"
PROMPT = [40, 41, 42, 43, 44, 45, 46, 47, 48]
FIVE = {"max_new_tokens": 5, "ignore_eos": True}


def generate(codec, **body):
    answer = post(codec, GENERATE, body, max_running=4)
    assert answer.status_code == 200, answer.text
    return answer.json()


def entries(tokens, first):
    """[logprob, token id, None] of tokens from position first on."""
    value, found = START, []
    for position, token in enumerate(tokens):
        logprob = fake_logprob(value, token).logprob if position else None
        found.append([logprob, token, None])
        value = step(value, token)
    return found[first:]


@pytest.mark.parametrize("key", ["text", "input_ids"])
def test_an_answer_has_text_token_ids_and_meta_info(codec, key):
    """
    Whether the prompt came as text or as tokens; what was not asked for is not there.
    """
    ids = codec.encode("Hello fox") if key == "text" else PROMPT
    given = {"text": "Hello fox"} if key == "text" else {"input_ids": PROMPT}

    body = generate(codec, **given, sampling_params=FIVE, rid="mine")

    output = expected_output(ids, 5)
    assert body == {
        "text": codec.decode(output),
        "output_ids": output,
        "meta_info": {
            "id": "mine",
            "finish_reason": {"type": "length", "length": 5},
            "prompt_tokens": len(ids),
            "completion_tokens": 5,
            "cached_tokens": 0,
            "computed_tokens": len(ids),
            "dp_rank": DP_RANK,
        },
    }


def test_without_sampling_params_there_are_128_tokens_or_as_many_as_fit(codec):
    """
    SGLang's default, which is no reason to refuse a long prompt.
    """
    short = generate(codec, input_ids=PROMPT, sampling_params={"ignore_eos": True})
    ids = [5] * (MAX_MODEL_LEN - 3)
    long = generate(codec, input_ids=ids, sampling_params={"ignore_eos": True})

    assert short["meta_info"]["completion_tokens"] == 128
    assert long["meta_info"]["completion_tokens"] == 3


def test_what_ended_an_output_is_told(codec):
    """
    The token, or the stop string.
    """
    output = expected_output(PROMPT, 30)
    text = codec.decode(output)

    by_token = generate(codec, input_ids=PROMPT, sampling_params={"stop_token_ids": [output[3]]})
    by_text = generate(
        codec, input_ids=PROMPT, sampling_params={"stop": ["\x00", text[4:6]], "ignore_eos": True}
    )

    assert by_token["meta_info"]["finish_reason"] == {"type": "stop", "matched": output[3]}
    assert by_token["output_ids"] == output[:4]
    assert by_text["meta_info"]["finish_reason"] == {"type": "stop", "matched": text[4:6]}
    assert by_text["text"] == text[: text.index(text[4:6])]


@pytest.mark.parametrize("start", [0, 1, 2, 5, 8, 9])
def test_log_probabilities_begin_where_they_are_asked_for(codec, start):
    """
    All from that position on, the value of the very first token apart.
    """
    body = generate(
        codec, input_ids=PROMPT, sampling_params=FIVE, return_logprob=True,
        logprob_start_len=start, top_logprobs_num=1,
    )  # fmt: skip

    tokens = [*PROMPT, *expected_output(PROMPT, 5)]
    meta_info, every = body["meta_info"], entries(tokens, 0)
    assert meta_info["input_token_logprobs"] == every[start : len(PROMPT)]
    assert meta_info["output_token_logprobs"] == every[len(PROMPT) :]
    tops = meta_info["input_top_logprobs"]
    assert [top is None for top in tops] == [i == 0 for i in range(start, len(PROMPT))]
    assert len(meta_info["output_top_logprobs"]) == 5
    assert meta_info["output_top_logprobs"][0][0][0] == -0.25


def test_log_probabilities_are_of_output_tokens_alone_by_default(codec):
    """
    As with -1; texts come with them on demand.
    """
    asked = {"input_ids": PROMPT, "sampling_params": FIVE, "return_logprob": True}

    default, minus_one = (generate(codec, **asked, **m) for m in ({}, {"logprob_start_len": -1}))
    texts = generate(codec, **asked, return_text_in_logprobs=True)

    for body in (default, minus_one):
        assert body["meta_info"]["input_token_logprobs"] == []
        assert len(body["meta_info"]["output_token_logprobs"]) == 5
        assert "output_top_logprobs" not in body["meta_info"]
    entry = texts["meta_info"]["output_token_logprobs"][0]
    assert entry[2] == codec.token_text(entry[1])


def test_without_output_tokens_log_probabilities_are_of_the_whole_prompt_by_default(codec):
    """
    So SGLang's frontend scores choices without the text before them; -1 is still -1.
    """
    none = {"max_new_tokens": 0}
    asked = {"input_ids": [PROMPT, PROMPT[:2]], "sampling_params": none, "return_logprob": True}

    default = generate(codec, **asked)
    mixed = generate(codec, **asked | {"sampling_params": [FIVE, none]})
    minus_one = generate(codec, **asked, logprob_start_len=-1)

    def scores(bodies):
        return [body["meta_info"]["input_token_logprobs"] for body in bodies]

    assert scores(default) == [entries(PROMPT, 0), entries(PROMPT[:2], 0)]
    assert scores(mixed) == [[], entries(PROMPT[:2], 0)]
    assert scores(minus_one) == [[], []]


def test_no_new_tokens_cache_the_prompt_and_return_nothing(codec):
    """
    Whoever extends it finds all of its full pages.
    """

    async def run():
        async with serving(codec, cache=RadixCache(4)) as (_, client):
            bodies = [
                {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": 0}},
                {"input_ids": [*PROMPT, 9, 9], "sampling_params": FIVE},
            ]
            return [(await client.post(GENERATE, json=body)).json() for body in bodies]

    first, second = asyncio.run(run())

    assert (first["text"], first["output_ids"]) == ("", [])
    assert first["meta_info"]["finish_reason"] == {"type": "length", "length": 0}
    assert first["meta_info"]["computed_tokens"] == 9
    counts = [second["meta_info"][name] for name in ("cached_tokens", "computed_tokens")]
    assert counts == [8, 3]


def test_a_stream_repeats_its_text_from_the_beginning(codec):
    """
    Each chunk is an answer so far; the last has a finish reason.
    """
    asked = {"input_ids": PROMPT, "sampling_params": FIVE, "return_logprob": True}
    asked |= {"logprob_start_len": 3}
    whole = generate(codec, **asked)

    chunks = events(post(codec, GENERATE, asked | {"stream": True}))

    texts = [chunk["text"] for chunk in chunks]
    assert all(b.startswith(a) for a, b in itertools.pairwise(texts))
    assert [chunk["output_ids"] for chunk in chunks] == [
        whole["output_ids"][: i + 1] for i in range(5)
    ]
    for chunk in (chunks[-1], whole):
        del chunk["meta_info"]["id"]
    assert chunks[-1] == whole
    assert [chunk["meta_info"]["finish_reason"] for chunk in chunks[:-1]] == [None] * 4
    assert len(chunks[0]["meta_info"]["input_token_logprobs"]) == len(PROMPT) - 3


@pytest.mark.parametrize(
    "prompts", [{"text": ["Hello", "a fox"]}, {"input_ids": [PROMPT, PROMPT[:3]]}, {"text": ["a"]}]
)
def test_a_batch_is_answered_by_a_list(codec, prompts):
    """
    What is given once holds for all; a list of one is a list.
    """
    [(key, given)] = prompts.items()
    ids = [codec.encode(each) if key == "text" else each for each in given]
    starts = list(range(len(given)))

    bodies = generate(
        codec, **prompts, sampling_params=FIVE, return_logprob=True, logprob_start_len=starts
    )

    assert [body["output_ids"] for body in bodies] == [expected_output(each, 5) for each in ids]
    found = [body["meta_info"]["input_token_logprobs"] for body in bodies]
    assert found == [entries(each, start) for each, start in zip(ids, starts, strict=True)]


def test_copies_are_answered_by_a_list_and_told_apart_in_a_stream(codec):
    """
    Each has an id of its own.
    """
    asked = {"input_ids": PROMPT, "sampling_params": FIVE | {"n": 2}, "rid": "x"}

    bodies = generate(codec, **asked)
    chunks = events(post(codec, GENERATE, asked | {"stream": True}, max_running=4))

    assert [body["meta_info"]["id"] for body in bodies] == ["x-0", "x-1"]
    assert bodies[0]["output_ids"] == bodies[1]["output_ids"] == expected_output(PROMPT, 5)
    last = {chunk["index"]: chunk["text"] for chunk in chunks}
    assert last == dict(enumerate([codec.decode(bodies[0]["output_ids"])] * 2))


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "text", "neither"),
        ({"text": "a", "input_ids": [1]}, "text", "both"),
        ({"text": 5}, "text", "string"),
        ({"text": []}, "text", "no tokens"),
        ({"input_ids": []}, "input_ids", "no tokens"),
        ({"input_ids": [[5], []]}, "input_ids", "no tokens"),
        ({"input_ids": [99_999]}, "input_ids", "token id 99999 is not in [0, "),
        ({"input_ids": [5, "x"]}, "input_ids", "integer"),
        ({"input_ids": [5] * MAX_MODEL_LEN}, "input_ids", "the prompt has 200"),
        ({"text": "a", "sampling_params": 5}, "sampling_params", "dict"),
        ({"text": "a", "sampling_params": [{}]}, "sampling_params", "1 values, there must be one"),
        ({"text": ["a", "b"], "sampling_params": [{}] * 3}, "sampling_params",
         "3 values, there must be 2"),
        ({"text": ["a", "b"], "rid": ["x"]}, "rid", "1 values, there must be 2"),
        ({"text": ["a", "b"], "sampling_params": [{"n": 1}, {"n": 2}]}, "sampling_params.n",
         "same for all"),
        ({"text": "a", "return_logprob": "yes"}, "return_logprob", "boolean"),
        ({"text": "a", "logprob_start_len": -2}, "logprob_start_len", "-2; it must be -1 or more"),
        ({"input_ids": [5], "return_logprob": True, "logprob_start_len": 2}, "logprob_start_len",
         "2; it must be in [-1, 1]"),
        ({"text": "a", "top_logprobs_num": -1}, "top_logprobs_num", "-1; it must be 0 or more"),
        ({"text": "a", "return_logprob": True, "top_logprobs_num": 21}, "top_logprobs_num",
         "21; it must be in [0, 20]"),
        ({"text": "a", "stream": 1}, "stream", "boolean"),
        ({"text": "a", "priority": 1.5}, "priority", "integer"),
        ({"text": "a", "image_data": "x"}, "image_data", "not supported"),
        ({"text": "a", "lora_path": "x"}, "lora_path", "not supported"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_body_is_said(codec, body, param, message):
    """
    400 with the field, its value, and what is allowed.
    """
    answer = post(codec, GENERATE, body)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_new_tokens", "5", "integer"),
        ("max_new_tokens", -1, "max_new_tokens is -1"),
        ("max_new_tokens", MAX_MODEL_LEN, "200 are asked for"),
        ("temperature", -1, "temperature is -1"),
        ("temperature", True, "number"),
        ("top_p", 0, "top_p is 0"),
        ("top_k", -2, "top_k is -2"),
        ("min_p", 2, "min_p is 2"),
        ("n", 0, "n is 0, for 1 prompts; there must be 1 to 128"),
        ("n", 129, "n is 129"),
        ("stop", [""], "one character"),
        ("stop", 5, "string"),
        ("stop_token_ids", ["x"], "integer"),
        ("ignore_eos", 1, "boolean"),
        ("sampling_seed", "x", "integer"),
        ("regex", "[0-9]+", "not supported"),
        ("json_schema", "{}", "not supported"),
        ("min_new_tokens", 3, "not supported"),
        ("frequency_penalty", 0.5, "not supported"),
        ("skip_special_tokens", False, "not supported"),
    ],
)
def test_what_is_wrong_with_sampling_params_is_said(codec, field, value, message):
    """
    The field is named with where it stands.
    """
    answer = post(codec, GENERATE, {"text": "a", "sampling_params": {field: value}})

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, f"sampling_params.{field}")
    assert message in error["message"]


def test_what_sglangs_frontend_sends_by_default_is_taken(codec):
    """
    Every neutral value that its language puts into a request.
    """
    neutral = {
        "max_new_tokens": 5, "min_new_tokens": 0, "n": 1, "stop": [], "stop_token_ids": [],
        "stop_regex": [], "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0,
        "frequency_penalty": 0.0, "presence_penalty": 0.0, "ignore_eos": False, "regex": None,
        "json_schema": None, "skip_special_tokens": True, "spaces_between_special_tokens": True,
    }  # fmt: skip

    assert generate(codec, text="Hello", sampling_params=neutral)["output_ids"]
