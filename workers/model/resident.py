"""
The weights and the KV pool: in memory, or given back until they are wanted again.

                 pool                           weights
    give back    its storage freed, in place    the model dropped
    take back    a new storage, zeroed          read from the checkpoint again

No copy of the weights is kept in host memory: whoever releases memory wants all of it, and the
file is in the page cache of the system, as long as nobody needs the room more.  The pool's
tensors stay the same objects, so nobody has to be told of new ones.

What was freed goes back to the system at once, not to an allocator that would keep it for us.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import StrEnum

import torch

from workers.model.kv_cache import KVCache
from workers.model.llama import LlamaModel


class Part(StrEnum):
    """What can be given back; the names are SGLang's tags."""

    KV_CACHE = "kv_cache"
    WEIGHTS = "weights"


class Resident:
    """A model and its KV pool.  reload: makes the model anew, and may raise ModelError."""

    def __init__(
        self, model: LlamaModel, kv: KVCache, reload: Callable[[], LlamaModel] | None = None
    ) -> None:
        self._model: LlamaModel | None = model
        self.kv = kv
        self._reload = reload

    @property
    def model(self) -> LlamaModel:
        """The model; while it is there."""
        assert self._model is not None, "the weights were given back"
        return self._model

    def give_back(self, part: Part) -> int:
        """Free a part that is there; return its bytes."""
        if part is Part.KV_CACHE:
            num_bytes = self.kv.free()
        else:
            num_bytes, self._model = self.model.num_bytes, None
        _trim(self.kv.keys.device)
        return num_bytes

    def take_back(self, part: Part) -> int:
        """Have a part again that was given back, the pool empty; return its bytes."""
        if part is Part.KV_CACHE:
            return self.kv.allocate_again()
        assert self._reload is not None, "nobody knows where the weights came from"
        self._model = self._reload()
        return self._model.num_bytes


def _trim(device: torch.device) -> None:
    """Return to the system what torch's allocator, or the C library's, would keep."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
