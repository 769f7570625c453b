"""
Causal attention of one batch over the slots of the KV cache.

What does not depend on the layer - which slots to gather, what to mask - is
worked out once for a batch, in a plan.  A pass begins with what is already
gathered of the plan's sequences, and each layer attends through that.

* Decoding sequences (one new token each) are one padded call for all whose
  lengths have the same number of bits: a slot matrix [B, L], short rows filled
  up with their own first slot and masked.  So less than half of it is padding,
  and a long sequence does not make the short ones beside it slow.  It is two
  batched matrix products with a softmax between them, a matrix for each sequence
  and key head: torch's own attention takes two to three times as long for one
  query on a CPU.  The query heads that share a key head are rows of its matrix,
  so that keys and values are never repeated.  What is gathered of sequences that
  stay together is kept in a window (workers.model.decode_window).
* A prefill chunk is one call for each sequence.  Its mask is causal from the
  lower right corner: the last new token sees everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.decode_window import Window
from workers.model.kv_cache import KVCache, LayerCache


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """
    Sequences of a batch that have one new token, and lengths of as many bits.

    names, lengths: of each sequence, as SequenceSpan has them.
    rows: [B] rows of the token axis; None if they are all its rows, in order.
    gathered: [num_kv_heads * B * L] rows of a layer, each sequence padded to the longest, L.
    mask: [B, 1, L] 0 where a sequence has a token, -inf where it is padded.
    """

    names: tuple[int | None, ...]
    lengths: tuple[int, ...]
    rows: torch.Tensor | None
    gathered: torch.Tensor
    mask: torch.Tensor

    @property
    def longest(self) -> int:
        """L."""
        return self.mask.shape[-1]


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """
    One sequence with several new tokens, at rows start to stop of the token axis.

    gathered: [num_kv_heads * num_total] rows of a layer.
    mask: [num_new, num_total] 0 or -inf; None if there is no earlier token, and plain
    causal attention does.
    """

    start: int
    stop: int
    gathered: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What every layer needs to know to attend for one batch."""

    decodes: tuple[DecodeGroup, ...]
    chunks: tuple[PrefillChunk, ...]

    @classmethod
    def of(cls, batch: ForwardBatch, kv: KVCache) -> AttentionPlan:
        """Plan the batch, whose keys and values are in kv."""
        ends = accumulate(span.num_new for span in batch.sequences)
        placed = list(zip(ends, batch.sequences, strict=True))
        chunks = tuple(_chunk(end, span, kv) for end, span in placed if span.num_new > 1)
        alike = _by_length((end - 1, span) for end, span in placed if span.num_new == 1)
        is_all = len(alike) == 1 and not chunks
        return cls(tuple(_decode_group(group, kv, is_all) for group in alike), chunks)


class Kept(NamedTuple):
    """
    A decode group's window, in one pass.

    is_new: nothing is in it yet.
    newest: [num_kv_heads * B] rows of a layer that have each sequence's new token.
    written: [num_kv_heads * B] rows of the window that it goes to.
    mask: [B, 1, room] as DecodeGroup's.
    """

    window: Window
    is_new: bool
    newest: torch.Tensor
    written: torch.Tensor
    mask: torch.Tensor


class Attention(NamedTuple):
    """The attention of one pass."""

    plan: AttentionPlan
    kept: tuple[Kept | None, ...]
    """For each of the plan's decodes."""

    @classmethod
    def begin(cls, plan: AttentionPlan, kv: KVCache) -> Attention:
        """Begin a pass; passes over one cache follow each other."""
        found = kv.windows.begin([(group.names, group.lengths) for group in plan.decodes])
        pairs = zip(plan.decodes, found, strict=True)
        return cls(plan, tuple(_kept(group, *window) for group, window in pairs))

    def attend(self, queries: torch.Tensor, cache: LayerCache) -> torch.Tensor:
        """
        Return the attention output of each new token, [T, num_heads, head_dim].

        queries: [T, num_heads, head_dim].  cache has the batch's keys and values already.
        """
        output = torch.empty_like(queries)
        for group, kept in zip(self.plan.decodes, self.kept, strict=True):
            if group.rows is None:
                return _decode(queries, cache, group, kept)
            output[group.rows] = _decode(queries[group.rows], cache, group, kept)
        for chunk in self.plan.chunks:
            new = slice(chunk.start, chunk.stop)
            output[new] = _prefill(queries[new], cache, chunk)
        return output


def _by_length(decodes: Iterable[tuple[int, SequenceSpan]]) -> list[list[tuple[int, SequenceSpan]]]:
    """Put those together of which none is twice as long as another."""
    groups = defaultdict(list)
    for row, span in decodes:
        groups[span.num_total.bit_length()].append((row, span))
    return list(groups.values())


def _decode_group(
    placed: Sequence[tuple[int, SequenceSpan]], kv: KVCache, is_all: bool
) -> DecodeGroup:
    rows, spans = zip(*placed, strict=True)
    device = spans[0].slot_index.device
    slots = torch.nn.utils.rnn.pad_sequence([s.slot_index for s in spans], batch_first=True)
    lengths = torch.tensor([span.num_total for span in spans], device=device)
    is_padding = torch.arange(slots.shape[1], device=device) >= lengths[:, None]
    slots = torch.where(is_padding, slots[:, :1], slots)
    return DecodeGroup(
        names=tuple(span.name for span in spans),
        lengths=tuple(span.num_total for span in spans),
        rows=None if is_all else torch.tensor(rows, device=device),
        gathered=kv.rows(slots.flatten()),
        mask=_mask(is_padding, kv.dtype),
    )


def _chunk(end: int, span: SequenceSpan, kv: KVCache) -> PrefillChunk:
    mask = None
    if span.num_new < span.num_total:
        shape = (span.num_new, span.num_total)
        mask = torch.full(shape, float("-inf"), device=span.slot_index.device, dtype=kv.dtype)
        mask = mask.triu_(diagonal=span.num_total - span.num_new + 1)
    return PrefillChunk(end - span.num_new, end, kv.rows(span.slot_index), mask)


def _kept(group: DecodeGroup, window: Window | None, is_new: bool) -> Kept | None:
    if window is None:
        return None
    device, num_sequences = group.mask.device, len(group.lengths)
    lengths = torch.tensor(group.lengths, device=device)
    of_all_heads = lengths.repeat(len(group.gathered) // (num_sequences * group.longest))
    starts = torch.arange(len(of_all_heads), device=device)
    newest = group.gathered[starts * group.longest + of_all_heads - 1]
    return Kept(
        window,
        is_new,
        newest,
        starts * window.room + of_all_heads - 1,
        _mask(torch.arange(window.room, device=device) >= lengths[:, None], group.mask.dtype),
    )


def _mask(is_padding: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(is_padding.shape, device=is_padding.device, dtype=dtype)
    return mask.masked_fill_(is_padding, float("-inf"))[:, None, :]


def _decode(
    queries: torch.Tensor, cache: LayerCache, group: DecodeGroup, kept: Kept | None
) -> torch.Tensor:
    """Attend for one token of each sequence: queries [B, num_heads, head_dim]."""
    num_sequences, _, head_dim = queries.shape
    num_kv_heads = len(cache.keys)
    shape = (num_kv_heads * num_sequences, -1, head_dim)
    keys, values = _read(cache, group, kept, shape)
    mask = group.mask if kept is None else kept.mask
    by_head = queries.view(num_sequences, num_kv_heads, -1, head_dim).transpose(0, 1)
    scores = torch.bmm(by_head.reshape(shape) * head_dim**-0.5, keys.transpose(1, 2))
    by_sequence = scores.view(num_kv_heads, num_sequences, -1, mask.shape[-1])
    weights = by_sequence.add_(mask).softmax(dim=-1)
    output = torch.bmm(weights.view(scores.shape), values)
    return output.view(by_head.shape).transpose(0, 1).reshape(queries.shape)


def _read(
    cache: LayerCache, group: DecodeGroup, kept: Kept | None, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values of a decode group, [num_kv_heads * B, L or room, head_dim]."""
    pools = [part.view(-1, part.shape[-1]) for part in (cache.keys, cache.values)]
    if kept is None:
        keys, values = (pool.index_select(0, group.gathered).view(shape) for pool in pools)
        return keys, values
    keys, values = kept.window.keys[cache.number], kept.window.values[cache.number]
    for part, pool in zip((keys, values), pools, strict=True):
        if kept.is_new:
            part[:, : group.longest] = pool.index_select(0, group.gathered).view(shape)
        else:
            new = pool.index_select(0, kept.newest)
            part.view(-1, shape[-1]).index_copy_(0, kept.written, new)
    return keys, values


def _prefill(queries: torch.Tensor, cache: LayerCache, chunk: PrefillChunk) -> torch.Tensor:
    """Attend for the new tokens of one sequence: queries [num_new, num_heads, head_dim]."""
    num_kv_heads, _, head_dim = cache.keys.shape
    shape = (1, num_kv_heads, -1, head_dim)
    output = scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        cache.keys.view(-1, head_dim).index_select(0, chunk.gathered).view(shape),
        cache.values.view(-1, head_dim).index_select(0, chunk.gathered).view(shape),
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        enable_gqa=True,
    )
    return output.squeeze(0).transpose(0, 1)
