"""
A model in a folder, as Hugging Face lays it out.

    config.json              shape and constants
    generation_config.json   optional; may name more end tokens
    model.safetensors        the weights; or shards, listed in model.safetensors.index.json
    tokenizer.json           the tokenizer
    tokenizer_config.json    optional; begin and end tokens, chat template
    chat_template.jinja      optional; goes before the one in tokenizer_config.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from workers.model.config import ModelConfig
from workers.model.errors import CorruptModel, UnsupportedModel
from workers.model.hf_config import model_config, plain_name
from workers.model.text import TextCodec

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class HfFolder:
    """
    An opened folder; see `workers.model.checkpoint.Checkpoint`.

    Raises CorruptModel or UnsupportedModel.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config = self._read_config()

    @property
    def config(self) -> ModelConfig:
        """The model's shape and constants."""
        return self._config

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each weight in the dtype of its file."""
        for path in self._weight_files():
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - not a mapping, it cannot iterate
                        yield plain_name(name), file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise CorruptModel(path, str(error)) from error

    def tokenizer(self) -> TextCodec:
        """Load the tokenizer and its chat template."""
        path = self._folder / "tokenizer.json"
        if not path.exists():
            raise UnsupportedModel("tokenizer of", self._folder.name, ["tokenizer.json"])
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise CorruptModel(path, str(error)) from error
        settings = self._json("tokenizer_config.json", required=False)
        return TextCodec(
            tokenizer,
            eos_token_ids=self.config.eos_token_ids,
            chat_template=self._chat_template(settings),
            bos_token=_token_text(settings.get("bos_token")),
            eos_token=_token_text(settings.get("eos_token")),
        )

    def close(self) -> None:
        """Do nothing: a file is open only while something is read from it."""

    def _weight_files(self) -> list[Path]:
        if (self._folder / _WEIGHTS).exists():
            return [self._folder / _WEIGHTS]
        if not (self._folder / _INDEX).exists():
            raise UnsupportedModel("weights of", self._folder.name, [_WEIGHTS, _INDEX])
        shard_of = self._json(_INDEX).get("weight_map")
        if not isinstance(shard_of, dict):
            raise CorruptModel(self._folder / _INDEX, "no weight_map")
        shards = [self._folder / str(name) for name in sorted(set(shard_of.values()))]
        for shard in shards:
            if not shard.exists():
                raise CorruptModel(self._folder / _INDEX, f"shard {shard.name} does not exist")
        return shards

    def _json(self, name: str, required: bool = True) -> dict[str, Any]:
        path = self._folder / name
        if not required and not path.exists():
            return {}
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CorruptModel(path, str(error)) from error
        if not isinstance(value, dict):
            raise CorruptModel(path, "not a JSON object")
        return value

    def _chat_template(self, settings: dict[str, Any]) -> str | None:
        path = self._folder / "chat_template.jinja"
        if path.exists():
            return path.read_text(encoding="utf-8")
        template = settings.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {entry.get("name"): entry.get("template") for entry in template}
            template = named.get("default")
        return template if isinstance(template, str) else None

    def _read_config(self) -> ModelConfig:
        raw = self._json("config.json")
        try:
            return model_config(raw, self._end_token_ids(raw))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            path = self._folder / "config.json"
            raise CorruptModel(path, f"{type(error).__name__} {error}") from error

    def _end_token_ids(self, raw: dict[str, Any]) -> tuple[int, ...]:
        generation = self._json("generation_config.json", required=False)
        found: list[int] = []
        for value in (raw.get("eos_token_id"), generation.get("eos_token_id")):
            found += value if isinstance(value, list) else [] if value is None else [value]
        return tuple(dict.fromkeys(int(token_id) for token_id in found))


def _token_text(value: object) -> str | None:
    """Return a token's text, which is written as a string or as an object with content."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
