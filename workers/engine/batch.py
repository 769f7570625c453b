"""
Makes the tensors of a forward pass from a plan.

Each running request has a row of slot numbers, one for each position, so that
a sequence's slot index is a view of its row and costs nothing per step.  A row
is written as its request's page table grows, and is dropped once its request
is in no plan any more or its table was taken away and replaced.

Everything but the token ids follows from where the chunks lie, so a batch can be
laid out before its tokens are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from workers.engine.plan import Chunk
from workers.model.batch import ForwardBatch, SequenceSpan


class Place(NamedTuple):
    """Where a chunk lies, and after which of its positions logits are wanted."""

    request_id: int
    start: int
    num_new: int
    pages: tuple[int, ...]
    output_positions: tuple[int, ...]

    @property
    def end(self) -> int:
        """The position after the last."""
        return self.start + self.num_new

    @classmethod
    def of(cls, chunk: Chunk) -> Place:
        """The place of a chunk whose tokens are known."""
        positions = tuple(chunk.output_positions)
        return cls(
            chunk.request.request_id, chunk.start, chunk.num_new, tuple(chunk.pages), positions
        )

    @classmethod
    def foreseen(cls, decode: Chunk) -> Place:
        """The place of a decode whose token is still being computed."""
        pages = tuple(decode.pages)
        return cls(decode.request.request_id, decode.start, 1, pages, (decode.start,))


class SlotRow:
    """Slots of one request's positions, written a page at a time."""

    def __init__(self, max_tokens: int, page_size: int, device: torch.device) -> None:
        self._page_size = page_size
        num_pages = -(-max_tokens // page_size)
        self._slots = torch.empty(num_pages * page_size, dtype=torch.int64, device=device)
        self._offsets = torch.arange(page_size, device=device)
        self._pages: tuple[int, ...] = ()

    def update(self, pages: tuple[int, ...]) -> None:
        """Follow the page table; one that was retracted and admitted again differs anywhere."""
        kept = len(self._pages)
        if self._pages != pages[:kept]:
            kept = 0
        new = torch.tensor(pages[kept:], dtype=torch.int64, device=self._slots.device)
        if len(new):
            slots = new[:, None] * self._page_size + self._offsets
            self._slots[kept * self._page_size : len(pages) * self._page_size] = slots.flatten()
            self._pages = pages

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

    def lay_out(self, places: Sequence[Place]) -> ForwardBatch:
        """
        Return a batch that has no token ids yet.

        It may be called while an earlier batch is computed, whose views of the
        rows stay as they are: rows get longer until that step is committed, and
        no table is replaced before.
        """
        rows = [self._row(place) for place in places]
        self._rows = {p.request_id: row for p, row in zip(places, rows, strict=True)}
        positions: list[int] = []
        output_index: list[int] = []
        for place in places:
            offset = len(positions) - place.start
            positions += range(place.start, place.end)
            output_index += [offset + position for position in place.output_positions]
        pairs = list(zip(places, rows, strict=True))
        return ForwardBatch(
            token_ids=self._tensor([]),
            positions=self._tensor(positions),
            slots=torch.cat(
                [self._tensor([]), *(row.slots(place.start, place.end) for place, row in pairs)]
            ),
            sequences=tuple(
                SequenceSpan(place.num_new, place.end, row.slots(0, place.end), place.request_id)
                for place, row in pairs
            ),
            output_index=self._tensor(output_index),
        )

    def fill(self, batch: ForwardBatch, token_ids: Sequence[int]) -> ForwardBatch:
        """Return the batch with its tokens."""
        return replace(batch, token_ids=self._tensor(token_ids))

    def _row(self, place: Place) -> SlotRow:
        row = self._rows.get(place.request_id)
        if row is None:
            row = SlotRow(self._max_model_len, self._page_size, self._device)
        row.update(place.pages)
        return row

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)
