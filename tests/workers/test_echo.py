"""Completions that repeat their prompt, with the log-probabilities of its tokens."""

import pytest

from tests.workers.fakes import START, expected_output, fake_logprob, step
from tests.workers.server_rig import events, post

COMPLETIONS = "/v1/completions"
TEXT = "The quick brown fox, señor"


def fake_logprobs(tokens):
    """Of each token but the first."""
    value, found = START, []
    for token in tokens:
        found.append(fake_logprob(value, token).logprob)
        value = step(value, token)
    return found[1:]


def echoed(codec, **body):
    return post(codec, COMPLETIONS, {"max_tokens": 5, "echo": True} | body).json()["choices"][0]


def test_the_text_begins_with_the_prompt(codec):
    """
    A text as it came; tokens as the text that they stand for.
    """
    ids = codec.encode(TEXT)
    output = codec.decode(expected_output(ids, 5))

    assert echoed(codec, prompt=TEXT)["text"] == TEXT + output
    assert echoed(codec, prompt=ids)["text"] == TEXT + output


def test_prompt_tokens_have_log_probabilities_as_outputs_do(codec):
    """
    All but the first, before which there is nothing; offsets go on from prompt to output.
    """
    ids = codec.encode(TEXT)
    tokens = [*ids, *expected_output(ids, 5)]

    choice = echoed(codec, prompt=TEXT, logprobs=1)
    found = choice["logprobs"]

    assert found["token_logprobs"] == [None, *fake_logprobs(tokens)]
    assert [len(found[name]) for name in found] == [len(tokens)] * 4
    assert found["top_logprobs"][0] is None
    assert found["top_logprobs"][1] is not None
    assert found["tokens"][0] == codec.token_text(ids[0])
    before = [b"".join(map(codec.token_bytes, ids[:i])) for i in range(len(ids))]
    assert found["text_offset"][: len(ids)] == [len(b.decode(errors="ignore")) for b in before]
    assert found["text_offset"][len(ids)] == len(TEXT)


def test_a_prompt_alone_is_scored_without_an_output(codec):
    """
    max_tokens=0: the prompt comes back, and no token is computed after it.
    """
    ids = codec.encode(TEXT)

    body = {"prompt": TEXT, "max_tokens": 0, "echo": True, "logprobs": 0}
    answer = post(codec, COMPLETIONS, body).json()

    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (TEXT, "length")
    assert choice["logprobs"]["token_logprobs"] == [None, *fake_logprobs(ids)]
    assert answer["usage"]["completion_tokens"] == 0


def test_without_echo_max_tokens_0_returns_nothing(codec):
    """
    It is how a client has a prompt cached.
    """
    choice = post(codec, COMPLETIONS, {"prompt": TEXT, "max_tokens": 0}).json()["choices"][0]

    assert (choice["text"], choice["logprobs"], choice["finish_reason"]) == ("", None, "length")


@pytest.mark.parametrize("num_copies", [1, 2])
def test_a_stream_says_the_same_as_the_whole(codec, num_copies):
    """
    The prompt comes once in each choice, in its first chunk.
    """
    request = {"prompt": TEXT, "max_tokens": 5, "echo": True, "logprobs": 1, "n": num_copies}
    whole = post(codec, COMPLETIONS, request).json()["choices"]

    chunks = events(post(codec, COMPLETIONS, request | {"stream": True}))

    for expected in whole:
        parts = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == expected["index"]]
        assert "".join(part["text"] for part in parts) == expected["text"]
        for name, values in expected["logprobs"].items():
            assert [v for part in parts for v in part["logprobs"][name]] == values


def test_tokens_that_the_tokenizer_adds_have_no_text():
    """
    Their offset is 0, and that of the prompt's own first token as well.
    """
    from workers.engine.request import FinishReason
    from workers.model.sampling import TokenLogprobs
    from workers.server.answers import CompletionAnswer, Echo, Head, Piece

    class Codec:
        token_bytes = staticmethod(lambda i: {1: b"<s>", 2: b"ab", 3: b"c", 4: b"d"}[i])
        text_bytes = token_bytes

    scores = [TokenLogprobs(i, -1.0, ()) for i in (2, 3, 4)]
    answer = CompletionAnswer(Head("id", 0, "m"), Codec(), [Echo("abc", [1, 2, 3], 1)])
    piece = Piece("d", scores[2:], FinishReason.LENGTH, prompt_logprobs=scores[:2])

    [choice] = answer.chunk(piece)["choices"]

    assert choice["text"] == "abcd"
    assert choice["logprobs"]["tokens"] == ["<s>", "ab", "c", "d"]
    assert choice["logprobs"]["text_offset"] == [0, 0, 2, 3]
