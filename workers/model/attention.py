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
  and key head: on a CPU torch's own attention takes two to three times as long
  for one query.  Elsewhere, and in float16, whose range scores can leave, it is
  torch's own.  The query heads that share a key head are rows of its matrix,
  so that keys and values are never repeated.  What is gathered of sequences that
  stay together is kept in a window (workers.model.decode_window).
* A prefill chunk is one call for each sequence; what it sees, workers.model.prefill_mask
  says.
* A decode batch of a fixed shape (workers.model.decode_graphs) is one padded call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.decode_window import Window
from workers.model.kv_cache import KVCache, LayerCache


class Padded(NamedTuple):
    """
    Where a decode group's keys and values are.

    gathered: [num_kv_heads * B * L] rows of a layer, each sequence padded to the longest, L.
    mask: [B, 1, L] 0 where a sequence has a token, -inf where it is padded.
    """

    gathered: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class DecodeGroup:
    """
    Sequences of a batch that have one new token, and lengths of as many bits.

    rows: [B] rows of the token axis; None if they are all its rows, in order.
    """

    rows: torch.Tensor | None
    spans: tuple[SequenceSpan, ...]
    kv: KVCache

    @property
    def names(self) -> tuple[int | None, ...]:
        """Of the sequences."""
        return tuple(span.name for span in self.spans)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the sequences, each with its new token."""
        return tuple(span.num_total for span in self.spans)

    @cached_property
    def padded(self) -> Padded:
        """Made when it is first wanted, for which there is no need while a window has all."""
        index, lengths = [span.slot_index for span in self.spans], self.lengths
        slots = torch.nn.utils.rnn.pad_sequence(index, batch_first=True)
        is_padding = _is_padding(lengths, max(lengths), slots.device)
        slots = torch.where(is_padding, slots[:, :1], slots)
        return Padded(self.kv.rows(slots.flatten()), mask_of(is_padding, self.kv.dtype))


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """
    One sequence with several new tokens, at rows start to stop of the token axis.

    gathered: [num_kv_heads * num_total] rows of a layer.
    mask: see workers.model.prefill_mask; None if there is no earlier token, and plain causal
    attention does.
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
    mask: [B, 1, room] as in Padded.
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
    index = None if is_all else torch.tensor(rows, device=spans[0].slot_index.device)
    group = DecodeGroup(index, spans, kv)
    if not kv.windows.max_slots:
        _ = group.padded  # wanted for certain, and now there may be time for it
    return group


def _chunk(end: int, span: SequenceSpan, kv: KVCache) -> PrefillChunk:
    mask = kv.prefill_mask.make(span.num_new, span.num_total, kv.keys)
    return PrefillChunk(end - span.num_new, end, kv.rows(span.slot_index), mask)


def _kept(group: DecodeGroup, window: Window | None, is_new: bool) -> Kept | None:
    if window is None:
        return None
    spans, kv = group.spans, group.kv
    last_slots = torch.cat([span.slot_index[-1:] for span in spans])
    num_rows, device = window.keys.shape[1], last_slots.device
    ends = torch.tensor(group.lengths, device=device).repeat(num_rows // len(spans)) - 1
    starts = torch.arange(num_rows, device=device) * window.room
    mask = mask_of(_is_padding(group.lengths, window.room, device), kv.dtype)
    return Kept(window, is_new, kv.rows(last_slots), starts + ends, mask)


def _is_padding(lengths: Sequence[int], room: int, device: torch.device) -> torch.Tensor:
    """Return, for room positions of each sequence, whether they are after its end: [B, room]."""
    return torch.arange(room, device=device) >= torch.tensor(lengths, device=device)[:, None]


def mask_of(is_padding: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 0, or -inf where there is padding: [B, 1, L] of [B, L]."""
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
    mask = group.padded.mask if kept is None else kept.mask
    by_head = queries.view(num_sequences, num_kv_heads, -1, head_dim).transpose(0, 1)
    if queries.device.type == "cpu" and queries.dtype is not torch.float16:
        scores = torch.bmm(by_head.reshape(shape) * head_dim**-0.5, keys.transpose(1, 2))
        by_sequence = scores.view(num_kv_heads, num_sequences, -1, mask.shape[-1])
        weights = by_sequence.add_(mask).softmax(dim=-1)
        output = torch.bmm(weights.view(scores.shape), values).view(by_head.shape)
    else:
        each = (num_kv_heads, num_sequences, -1, head_dim)
        output = scaled_dot_product_attention(
            by_head, keys.view(each), values.view(each), attn_mask=mask
        )
    return output.transpose(0, 1).reshape(queries.shape)


def _read(
    cache: LayerCache, group: DecodeGroup, kept: Kept | None, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values of a decode group, [num_kv_heads * B, L or room, head_dim]."""
    pools = [part.view(-1, part.shape[-1]) for part in (cache.keys, cache.values)]
    if kept is None:
        gathered = group.padded.gathered
        keys, values = (pool.index_select(0, gathered).view(shape) for pool in pools)
        return keys, values
    keys, values = kept.window.keys[cache.number], kept.window.values[cache.number]
    for part, pool in zip((keys, values), pools, strict=True):
        if kept.is_new:
            gathered = pool.index_select(0, group.padded.gathered).view(shape)
            part[:, : gathered.shape[1]] = gathered
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
