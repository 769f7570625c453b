"""
What the new tokens of a prefill chunk see of their sequence, as torch's attention is told.

The last new token sees everything: the mask is causal from the lower right corner.  Torch has
two ways to be told so.

* Written out, [num_new, num_total], made once for a batch.  Every kernel of a CPU takes that.  On
  CUDA only those do that keep all scores in memory, because queries share key heads.
* Named (`torch.nn.attention.bias`), and made by nobody: flash attention has that case built in,
  and key heads that queries share.  So it is used where flash attention can be.

Which one is chosen once, as the KV cache is made, and logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention

logger = logging.getLogger("levelhead.workers.model")


class PrefillMask(Enum):
    """How a mask is given; the value is said in the log."""

    WRITTEN = "with a mask that is written out"
    NAMED = "as flash attention, causal from the lower right"

    def make(self, num_new: int, num_total: int, like: torch.Tensor) -> torch.Tensor | None:
        """Return the mask of a chunk, in the dtype of like; None: plain causal attention does."""
        if num_new == num_total:
            return None
        if self is PrefillMask.NAMED:
            return _causal_lower_right(num_new, num_total)
        shape = (num_new, num_total)
        mask = torch.full(shape, float("-inf"), device=like.device, dtype=like.dtype)
        return mask.triu_(diagonal=num_total - num_new + 1)


def choose_prefill_mask(
    keys: torch.Tensor, can_use_flash: Callable[[torch.Tensor], bool] | None = None
) -> PrefillMask:
    """keys: [..., head_dim] of the cache.  can_use_flash: asks torch, about such keys."""
    if keys.device.type != "cuda":
        return PrefillMask.WRITTEN
    can_use = (can_use_flash or _can_use_flash)(keys)
    chosen = PrefillMask.NAMED if can_use else PrefillMask.WRITTEN
    if can_use:
        _causal_lower_right(1, 2)  # imports now, and not for the first prompt
    logger.info("prompts are computed %s (%s)", chosen.value, keys.dtype)
    return chosen


def _causal_lower_right(num_new: int, num_total: int) -> torch.Tensor:
    # It brings torch._dynamo, a second that ranks without flash attention need not wait for.
    from torch.nn.attention.bias import causal_lower_right

    return causal_lower_right(num_new, num_total)


def _can_use_flash(keys: torch.Tensor) -> bool:
    queries = keys.new_empty((1, 2, 8, keys.shape[-1]))
    some = keys.new_empty((1, 1, 16, keys.shape[-1]))
    return can_use_flash_attention(SDPAParams(queries, some, some, None, 0.0, False, True))
