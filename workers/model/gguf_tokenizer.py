"""
A tokenizer rebuilt from the fields of a GGUF file.

The file has the vocabulary and the merges, but of how text is cut into words
before merging (and normalised before that) only a name: `tokenizer.ggml.pre`.
What the names mean is known here, for byte-level BPE vocabularies.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers.processors import TemplateProcessing

from workers.model.errors import CorruptModel, UnsupportedModel
from workers.model.gguf_header import Value
from workers.model.text import TextCodec

_CONTROL, _USER_DEFINED = 3, 4
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split_words(digits: str) -> pre.PreTokenizer:
    pattern = Regex(_WORDS.replace("DIGITS", digits))
    bytes_only = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre.Sequence([pre.Split(pattern, "isolated"), bytes_only])


def _gpt2() -> pre.PreTokenizer:
    return pre.ByteLevel(add_prefix_space=False, use_regex=True)


_PRE_TOKENIZERS: dict[str, Callable[[], pre.PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": lambda: pre.Sequence([pre.Digits(individual_digits=True), _gpt2()]),
    "llama-bpe": lambda: _split_words(digits=r"\p{N}{1,3}"),
    "qwen2": lambda: _split_words(digits=r"\p{N}"),
}
_MERGES_IGNORED = {"llama-bpe"}  # a word that is a token is that token, merges or not
_COMPOSED = {"qwen2"}  # text is brought to Unicode form NFC first


def build_tokenizer(path: Path, values: dict[str, Value]) -> TextCodec:
    """
    Return the codec that the file at path describes in its metadata values.

    Raises UnsupportedModel for a kind that is not known here, CorruptModel for
    fields that are missing or do not fit each other.
    """
    fields = _Fields(path, values)
    kind, name = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2":
        raise UnsupportedModel("GGUF tokenizer", kind, ["gpt2 (byte-level BPE)"])
    if not isinstance(name, str) or name not in _PRE_TOKENIZERS:
        raise UnsupportedModel("GGUF pre-tokenizer", name, list(_PRE_TOKENIZERS))
    tokens = fields.strings("tokenizer.ggml.tokens")
    tokenizer = Tokenizer(fields.byte_pairs(tokens, ignore_merges=name in _MERGES_IGNORED))
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[name]()
    if name in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    fields.add_special_tokens(tokenizer, tokens)
    bos, eos = fields.token(tokens, "bos"), fields.token(tokens, "eos")
    if values.get("tokenizer.ggml.add_bos_token") is True and bos is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokens.index(bos))]
        )
    template = values.get("tokenizer.chat_template")
    return TextCodec(
        tokenizer,
        eos_token_ids=end_token_ids(values),
        chat_template=template if isinstance(template, str) else None,
        bos_token=bos,
        eos_token=eos,
    )


class _Fields:
    """The tokenizer's fields, checked as they are read."""

    def __init__(self, path: Path, values: dict[str, Value]) -> None:
        self._path = path
        self._values = values

    def strings(self, key: str) -> list[str]:
        """Return the strings of an array."""
        value = self._values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise CorruptModel(self._path, f"{key} is not an array of strings")
        return [str(item) for item in value]

    def byte_pairs(self, tokens: list[str], ignore_merges: bool) -> models.BPE:
        """Return the BPE model of the vocabulary and the merges."""
        vocab = {token: token_id for token_id, token in enumerate(tokens)}
        pairs = []
        for merge in self.strings("tokenizer.ggml.merges"):
            left, _, right = merge.partition(" ")
            if left not in vocab or right not in vocab or left + right not in vocab:
                raise CorruptModel(self._path, f"merge {merge!r} is not of two tokens into a third")
            pairs.append((left, right))
        return models.BPE(vocab, pairs, ignore_merges=ignore_merges)

    def add_special_tokens(self, tokenizer: Tokenizer, tokens: list[str]) -> None:
        """Mark what is never cut: control tokens, which have no text, and whole words."""
        kinds = self._values.get("tokenizer.ggml.token_type", [])
        if not isinstance(kinds, list) or len(kinds) not in (0, len(tokens)):
            raise CorruptModel(self._path, "tokenizer.ggml.token_type does not fit the tokens")
        typed = list(zip(tokens, kinds, strict=False))
        control = [AddedToken(t, special=True, normalized=False) for t, k in typed if k == _CONTROL]
        whole = [AddedToken(t, normalized=False) for t, k in typed if k == _USER_DEFINED]
        tokenizer.add_special_tokens(control)
        tokenizer.add_tokens(whole)

    def token(self, tokens: list[str], name: str) -> str | None:
        """Return the text of the token that plays a part, such as bos."""
        token_id = self._values.get(f"tokenizer.ggml.{name}_token_id")
        if token_id is None:
            return None
        if not isinstance(token_id, int) or not 0 <= token_id < len(tokens):
            raise CorruptModel(self._path, f"the {name} token {token_id!r} is not a token")
        return tokens[token_id]


def end_token_ids(values: dict[str, Value]) -> tuple[int, ...]:
    """Return the tokens that end an output: of the text, and of a turn."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    found = (values.get(key) for key in keys)
    return tuple(dict.fromkeys(token_id for token_id in found if isinstance(token_id, int)))
