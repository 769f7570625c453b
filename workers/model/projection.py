"""
A weight matrix that multiplies rows of activations.

    load ──► weight [out, in], filled through views ──► pack ──► packed, the plain one is gone

Packing: a bfloat16 kernel of oneDNN reads weights in tiles.  A plain matrix is
put into tiles anew at every call, which for a few rows takes longer than to
multiply them; a packed one has been, once.  It costs no memory, because the
plain weight is given up, unless it is the embedding's as well.  Packing is
possible where torch was built with oneDNN and the processor has bfloat16 dot
products; elsewhere, and in other dtypes, `pack` changes nothing.  float32 is
left as it is on purpose: its results are compared with those of other
implementations.

The two operators are what `torch.compile` puts into the code that it makes for
a CPU.  They are not part of torch's public interface, so they are tried once
before they are relied upon.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch.nn.functional import linear

logger = logging.getLogger("levelhead.workers.model")

_PACKED_FOR_ROWS = 16
"""Rows that the tiles are laid out for; others work as well, if not quite as fast."""


class Projection(torch.nn.Module):
    """weight: [out, in] until it is packed.  bias: [out] or None."""

    def __init__(self, weight: torch.nn.Parameter, bias: torch.nn.Parameter | None = None) -> None:
        super().__init__()
        self.weight: torch.nn.Parameter | None = weight
        self.bias = bias
        self._packed: torch.Tensor | None = None

    def view(self) -> torch.Tensor:
        """Return the weight, to be filled; before it is packed."""
        assert self.weight is not None, "the weight was packed"
        return self.weight

    @property
    def num_packed_bytes(self) -> int:
        """Of the matrix if it is packed, and in no parameter any more."""
        return 0 if self._packed is None else self._packed.numel() * self._packed.element_size()

    def pack(self) -> None:
        """Lay the weight out for speed where that is possible; it can be viewed no more."""
        if self.weight is not None and can_pack(self.weight.device, self.weight.dtype):
            self._packed = _pack(self.weight.detach())
            self.weight = None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows [T, in] multiplied, [T, out]."""
        if self._packed is not None:
            return _multiply(rows, self._packed, self.bias)
        return linear(rows, self.view(), self.bias)


@functools.cache
def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packed weights work here and give what plain ones give."""
    if device.type != "cpu" or dtype is not torch.bfloat16:
        return False
    if not torch._C._has_mkldnn:
        return False
    weight = torch.arange(32 * 48, dtype=torch.float32).remainder(7).view(32, 48).to(dtype)
    rows = torch.arange(3 * 48, dtype=torch.float32).remainder(5).view(3, 48).to(dtype)
    try:
        packed = _multiply(rows, _pack(weight), None)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        logger.warning("weights are not packed, decoding is slower: %s", error)
        return False
    return torch.allclose(packed, linear(rows, weight), rtol=0.02)


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR_ROWS)
    return packed


def _multiply(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return product
