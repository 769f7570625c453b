"""A rank's weights: out of which checkpoint, to where, and once more after they were released."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from workers.model.checkpoint import Checkpoint, open_checkpoint
from workers.model.config import ModelConfig
from workers.model.errors import InconsistentConfig
from workers.model.llama import LlamaModel
from workers.model.shard import Shard


@dataclass(frozen=True)
class Weights:
    """
    What to load.

    found: the checkpoint's configuration; config: the same, with what flags say of it.
    """

    path: Path
    found: ModelConfig
    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    shard: Shard
    attention_shard: Shard

    def load(self, checkpoint: Checkpoint) -> LlamaModel:
        """Return the model, with weights.  Raises ModelError."""
        model = LlamaModel(self.config, self.device, self.dtype, self.shard, self.attention_shard)
        model.load(checkpoint)
        return model

    def load_again(self) -> LlamaModel:
        """As load.  Raises ModelError; InconsistentConfig if another model is there by now."""
        checkpoint = open_checkpoint(self.path)
        try:
            if checkpoint.config != self.found:
                raise InconsistentConfig(f"{self.path} is another model than the one loaded before")
            return self.load(checkpoint)
        finally:
            checkpoint.close()
