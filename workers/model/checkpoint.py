"""
A model on disk: its configuration, its weights, its tokenizer.

Two formats look alike from here.  Weights carry the names and the layout of a
Hugging Face Llama, in whatever dtype the file holds or dequantises to; the
model converts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

from workers.model.config import ModelConfig
from workers.model.errors import ModelMissing, NotAModel
from workers.model.gguf_file import GgufFile
from workers.model.gguf_header import GGUF_MAGIC
from workers.model.hf_folder import HfFolder
from workers.model.text import TextCodec

__all__ = ["Checkpoint", "ModelConfig", "open_checkpoint"]


class Checkpoint(Protocol):
    """An opened model; close it when the weights are loaded."""

    @property
    def config(self) -> ModelConfig:
        """The model's shape and constants."""

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each weight once, on the CPU, under its Hugging Face name."""

    def tokenizer(self) -> TextCodec:
        """Return what turns text into this model's tokens and back."""

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""


def open_checkpoint(path: Path) -> Checkpoint:
    """
    Open the GGUF file or the Hugging Face folder at path.

    Reads the configuration, not the weights.  Raises ModelMissing, NotAModel,
    CorruptModel or UnsupportedModel.
    """
    if not path.exists():
        raise ModelMissing(f"{path}: no such file or folder")
    if path.is_dir():
        if not (path / "config.json").exists():
            raise NotAModel(f"{path}: a model folder has a config.json, this one has none")
        return HfFolder(path)
    with path.open("rb") as file:
        magic = file.read(len(GGUF_MAGIC))
    if magic != GGUF_MAGIC:
        raise NotAModel(f"{path}: a model file begins with {GGUF_MAGIC!r}, this one with {magic!r}")
    return GgufFile(path)
