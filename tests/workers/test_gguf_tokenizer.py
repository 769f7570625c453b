from pathlib import Path

import pytest

from tests.workers.tiny import tiny_tokenizer
from workers.model.errors import CorruptModel, UnsupportedModel
from workers.model.gguf_tokenizer import build_tokenizer

PATH = Path("model.gguf")
TEXT = "It's 12345 o'clock,\n\n  don't\tpanic!"


def fields(**changes):
    """The fields of a vocabulary of single bytes and one merge for each pair in MERGES."""
    vocab = tiny_tokenizer().get_vocab()
    single = sorted((t for t in vocab if len(t) == 1), key=vocab.get)
    merges = ["1 2", "12 3", "4 5", "Ġ 1", "Ġ o", "1 1"]
    tokens = ["<end>", *single, *(merge.replace(" ", "") for merge in merges), "<call>"]
    kinds = [3] + [1] * (len(tokens) - 2) + [4]
    found = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.bos_token_id": 0,
    }
    return found | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def pieces(codec, text, **options):
    return [codec.token_text(token_id) for token_id in codec.encode(text, **options)]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["123", "45", " 1", "1", " o"]),  # a space may lead a number
        ("smollm", ["1", "2", "3", "4", "5", " ", "1", "1", " o"]),  # each digit alone
        ("llama-bpe", ["123", "45", " ", "11", " o"]),  # three digits at most, no space
        ("qwen2", ["1", "2", "3", "4", "5", " ", "1", "1", " o"]),
    ],
)
def test_each_kind_cuts_numbers_its_own_way(pre, expected):
    """
    The same vocabulary gives other tokens under another pre-tokenizer.
    """
    codec = build_tokenizer(PATH, fields(pre=pre))

    assert pieces(codec, "12345 11 o") == expected
    assert codec.decode(codec.encode(TEXT)) == TEXT


def test_a_kind_that_is_not_known_is_refused_with_those_that_are():
    """
    A wrong guess would be a slightly wrong prompt, which nobody notices.
    """
    with pytest.raises(UnsupportedModel, match=r"'tekken' .*gpt-2, smollm, llama-bpe, qwen2"):
        build_tokenizer(PATH, fields(pre="tekken"))


def test_a_vocabulary_that_is_not_byte_level_is_refused():
    """
    Sentence-piece vocabularies, which GGUF calls llama, are not supported.
    """
    with pytest.raises(UnsupportedModel, match=r"GGUF tokenizer 'llama'.*byte-level BPE"):
        build_tokenizer(PATH, fields(model="llama"))


def test_control_tokens_have_no_text_and_user_defined_ones_do():
    """
    Both are found whole in a text.
    """
    codec = build_tokenizer(PATH, fields())

    token_ids = codec.encode("a<end><call>b")

    assert [codec.token_text(token_id) for token_id in token_ids] == ["a", "<end>", "<call>", "b"]
    assert codec.decode(token_ids) == "a<call>b"


def test_the_begin_token_is_added_where_the_file_says_so():
    """
    And only when special tokens are asked for.
    """
    codec = build_tokenizer(PATH, fields(add_bos_token=True))

    assert pieces(codec, "ab", add_special_tokens=True) == ["<end>", "a", "b"]
    assert pieces(codec, "ab") == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "tokens is not an array of strings"),
        ({"merges": ["q qq"]}, "merge 'q qq' is not of two tokens into a third"),
        ({"token_type": [1, 1]}, "token_type does not fit the tokens"),
        ({"eos_token_id": 5_000}, "the eos token 5000 is not a token"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_corrupt(changes, message):
    """
    The file and the field are named.
    """
    with pytest.raises(CorruptModel, match=rf"model\.gguf: .*{message}"):
        build_tokenizer(PATH, fields(**changes))
