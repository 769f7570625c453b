"""What is taken for prompt in the body of a request to a backend."""

import orjson
import pytest

from router.front_door.backend_prompt import PromptMeasure, measured, parsed
from router.front_door.prompt import ByteEstimate

CHAT, TEXT = b"/v1/chat/completions", b"/v1/completions"


def measure(path=TEXT, **fields):
    return measured(parsed(orjson.dumps(fields)), path)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "abcd"}, PromptMeasure(4)),
        ({"prompt": ["ab", "c"], "n": 3}, PromptMeasure(3, num_copies=3)),
        ({"prompt": [1, 2, 3]}, PromptMeasure(num_ids=3)),
        ({"prompt": [[1, 2], [3]]}, PromptMeasure(num_ids=3)),
        ({"text": "ü", "sampling_params": {"n": 2}}, PromptMeasure(2, num_copies=2)),
        ({"input": "abc", "instructions": "de"}, PromptMeasure(5)),
        ({"query": "a", "documents": ["bc", {"text": "d"}]}, PromptMeasure(4)),
        ({"messages": [{"role": "user", "content": "abc"}]}, PromptMeasure(3, 1)),
        ({"system": "s", "messages": [{"content": [{"type": "text", "text": "ab"}]}]},
         PromptMeasure(3, 1)),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "ab"}]}]},
         PromptMeasure(2)),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
         PromptMeasure(0, 1, is_only_text=False)),
        ({"messages": "none", "prompt": {"a": 1}, "n": "many"}, PromptMeasure(4)),
        ({"messages": [None, 1, [], {"content": 5}]}, PromptMeasure(0, 4)),
        ({"model": "m", "user": "u", "tools": ["x"]}, PromptMeasure()),
        ({"prompt": "ab", "n": 10**9}, PromptMeasure(2)),
    ],
)  # fmt: skip
def test_text_is_found_where_todays_interfaces_have_it(fields, expected):
    """
    And what has another form counts for nothing: the engine will say what is wrong.
    """
    assert measure(**fields) == expected


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"--b\r\nx"])
def test_a_body_that_is_no_object_has_no_prompt(body):
    """
    A form with a file in it, for example.
    """
    assert measured(parsed(body), TEXT) == PromptMeasure()


def test_what_holds_no_kv_is_charged_nothing():
    """
    However long the text is.
    """
    assert measure(b"/tokenize", prompt="x" * 9999).tokens(ByteEstimate()) == 0


def test_a_body_that_is_nested_without_end_is_not_followed_for_ever():
    """
    Whoever sends it.
    """
    deep = {"text": "x"}
    for _ in range(200):
        deep = {"content": deep}

    assert measure(messages=[deep]) == PromptMeasure(0, 1)


def test_tokens_are_estimated_for_text_and_counted_for_numbers():
    """
    Four bytes a token until answers tell otherwise; each copy holds all of it.
    """
    estimate = ByteEstimate()

    assert PromptMeasure(40, 0, 5, 2).tokens(estimate) == 30
    assert PromptMeasure(40, 2, 0, 1).tokens(estimate) == 18
    assert PromptMeasure().tokens(estimate) == 0


@pytest.mark.parametrize(
    ("measure", "is_known"),
    [
        (PromptMeasure(40), True),
        (PromptMeasure(40, num_ids=1), False),
        (PromptMeasure(40, is_only_text=False), False),
        (PromptMeasure(0), False),
    ],
)
def test_the_ratio_is_learnt_from_prompts_of_text_alone(measure, is_known):
    """
    An image is many tokens and no text.
    """
    assert measure.is_known is is_known
