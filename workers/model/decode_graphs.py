"""
Decode batches whose every operation is recorded once and then replayed.

A step that decodes is many small operations, and on a GPU it takes longer to launch them than
to compute them.  A recorded pass is launched as one.  It reads and writes the same memory each
time, so a batch is copied into tensors of a fixed shape, and rows and columns that it does not
have are filled up:

    rows       1, 2, 4, 8, ... max_rows     more: token 0, which sees nothing but itself, in the
                                            slot that is nobody's (KVCache.spare_slot)
    columns    256, 512, ... max_len        more: that slot again, and masked

    slot table   [ 7  8  9 40  s  s  s  s ]    a sequence of 4
                 [ 3  4  s  s  s  s  s  s ]    one of 2
                 [ s  s  s  s  s  s  s  s ]    nobody: reads what it wrote itself
                 [ s  s  s  s  s  s  s  s ]    nobody

So a pass costs less than twice the rows, and less than twice the columns, that it needs; what
filling rows compute is dropped.  A shape is recorded when a batch first has it.

What records is passed in: on CUDA its graphs, in tests what computes anew.  Whoever gives the
weights or the pool up gives the graphs up as well: they have addresses of both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch

from workers.model.attention import AttentionPlan, DecodeGroup, Padded, mask_of
from workers.model.batch import ForwardBatch
from workers.model.kv_cache import KVCache
from workers.model.llama import LlamaModel

logger = logging.getLogger("levelhead.workers.model")

LEAST_LEN = 256
Compute = Callable[[], torch.Tensor]


class Recorder(Protocol):
    """Records what is computed on tensors that stay where they are."""

    def record(self, compute: Compute) -> Compute:
        """Return what computes it again, with what those tensors hold by then."""


class CudaRecorder:
    """
    CUDA's graphs, with one pool of memory for all: they are replayed one after the other.

    device: made the thread's own meanwhile, which need not be the one that chose it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None  # torch's handle, a type of which is not in every torch

    def record(self, compute: Compute) -> Compute:
        """Compute once beside, so that libraries are set up; then record."""
        with torch.cuda.device(self._device):
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                compute()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            # Other threads may allocate meanwhile: they lay out the next batch.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = compute()
            self._pool = self._pool or graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay


class Shape(NamedTuple):
    """Of a recorded pass."""

    num_rows: int
    num_columns: int


class Bounds(NamedTuple):
    """What batches are taken: sequences, and tokens of the longest."""

    max_rows: int
    max_len: int

    def shape_of(self, num_rows: int, length: int) -> Shape:
        """Return the smallest shape with room for so many rows of that length."""
        columns = max(LEAST_LEN, _power_of_two(length))
        return Shape(min(_power_of_two(num_rows), self.max_rows), min(columns, self.max_len))


@dataclass(frozen=True)
class _Table(DecodeGroup):
    """Decodes of sequences whose slots [B, L] and lengths [B] are in tensors."""

    slots: torch.Tensor
    num_tokens: torch.Tensor

    @property
    def names(self) -> tuple[int | None, ...]:
        return (None,) * len(self.slots)

    @property
    def lengths(self) -> tuple[int, ...]:
        return (0,) * len(self.slots)

    @cached_property
    def padded(self) -> Padded:
        columns = torch.arange(self.slots.shape[1], device=self.slots.device)
        is_padding = columns >= self.num_tokens[:, None]
        return Padded(self.kv.rows(self.slots.flatten()), mask_of(is_padding, self.kv.dtype))


class DecodeGraphs:
    """
    The recorded passes of one model over one cache, and what they read.

    Used by whoever computes passes, one after the other.
    """

    def __init__(self, model: LlamaModel, kv: KVCache, bounds: Bounds, recorder: Recorder) -> None:
        self._model = model
        self._kv = kv
        self._bounds = bounds
        self._recorder = recorder
        self._recorded: dict[Shape, Compute] = {}

        def column() -> torch.Tensor:
            return torch.zeros(bounds.max_rows, dtype=torch.int64, device=model.device)

        self._token_ids, self._positions, self._slots = column(), column(), column()
        self._lengths = column()
        self._rows = torch.arange(bounds.max_rows, device=model.device)
        self._table = column()[:, None].repeat(1, bounds.max_len)

    @property
    def shapes(self) -> list[Shape]:
        """What was recorded so far."""
        return sorted(self._recorded)

    def takes(self, batch: ForwardBatch) -> bool:
        """Whether each sequence has one new token, whose logits are wanted, and there is room."""
        num_rows = len(batch.sequences)
        return (
            0 < num_rows <= self._bounds.max_rows
            and len(batch.output_index) == num_rows  # nobody's prompt is scored, or goes on
            and all(span.num_new == 1 for span in batch.sequences)
            and max(span.num_total for span in batch.sequences) <= self._bounds.max_len
        )

    def logits(self, batch: ForwardBatch) -> torch.Tensor:
        """Compute a batch that it takes: [R, vocab] float32, until the next one is computed."""
        longest = max(span.num_total for span in batch.sequences)
        shape = self._bounds.shape_of(len(batch.sequences), longest)
        self._copy_in(batch, shape)
        replay = self._recorded.get(shape)
        if replay is None:
            logger.info("recording decode batches of %d rows, %d tokens each", *shape)
            replay = self._recorded[shape] = self._recorder.record(lambda: self._compute(shape))
        return replay()[: len(batch.sequences)]

    def drop(self) -> None:
        """Give up what was recorded, which may hold on to model and cache; it is of no use then."""
        self._recorded.clear()

    def _copy_in(self, batch: ForwardBatch, shape: Shape) -> None:
        num_rows, spare = len(batch.sequences), self._kv.spare_slot
        filling = slice(num_rows, shape.num_rows)
        pairs = ((self._token_ids, batch.token_ids), (self._positions, batch.positions))
        for own, given in pairs:
            own[:num_rows] = given
            own[filling] = 0
        self._slots[:num_rows] = batch.slots
        self._slots[filling] = spare
        lengths = [span.num_total for span in batch.sequences]
        lengths += [1] * (shape.num_rows - num_rows)
        self._lengths[: shape.num_rows] = torch.tensor(lengths)
        self._table[: shape.num_rows, : shape.num_columns] = spare
        places = [self._table[row, : lengths[row]] for row in range(num_rows)]
        torch._foreach_copy_(places, [span.slot_index for span in batch.sequences])

    def _compute(self, shape: Shape) -> torch.Tensor:
        rows = slice(shape.num_rows)
        table = self._table[rows, : shape.num_columns]
        batch = ForwardBatch(
            self._token_ids[rows], self._positions[rows], self._slots[rows], (), self._rows[rows]
        )
        group = _Table(None, (), self._kv, table, self._lengths[rows])
        logits: torch.Tensor = self._model(batch, self._kv, AttentionPlan((group,), ()))
        return logits


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
