import json
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from tests.workers.tiny import CHAT_TEMPLATE, CORPUS, tiny_tokenizer
from workers.model.errors import ChatTemplateError, UnsupportedModel
from workers.model.text import TextCodec

MESSAGES = [{"role": "user", "content": "What is 12 + 34?"}]


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_text_survives_the_round_trip(codec, text):
    """
    Any text at all: byte-level tokens leave nothing unknown.
    """
    if "<|" not in text:
        assert codec.decode(codec.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(token_ids=st.lists(st.integers(0, 511), max_size=40))
def test_any_tokens_decode_as_the_tokenizers_library_decodes_them(codec, token_ids):
    """
    Without special tokens, and with U+FFFD for what is no text.
    """
    assert codec.decode(token_ids) == tiny_tokenizer().decode(token_ids, skip_special_tokens=True)


def test_one_token_stands_for_no_more_bytes_than_the_longest(codec):
    """
    Which bounds the tokens of a text from below, unless something shortens the text first.
    """
    composing = tiny_tokenizer()
    composing.normalizer = normalizers.NFC()
    stripping = tiny_tokenizer()
    stripping.add_tokens([AddedToken("<gap>", lstrip=True)])

    assert codec.max_token_bytes == max(len(codec.token_bytes(i)) for i in range(512))
    assert TextCodec(composing, [2]).max_token_bytes is None
    assert TextCodec(stripping, [2]).max_token_bytes is None


def test_another_thread_gets_its_turn_while_a_text_is_cut(codec):
    """
    The call lets go of the GIL, which nothing else here makes it do.
    """
    turns, go, interval = [], threading.Lock(), sys.getswitchinterval()
    go.acquire()
    other = threading.Thread(target=lambda: turns.append(go.acquire()))
    other.start()
    sys.setswitchinterval(3600.0)
    try:
        go.release()
        codec.encode(CORPUS * 200)
        seen = len(turns)
    finally:
        sys.setswitchinterval(interval)
    other.join()

    assert seen == 1


def test_the_tokens_of_a_text_are_its_bytes_put_together(codec):
    """
    token_bytes is exact where token_text has to replace half a character.
    """
    token_ids = codec.encode(CORPUS + "\U0001f600")

    assert b"".join(map(codec.token_bytes, token_ids)).decode() == CORPUS + "\U0001f600"
    assert codec.token_text(token_ids[-1]) == "\ufffd"


def test_special_tokens_have_a_name_and_no_text(codec):
    """
    An end token can be shown in log-probabilities and is not part of the output.
    """
    [end] = codec.eos_token_ids

    assert (codec.token_text(end), codec.token_bytes(end)) == ("<|im_end|>", b"<|im_end|>")
    assert codec.decode([*codec.encode("ok"), end]) == "ok"


def test_token_numbers_beyond_the_vocabulary_stand_for_nothing(codec):
    """
    A model may have more rows than its tokenizer has tokens.
    """
    assert codec.vocab_size == 512
    assert codec.token_bytes(512) == codec.token_bytes(-1) == b""
    assert codec.decode([10_000]) == ""


def test_a_conversation_becomes_one_prompt(codec):
    """
    The template's special tokens are single tokens of the prompt.
    """
    prompt = "<|im_start|>user\nWhat is 12 + 34?<|im_end|>\n<|im_start|>assistant\n"

    assert codec.render_chat(MESSAGES) == prompt
    assert codec.render_chat(MESSAGES, add_generation_prompt=False) == prompt[:-22]
    assert codec.encode_chat(MESSAGES) == codec.encode(prompt)
    assert codec.encode_chat(MESSAGES).count(1) == 2


def test_a_model_without_a_template_says_so():
    """
    Chat needs a template; the message names what works without one.
    """
    with pytest.raises(ChatTemplateError, match="/v1/completions"):
        TextCodec(tiny_tokenizer(), [2]).render_chat(MESSAGES)


def test_what_is_saved_is_enough_to_do_the_same_elsewhere(codec, tmp_path):
    """
    tokenizer.json and chat.json hold the tokenizer, the template and its two tokens.
    """
    codec.save(tmp_path / "tokenizer")

    names = sorted(path.name for path in (tmp_path / "tokenizer").iterdir())
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
    assert names == ["chat.json", "tokenizer.json"]
    assert saved.encode(CORPUS).ids == codec.encode(CORPUS)
    assert json.loads((tmp_path / "tokenizer" / "chat.json").read_text()) == {
        "chat_template": CHAT_TEMPLATE,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
    }


def test_a_tokenizer_that_is_not_byte_level_is_refused():
    """
    Streaming relies on a token standing for the same bytes everywhere.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.Metaspace()

    with pytest.raises(UnsupportedModel, match="'Metaspace' is not supported; supported: ByteLev"):
        TextCodec(tokenizer, [2])


def test_an_added_token_is_its_own_text():
    """
    Its characters are characters, also where the vocabulary's alphabet uses them for bytes.
    """
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<é>"])
    codec = TextCodec(tokenizer, [2])

    assert len(codec.encode("<é>")) == 1
    assert codec.decode(codec.encode("a<é>é")) == "a<é>é"
