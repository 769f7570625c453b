import pytest

from router.errors import BadRequest
from router.front_door.prompt import (
    CHAT_PATH,
    GENERATE_PATH,
    ByteEstimate,
    PromptCounter,
    text_bytes,
)
from shm.page_digest import page_digests
from tests.router.fakes import write_tokenizer

COMPLETIONS = b"/v1/completions"


def count(counter, body, path=CHAT_PATH):
    return counter.count(body, path, text_bytes(body, path))[:2]


def digests(counter, body, path=CHAT_PATH):
    return counter.count(body, path, text_bytes(body, path))[2:4]


def chat(*contents):
    return {"messages": [{"role": "user", "content": content} for content in contents]}


@pytest.fixture
def known(tmp_path):
    """A counter that knows a tokenizer of words."""
    counter = PromptCounter()
    counter.use_tokenizer(write_tokenizer(tmp_path))
    return counter


def test_a_conversation_is_counted_as_its_template_renders_it(known):
    """
    Words of all messages and those that the template adds.
    """
    assert count(known, chat("one two", "three")) == (4, "exact")


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [("one two three", 3), (["one", "two three"], 3), ([5, 6, 7], 3), ([[5, 6], [7]], 3),
     (["one two", [5]], 3), ("", 0)],
)  # fmt: skip
def test_every_form_of_prompt_is_counted_exactly(known, prompt, tokens):
    """
    Token ids count as they are, texts as the tokenizer says.
    """
    assert count(known, {"prompt": prompt}, COMPLETIONS) == (tokens, "exact")


@pytest.mark.parametrize("prompt", [[5, 6, 7], [[5, 6], [7]]])
def test_token_ids_need_no_tokenizer(prompt):
    """
    They are counted exactly also when only texts would have to be estimated.
    """
    assert count(PromptCounter(), {"prompt": prompt}, COMPLETIONS) == (3, "exact")


def test_without_a_tokenizer_tokens_are_estimated_from_bytes():
    """
    Four bytes a token, and a few tokens for each message.
    """
    assert count(PromptCounter(), chat("x" * 400, "y" * 40)) == (118, "estimated")
    assert count(PromptCounter(), {"prompt": "x" * 400}, COMPLETIONS) == (100, "estimated")


@pytest.mark.parametrize(
    ("body", "tokens"),
    [({"text": "one two"}, 2), ({"text": ["one", "two three"]}, 3), ({"input_ids": [5, 6]}, 2),
     ({"input_ids": [[5, 6], [7]]}, 3), ({"text": None, "input_ids": [5]}, 1)],
)  # fmt: skip
def test_prompts_of_sglangs_body_are_counted_exactly(known, body, tokens):
    """
    Text or token ids, one prompt or several.
    """
    assert count(known, body, GENERATE_PATH) == (tokens, "exact")


@pytest.mark.parametrize("is_exact", [True, False])
@pytest.mark.parametrize(
    ("body", "path", "expected"),
    [({"prompt": "one two"}, COMPLETIONS, 1), ({"prompt": [5, 6]}, COMPLETIONS, 1),
     ({"prompt": ["one"]}, COMPLETIONS, 1), ({"prompt": ["one", "two"]}, COMPLETIONS, 2),
     ({"prompt": [[5], [6]], "n": 3}, COMPLETIONS, 6), (chat("one", "two"), CHAT_PATH, 1),
     (chat("one") | {"n": 2}, CHAT_PATH, 2), ({"text": ["one", "two"]}, GENERATE_PATH, 2)],
)  # fmt: skip
def test_outputs_are_those_of_all_prompts_and_choices(known, body, path, expected, is_exact):
    """
    Whether prompts are counted or estimated.
    """
    counter = known if is_exact else PromptCounter()
    assert counter.count(body, path, text_bytes(body, path)).num_outputs == expected


@pytest.mark.parametrize(
    ("body", "path", "tokens"),
    [({"prompt": "one two", "n": 3}, COMPLETIONS, 6), (chat("one") | {"n": 2}, CHAT_PATH, 4),
     ({"text": "one", "sampling_params": {"n": 4}}, GENERATE_PATH, 4),
     ({"text": ["one", "two"], "sampling_params": [{"n": 2}] * 2}, GENERATE_PATH, 4),
     ({"text": "one", "sampling_params": 5, "n": 7}, GENERATE_PATH, 1),
     ({"prompt": "one", "n": 0}, COMPLETIONS, 1), ({"prompt": "one", "n": True}, COMPLETIONS, 1),
     ({"prompt": "one", "n": 10**9}, COMPLETIONS, 1)],
)  # fmt: skip
def test_a_prompt_counts_once_for_each_copy_that_is_asked_for(known, body, path, tokens):
    """
    The group holds as many; a number that it will refuse counts as one.
    """
    assert count(known, body, path) == (tokens, "exact")


def test_an_estimate_is_at_least_one_token():
    """
    A request without text still costs its group something.
    """
    assert count(PromptCounter(), {"prompt": ""}, COMPLETIONS) == (1, "estimated")


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[9].content.x }}",
        "{{ ''.__class__.mro() }}",
        None,
    ],
)
def test_a_template_that_refuses_a_conversation_leads_to_an_estimate(tmp_path, template):
    """
    The group renders it too and will tell the client what is wrong.
    """
    counter = PromptCounter()
    counter.use_tokenizer(write_tokenizer(tmp_path, template))

    assert count(counter, chat("x" * 400)) == (104, "estimated")


@pytest.mark.parametrize("template", ["{% for %}", "{% generation %}"])
def test_a_template_that_cannot_be_parsed_leads_to_estimates(tmp_path, template, caplog):
    """
    One warning when the folder is taken over, and no error afterwards.
    """
    counter = PromptCounter()
    for _ in range(2):
        counter.use_tokenizer(write_tokenizer(tmp_path, template))

    assert not counter.is_exact
    assert count(counter, chat("x" * 400)) == (104, "estimated")
    assert len(caplog.records) == 1


@pytest.mark.parametrize("ratio", [2.0, 6.0])
def test_the_estimate_moves_to_the_ratio_that_groups_report(ratio):
    """
    After some hundred answers it is within a percent of theirs.
    """
    estimate = ByteEstimate()
    for num_bytes in range(1000, 1200):
        estimate.correct(num_bytes, 1, round(num_bytes / ratio) + 4)

    assert estimate.bytes_per_token == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize(
    ("num_bytes", "num_messages", "tokens"), [(0, 1, 100), (100, 1, 4), (100, 1, 0), (100, 30, 5)]
)
def test_an_answer_that_tells_nothing_changes_nothing(num_bytes, num_messages, tokens):
    """
    No text, or fewer tokens than the messages alone have.
    """
    estimate = ByteEstimate()
    estimate.correct(num_bytes, num_messages, tokens)

    assert estimate.bytes_per_token == 4.0


def test_one_absurd_answer_moves_the_estimate_only_a_little():
    """
    A group that counts images or cached prompts must not spoil the ratio.
    """
    estimate = ByteEstimate()
    estimate.correct(10, 0, 1_000_000)
    assert 3.5 < estimate.bytes_per_token < 4.0
    estimate.correct(1_000_000, 0, 1)

    assert estimate.bytes_per_token < 5.0


@pytest.mark.parametrize(
    ("content", "num_bytes"),
    [("abc", 3), ([{"type": "text", "text": "abc"}, {"type": "text", "text": "de"}], 5),
     ([{"type": "image_url", "image_url": {"url": "data:..."}}], 0), (None, 0), (5, 0),
     ([{"text": 5}, "abc"], 0)],
)  # fmt: skip
def test_the_text_of_a_message_is_found_in_every_form(content, num_bytes):
    """
    A string or a list of parts; what is no text counts nothing.
    """
    assert text_bytes(chat(content), CHAT_PATH) == (num_bytes, 1)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [(COMPLETIONS, {"prompt": {"a": 1}}, "prompt"), (GENERATE_PATH, {"text": 5}, "text"),
     (GENERATE_PATH, {"input_ids": ["x", 5]}, "input_ids"), (GENERATE_PATH, {}, "input_ids")],
)  # fmt: skip
def test_a_prompt_of_the_wrong_type_names_the_parameter(path, body, param):
    """
    The client is told what would be right.
    """
    with pytest.raises(BadRequest, match=f"{param}: a string, a list") as refused:
        text_bytes(body, path)
    assert refused.value.param == param


@pytest.mark.parametrize("prompt", [[5, 6, 7], [[5, 6, 7]]])
def test_the_pages_of_a_prompt_are_named_if_that_is_wanted(prompt):
    """
    Its full ones, as the groups' caches name them.
    """
    counter = PromptCounter()
    assert digests(counter, {"prompt": prompt}, COMPLETIONS) == ((), 0)
    counter.page_size = 2

    assert digests(counter, {"prompt": prompt}, COMPLETIONS) == (page_digests([5, 6], 2), 2)


@pytest.mark.parametrize(
    ("body", "path"),
    [(chat("one two", "three"), CHAT_PATH), ({"prompt": "a b c d"}, COMPLETIONS),
     ({"prompt": ["a b c d"]}, COMPLETIONS)],
)  # fmt: skip
def test_the_pages_of_texts_are_named_by_their_tokens(known, body, path):
    """
    The template's included; here every word is the unknown one.
    """
    known.page_size = 2

    assert digests(known, body, path) == (page_digests([0, 0, 0, 0], 2), 2)


@pytest.mark.parametrize("prompt", [["one", "two"], [[1, 2], [3, 4]], [1, -2], [1, 2**40]])
def test_pages_that_no_group_will_hold_are_not_named(known, prompt):
    """
    Several prompts are several requests, and what is no token id is refused.
    """
    known.page_size = 2

    assert not digests(known, {"prompt": prompt}, COMPLETIONS)[0]


def test_an_estimated_prompt_has_no_pages():
    """
    Its tokens are not known.
    """
    counter = PromptCounter()
    counter.page_size = 2

    assert digests(counter, chat("one two three four five")) == ((), 0)
