"""
Makes the tensors of a forward pass from a plan.

Each running request has a row of slot numbers, one for each position, so that
a sequence's slot index is a view of its row and costs nothing per step.  A row
is written as its request's page table grows, and is dropped once its request
is in no plan any more or its table was taken away and replaced.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers.engine.plan import Chunk, Plan
from workers.model.batch import ForwardBatch, SequenceSpan


class SlotRow:
    """Slots of one request's positions, written a page at a time."""

    def __init__(self, max_tokens: int, page_size: int, device: torch.device) -> None:
        self._page_size = page_size
        num_pages = -(-max_tokens // page_size)
        self._slots = torch.empty(num_pages * page_size, dtype=torch.int64, device=device)
        self._offsets = torch.arange(page_size, device=device)
        self._pages: list[int] = []

    def update(self, pages: Sequence[int]) -> None:
        """Follow the page table; one that was retracted and admitted again differs anywhere."""
        kept = len(self._pages)
        if self._pages != pages[:kept]:
            kept = 0
        new = torch.tensor(pages[kept:], dtype=torch.int64, device=self._slots.device)
        if len(new):
            slots = new[:, None] * self._page_size + self._offsets
            self._slots[kept * self._page_size : len(pages) * self._page_size] = slots.flatten()
            self._pages = list(pages)

    def slots(self, start: int, end: int) -> torch.Tensor:
        """[end - start] int64, a view."""
        return self._slots[start:end]


class BatchBuilder:
    """Owns the slot rows."""

    def __init__(self, max_model_len: int, page_size: int, device: torch.device) -> None:
        self._max_model_len = max_model_len
        self._page_size = page_size
        self._device = device
        self._rows: dict[int, SlotRow] = {}

    def build(self, plan: Plan) -> ForwardBatch:
        """Return the batch: chunks in the plan's order, logits where they are wanted."""
        rows = [self._row(chunk) for chunk in plan.chunks]
        self._rows = {c.request.request_id: r for c, r in zip(plan.chunks, rows, strict=True)}
        token_ids: list[int] = []
        positions: list[int] = []
        output_index: list[int] = []
        for chunk in plan.chunks:
            offset = len(token_ids) - chunk.start
            token_ids += chunk.request.tokens(chunk.start, chunk.end)
            positions += range(chunk.start, chunk.end)
            output_index += [offset + position for position in chunk.output_positions]
        pairs = list(zip(plan.chunks, rows, strict=True))
        return ForwardBatch(
            token_ids=self._tensor(token_ids),
            positions=self._tensor(positions),
            slots=torch.cat([row.slots(chunk.start, chunk.end) for chunk, row in pairs]),
            sequences=tuple(
                SequenceSpan(chunk.num_new, chunk.end, row.slots(0, chunk.end))
                for chunk, row in pairs
            ),
            output_index=self._tensor(output_index),
        )

    def _row(self, chunk: Chunk) -> SlotRow:
        row = self._rows.get(chunk.request.request_id)
        if row is None:
            row = SlotRow(self._max_model_len, self._page_size, self._device)
        row.update(chunk.pages)
        return row

    def _tensor(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)
