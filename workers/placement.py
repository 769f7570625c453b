"""
Where a rank computes, and with what numbers.

The choices are functions of what a machine has; `Machine` asks torch for it.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch

from workers.errors import InvalidConfig

logger = logging.getLogger("levelhead.workers")

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_FAST_BFLOAT16 = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not in every torch


class Machine(NamedTuple):
    """
    What a choice depends on.

    has_fast_bfloat16: whether the CPU multiplies bfloat16 in hardware.  oneDNN takes
    it on any CPU with AVX-512, and is then slower than with float32.
    """

    num_cuda_devices: int
    has_fast_bfloat16: bool

    @classmethod
    def here(cls) -> Machine:
        """Return what torch finds on this machine."""
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return cls(num_devices, _has_onednn_bfloat16() and _has_bfloat16_instructions())


def choose_device(kind: str, dp_rank: int, dp_size: int, machine: Machine) -> torch.device:
    """Return the rank's device, dealt out in turn.  Raises InvalidConfig if there is none."""
    if kind != "cuda":
        return torch.device(kind)
    count = machine.num_cuda_devices
    if not count:
        raise InvalidConfig(f"--device is cuda; torch {torch.__version__} finds no CUDA device")
    index = dp_rank % count
    others = [rank for rank in range(index, dp_size, count) if rank != dp_rank]
    if others:
        logger.warning("group %d shares cuda:%d with groups %s", dp_rank, index, others)
    return torch.device("cuda", index)


def choose_dtype(name: str, device: torch.device, machine: Machine) -> torch.dtype:
    """Return the dtype called name; auto is bfloat16 where that is fast."""
    if name != "auto":
        return _DTYPES[name]
    is_fast = device.type == "cuda" or machine.has_fast_bfloat16
    return torch.bfloat16 if is_fast else torch.float32


def _has_onednn_bfloat16() -> bool:
    # A torch that was built without oneDNN lacks the operator, too.
    return torch.backends.mkldnn.is_available() and bool(  # type: ignore[no-untyped-call]
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _has_bfloat16_instructions() -> bool:
    names = [name for name in _FAST_BFLOAT16 if hasattr(torch.cpu, name)]
    return any(getattr(torch.cpu, name)() for name in names)
