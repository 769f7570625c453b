"""Prompts to backends as `transformers` renders and counts them, which the engines use."""

import json

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from router.front_door.engine_prompts import EnginePrompts
from router.front_door.engine_tokenizer import EngineTokenizer
from router.front_door.prompt import PromptCount
from shm.page_digest import page_digests

CHAT, TEXT = b"/v1/chat/completions", b"/v1/completions"
WORDS = ["[UNK]", "BOS", "sys", "user", "assistant", "system", "end", "hi", "go", "well", "deep"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ m.role }} {{ m.name or '' }} {{ m['content'] }} end"
    "{% endfor %}{% if tools %} tools{% endif %}{% if depth %} deep{% endif %}"
    "{% if add_generation_prompt %} assistant go{% endif %}"
)
HI = {"role": "user", "content": "hi well"}


def a_folder(path, template=TEMPLATE, **config):
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="BOS $A", special_tokens=[("BOS", 1)])
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "BOS"} | config
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    return path


@pytest.fixture
def prompts(tmp_path):
    return EnginePrompts(EngineTokenizer(a_folder(tmp_path)))


def count(prompts, path=CHAT, page_size=0, num_copies=1, **fields):
    return prompts.count(fields, path, num_copies, page_size)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"add_generation_prompt": False},
        {"chat_template_kwargs": {"depth": 1}},
        {"messages": [HI, {"role": "assistant", "content": " go well "}],
         "add_generation_prompt": False, "continue_final_message": True},
        {"messages": [HI, {"role": "assistant", "content": "go", "name": "deep"}, HI]},
    ],
)  # fmt: skip
def test_a_conversation_has_the_tokens_that_transformers_gives_it(tmp_path, prompts, fields):
    """
    With what a request may say of the template.
    """
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    asked = {"messages": [HI]} | fields
    said = {"add_generation_prompt": True} | asked | asked.get("chat_template_kwargs", {})
    text = theirs.apply_chat_template(
        said.pop("messages"), tokenize=False,
        **{name: value for name, value in said.items() if name != "chat_template_kwargs"},
    )  # fmt: skip
    expected = theirs(text, add_special_tokens=False)["input_ids"]

    counted = count(prompts, page_size=1, **asked)
    assert counted == PromptCount(len(expected), "exact", page_digests(expected, 1), 1)


@pytest.mark.parametrize(
    ("prompt", "more", "ids"),
    [
        ("hi go", {}, [[1, 7, 8]]),
        ("hi go", {"add_special_tokens": False}, [[7, 8]]),
        ([7, 8, 9], {}, [[7, 8, 9]]),
        (["hi", "go go"], {}, [[1, 7], [1, 8, 8]]),
        ([[7], [8, 9]], {}, [[7], [8, 9]]),
    ],
)
def test_a_completion_has_the_tokens_of_its_prompts(prompts, prompt, more, ids):
    """
    Special ones too, unless it says not; pages are named of an only prompt.
    """
    counted = count(prompts, TEXT, 1, 3, prompt=prompt, **more)

    assert (counted.tokens, counted.num_outputs) == (3 * sum(map(len, ids)), 3 * len(ids))
    assert counted.page_digests == (page_digests(ids[0], 1) if len(ids) == 1 else ())


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"documents": [{"text": "x"}]},
        {"chat_template": "x"},
        {"truncate_prompt_tokens": 3},
        {"chat_template_kwargs": {"bos_token": "x"}},
        {"chat_template_kwargs": {"add_generation_prompt": False}},
        {"chat_template_kwargs": [1]},
        {"add_generation_prompt": 1},
        {"add_generation_prompt": True, "continue_final_message": True},
        {"messages": []},
        {"messages": "hi"},
        {"messages": [{"role": "developer", "content": "x"}]},
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    ],
)
def test_a_conversation_that_is_not_understood_fully_is_not_counted(prompts, fields):
    """
    Its engine may change it in a way of its own.
    """
    assert count(prompts, page_size=1, **{"messages": [HI]} | fields) is None


@pytest.mark.parametrize("prompt", [None, "", [], ["a", 5], 7, [[]]])
def test_a_completion_without_a_prompt_is_not_counted(prompts, prompt):
    """
    The engine says what is wrong.
    """
    assert count(prompts, TEXT, prompt=prompt) is None


def test_another_path_is_not_counted(prompts):
    """
    However much its body looks like one that is.
    """
    assert count(prompts, b"/v1/messages", messages=[HI]) is None


def test_a_field_counts_if_the_template_reads_it(tmp_path):
    """
    A template that says nothing of reasoning is the same whatever is asked of it.
    """
    deaf = EnginePrompts(EngineTokenizer(a_folder(tmp_path)))
    assert count(deaf, messages=[HI], reasoning_effort="low") is not None
    hears = EnginePrompts(EngineTokenizer(a_folder(tmp_path, "{{ reasoning_effort }}")))
    assert count(hears, messages=[HI], reasoning_effort="low") is None


def test_a_template_that_fails_leaves_the_estimate(tmp_path):
    """
    The engine says what is wrong, if it finds it wrong.
    """
    broken = a_folder(tmp_path, "{{ raise_exception('no') }}")
    assert count(EnginePrompts(EngineTokenizer(broken)), messages=[HI]) is None


def test_a_salted_prompt_is_counted_and_not_named(prompts):
    """
    Its pages are nobody else's.
    """
    counted = count(prompts, page_size=1, messages=[HI], cache_salt="s")
    assert (counted.tokens > 0, counted.page_digests) == (True, ())


@pytest.mark.parametrize(
    "told",
    [
        {"chat_template": "go"},
        {"chat_template": [{"name": "default", "template": "go"}]},
    ],
)
def test_a_template_may_stand_in_the_tokenizers_configuration(tmp_path, told):
    """
    Alone, or by the name of the default.
    """
    found = EngineTokenizer(a_folder(tmp_path, None, **told))
    assert found.chat_text([], {}) == "go"


def test_without_a_template_text_is_counted_and_conversations_are_not(tmp_path):
    """
    A base model's folder.
    """
    base = EnginePrompts(EngineTokenizer(a_folder(tmp_path, None)))
    assert count(base, messages=[HI]) is None
    assert count(base, TEXT, prompt="hi").tokens == 2


@pytest.mark.parametrize("trim", ["", " | trim"])
def test_a_conversation_that_is_continued_ends_as_transformers_ends_it(tmp_path, trim):
    """
    With the spaces at its end, if the template leaves them.
    """
    template = "{% for m in messages %}{{ m['content']" + trim + " }}end{% endfor %}"
    folder = a_folder(tmp_path, template)
    messages = [HI, {"role": "assistant", "content": "go well \n "}]
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    expected = theirs.apply_chat_template(messages, tokenize=False, continue_final_message=True)

    text = EngineTokenizer(folder).chat_text(messages, {}, is_continued=True)

    assert text == expected
