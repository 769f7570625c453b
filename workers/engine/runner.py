"""
Computes plans with a model: tensors in, samples out.

    step loop   lay out k ─ launch k ─ lay out k+1, foreseen ─ wait ─ commit k, plan k+1 ─ launch
    lane                    └─ forward and sample k ─────────────┘                       └─ ...

What was laid out ahead is used if it lies where the next plan does, chunk by
chunk and page by page, and is dropped otherwise.  It is the same batch as one
laid out afterwards, so tokens do not depend on whether anything was foreseen.

While the lane computes, it reads its own tensors, the KV cache and what a
request had when it began; the step loop changes no request before the samples
are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from workers.engine.batch import BatchBuilder, Place
from workers.engine.forward_thread import Lane, SameThread
from workers.engine.plan import Chunk, Plan
from workers.engine.request import Request, Sample
from workers.model.attention import AttentionPlan
from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.decode_graphs import DecodeGraphs
from workers.model.kv_cache import KVCache
from workers.model.llama import LlamaModel
from workers.model.resident import Part, Resident
from workers.model.row_exchange import ALONE, StepExchange
from workers.model.sampling import Sampler, TokenLogprobs, prompt_logprobs


class _Layout(NamedTuple):
    """Tensors of a step, but for its token ids.  attention: None if a recorded pass computes it."""

    places: Sequence[Place]
    batch: ForwardBatch
    attention: AttentionPlan | None


class ModelRunner:
    """
    Owns weights and KV cache.  Every call comes from the step loop's thread.

    lane: computes.  reload: the model once more, after its memory was given back.
    make_graphs: what decode batches are recorded in, if they are.
    """

    def __init__(
        self,
        model: LlamaModel,
        kv: KVCache,
        batches: BatchBuilder,
        sampler: Sampler,
        num_threads: int,
        lane: Lane | None = None,
        reload: Callable[[], LlamaModel] | None = None,
        make_graphs: Callable[[LlamaModel, KVCache], DecodeGraphs] | None = None,
    ) -> None:
        self._resident = Resident(model, kv, reload)
        self._kv = kv
        self._batches = batches
        self._sampler = sampler
        self._num_threads = num_threads
        self._lane: Lane = lane or SameThread()
        self._make_graphs = make_graphs
        self._graphs: DecodeGraphs | None = None
        self._ahead: _Layout | None = None
        self.num_foreseen = 0

    def warm_up(
        self, wake: Callable[[], None] | None = None, exchange: StepExchange = ALONE
    ) -> None:
        """
        Compute one token into the slot that is nobody's; wake is not needed.

        Weights may come back while the pool has kept prefixes, so no other slot will do.

        The number of threads is set where it is computed because OpenMP keeps it per
        thread, and no other thread may have a team: GNU's OpenMP counts the threads of
        all teams, and if they are more than the cores, each sleeps after every operation
        and is woken for the next, which makes a decode step half as long again.
        """
        self._lane.begin(partial(self._warm_up, exchange))()

    def _warm_up(self, exchange: StepExchange) -> None:
        torch.set_num_threads(self._num_threads)
        zero = torch.zeros(1, dtype=torch.int64, device=self._kv.keys.device)
        spare = zero + self._kv.spare_slot
        span = SequenceSpan(num_new=1, num_total=1, slot_index=spare)
        with torch.inference_mode():
            batch = ForwardBatch(zero, zero, spare, (span,), zero)
            self._model(batch, self._kv, exchange=exchange)
            if self._make_graphs is not None:
                self._graphs = self._make_graphs(self._model, self._kv)
                self._graphs.logits(batch)  # whether it works is found out now

    def give_back(self, part: Part) -> int:
        """Free weights or KV cache, between steps; return the bytes."""
        self._ahead = None
        return self._lane.begin(partial(self._give_back, part))()

    def _give_back(self, part: Part) -> int:
        if self._graphs is not None:
            self._graphs.drop()
            self._graphs = None
        return self._resident.give_back(part)

    def take_back(self, part: Part) -> int:
        """Have them again; return the bytes.  Raises ModelError or what torch lacks memory with."""
        return self._lane.begin(partial(self._resident.take_back, part))()

    def check_integrity(self) -> None:
        """Raise AssertionError if copies of the cache have got out of bounds."""
        self._kv.windows.check_integrity()

    @property
    def looks_ahead(self) -> bool:
        """Whether there is time to prepare while a plan is computed."""
        return self._lane.is_concurrent

    def run(self, plan: Plan) -> list[Sample]:
        """Compute the plan's chunks and wait for it."""
        return self.launch(plan)()

    def launch(self, plan: Plan, exchange: StepExchange = ALONE) -> Callable[[], list[Sample]]:
        """
        Begin to compute the plan's chunks.

        What comes back waits for one sample of each that yields any, in order.
        exchange: with ranks that compute at the same time; then the plan may have no chunks.
        """
        places = [Place.of(chunk) for chunk in plan.chunks]
        ahead, self._ahead = self._ahead, None
        with torch.inference_mode():
            if ahead is None or ahead.places != places:
                ahead = self._lay_out(places)
            else:
                self.num_foreseen += 1
            batch = self._batches.fill(ahead.batch, plan.token_ids)
        return self._lane.begin(partial(self._compute, plan, batch, ahead.attention, exchange))

    def follow(
        self, places: Sequence[Place], token_ids: Sequence[int], exchange: StepExchange
    ) -> None:
        """Compute what another rank leads, which has the other heads of the same tokens."""
        with torch.inference_mode():
            layout = self._lay_out(places)
            batch = self._batches.fill(layout.batch, token_ids)
        self._lane.begin(partial(self._forward, batch, layout.attention, exchange))()

    def prepare(self, decodes: Sequence[Chunk]) -> None:
        """Lay out a step that may follow the one being computed; their tokens are not known."""
        if decodes:
            with torch.inference_mode():
                self._ahead = self._lay_out([Place.foreseen(chunk) for chunk in decodes])

    def rest(self) -> bool:
        """Nobody waits for this rank's steps."""
        return False

    def leave(self) -> None:
        """Nor at the end."""

    def stop(self) -> None:
        """Nor does it wait for others: a pass comes to its end by itself."""

    @property
    def _model(self) -> LlamaModel:
        return self._resident.model

    def _lay_out(self, places: Sequence[Place]) -> _Layout:
        batch = self._batches.lay_out(places)
        if self._graphs is not None and self._graphs.takes(batch):
            return _Layout(places, batch, None)
        return _Layout(places, batch, AttentionPlan.of(batch, self._kv))

    def _compute(
        self,
        plan: Plan,
        batch: ForwardBatch,
        attention: AttentionPlan | None,
        exchange: StepExchange,
    ) -> list[Sample]:
        with torch.inference_mode():
            logits = self._forward(batch, attention, exchange)
            chunks = [chunk for chunk in plan.chunks if chunk.yields]
            if not any(chunk.scored for chunk in chunks):
                return self._draw(logits, [chunk.request for chunk in chunks])
            return self._score(logits, chunks)

    def _forward(
        self, batch: ForwardBatch, attention: AttentionPlan | None, exchange: StepExchange
    ) -> torch.Tensor:
        if attention is None:
            assert self._graphs is not None, "a layout outlived the graphs that it is for"
            return self._graphs.logits(batch)
        logits: torch.Tensor = self._model(batch, self._kv, attention, exchange)
        return logits

    def _draw(self, logits: torch.Tensor, requests: Sequence[Request]) -> list[Sample]:
        if not requests:
            return []
        drawn = self._sampler.sample(
            logits,
            [request.params for request in requests],
            [request.num_tokens for request in requests],
            [request.seed for request in requests],
        )
        return [Sample(*pair) for pair in zip(drawn.token_ids, drawn.logprobs, strict=True)]

    def _score(self, logits: torch.Tensor, chunks: Sequence[Chunk]) -> list[Sample]:
        """As _draw, where some rows are of prompt positions: those first, in each chunk."""
        scores, last_rows, end = [], [], 0
        for chunk in chunks:
            start, end = end, end + len(chunk.output_positions)
            scores.append(self._prompt_logprobs(logits[start : start + len(chunk.scored)], chunk))
            last_rows += [end - 1] if chunk.samples else []
        sampling = [chunk.request for chunk in chunks if chunk.samples]
        drawn = iter(self._draw(logits[last_rows], sampling))
        samples = [next(drawn) if chunk.samples else Sample() for chunk in chunks]
        pairs = zip(samples, scores, strict=True)
        return [sample._replace(prompt_logprobs=score) for sample, score in pairs]

    def _prompt_logprobs(self, logits: torch.Tensor, chunk: Chunk) -> tuple[TokenLogprobs, ...]:
        scored = chunk.scored
        tokens = chunk.request.tokens(scored.start, scored.stop)
        return prompt_logprobs(logits, tokens, chunk.request.params.logprobs or 0)
