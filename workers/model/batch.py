"""
What one forward pass is asked to compute.

A batch is a flat axis of T new tokens, the sequences' chunks one after the
other.  Where their keys and values live is the engine's business: it hands
over slot numbers, and the model reads and writes exactly those slots.

    tokens      a0 a1 a2 a3 | b7 | c9        T = 6
    sequences   (4 of 4)    (1 of 8) (1 of 10)
    output_index     3        4      5       the rows whose logits are wanted
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class SequenceSpan:
    """
    One sequence's part of a batch.

    num_new: rows that it has on the token axis, its last num_new positions.
    num_total: tokens of it whose keys and values exist after this pass.
    slot_index: [num_total] int64, the slots of its positions 0 .. num_total - 1.
    name: the same at each step of a sequence and never another's; None: it has none.
    """

    num_new: int
    num_total: int
    slot_index: torch.Tensor
    name: int | None = None


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """
    One forward pass; every tensor is int64 and on the model's device.

    token_ids, positions, slots: [T]; slots says where each row's key and value go.
    sequences: in the order of the token axis; their num_new add up to T.
    output_index: [R] rows of the token axis whose logits are wanted.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    sequences: tuple[SequenceSpan, ...]
    output_index: torch.Tensor
