"""
Text to tokens and back, for one model.

Every tokenizer here is byte-level: a token stands for a fixed run of bytes,
whatever is around it, so the text of a sequence is the text of its tokens'
bytes put together.  Special tokens (ends of turns, and the like) stand for
nothing in the output.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

from workers.model.chat import ChatTemplate, Messages
from workers.model.errors import ChatTemplateError, UnsupportedModel


class TextCodec:
    """
    A tokenizer with its chat template.  Raises UnsupportedModel unless it is byte-level.

    eos_token_ids: tokens with which the model ends its output.
    vocab_size: one more than the highest token id that has a text.
    max_token_bytes: bytes of text that one token stands for at most; None if text is
    changed before it is cut, so that its length says little.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos_token_ids: Sequence[int],
        chat_template: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        if not isinstance(tokenizer.decoder, ByteLevel):
            found = type(tokenizer.decoder).__name__
            raise UnsupportedModel("tokenizer decoder", found, ["ByteLevel"])
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._source, self._bos_token, self._eos_token = chat_template, bos_token, eos_token
        self._chat = chat_template and ChatTemplate(chat_template, bos_token, eos_token, now)
        self._bytes, self._special = _token_table(tokenizer)
        self.eos_token_ids = tuple(eos_token_ids)
        self.vocab_size = len(self._bytes)
        self.max_token_bytes = _max_token_bytes(tokenizer, self._bytes)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the tokens of text, with the model's begin-of-text token if asked."""
        encode = self._tokenizer.encode_batch_fast  # unlike encode, it lets go of the GIL
        ids: list[int] = encode([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the tokens, without special ones; bad bytes become U+FFFD."""
        return b"".join(map(self.text_bytes, token_ids)).decode("utf-8", errors="replace")

    def text_bytes(self, token_id: int) -> bytes:
        """Return what token_id adds to the output: nothing if special or unknown."""
        return b"" if token_id in self._special else self.token_bytes(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that token_id stands for, also of a special one."""
        return self._bytes[token_id] if 0 <= token_id < self.vocab_size else b""

    def token_text(self, token_id: int) -> str:
        """Return token_bytes as text; part of a character becomes U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def render_chat(self, messages: Messages, add_generation_prompt: bool = True) -> str:
        """Return the conversation as a prompt.  Raises ChatTemplateError."""
        if not self._chat:
            raise ChatTemplateError("this model has no chat template; use /v1/completions")
        return self._chat.render(messages, add_generation_prompt)

    def encode_chat(self, messages: Messages) -> list[int]:
        """Return the tokens of the rendered conversation.  Raises ChatTemplateError."""
        return self.encode(self.render_chat(messages))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and chat.json into folder; readers see each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        chat = {
            "chat_template": self._source,
            "bos_token": self._bos_token,
            "eos_token": self._eos_token,
        }
        _write_atomically(folder / "tokenizer.json", self._tokenizer.to_str())
        _write_atomically(folder / "chat.json", json.dumps(chat, ensure_ascii=False))


def _token_table(tokenizer: Tokenizer) -> tuple[list[bytes], frozenset[int]]:
    """Return each token's bytes, by id, and the ids of the special tokens."""
    added = tokenizer.get_added_tokens_decoder()
    vocab: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    byte_of = _byte_alphabet()
    table = [b""] * (max(vocab.values(), default=-1) + 1)
    for token, token_id in vocab.items():
        if token_id in added or not all(character in byte_of for character in token):
            table[token_id] = token.encode("utf-8")
        else:
            table[token_id] = bytes(byte_of[character] for character in token)
    special = frozenset(token_id for token_id, token in added.items() if token.special)
    return table, special


def _max_token_bytes(tokenizer: Tokenizer, table: Sequence[bytes]) -> int | None:
    """Return the length of the longest token, unless text can shrink on its way to tokens."""
    added = tokenizer.get_added_tokens_decoder().values()
    if tokenizer.normalizer is not None or any(t.lstrip or t.rstrip for t in added):
        return None
    return max(map(len, table), default=None)


def _byte_alphabet() -> dict[str, int]:
    """
    Return which byte each character of a byte-level vocabulary stands for.

    GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others, in
    order, for the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(others)}


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
