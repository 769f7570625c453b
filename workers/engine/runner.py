"""Computes plans with a model: tensors in, samples out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers.engine.batch import BatchBuilder
from workers.engine.plan import Chunk, Plan
from workers.engine.request import Request, Sample
from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.kv_cache import KVCache
from workers.model.llama import LlamaModel
from workers.model.sampling import Sampler, TokenLogprobs, prompt_logprobs


class ModelRunner:
    """Owns the KV cache.  Every call comes from the step loop's thread."""

    def __init__(
        self,
        model: LlamaModel,
        kv: KVCache,
        batches: BatchBuilder,
        sampler: Sampler,
        num_threads: int,
    ) -> None:
        self._model = model
        self._kv = kv
        self._batches = batches
        self._sampler = sampler
        self._num_threads = num_threads

    def warm_up(self) -> None:
        """
        Compute one token into slot 0, which holds nothing yet.

        The number of threads is set here because OpenMP keeps it per thread.
        """
        torch.set_num_threads(self._num_threads)
        zero = torch.zeros(1, dtype=torch.int64, device=self._kv.keys.device)
        span = SequenceSpan(num_new=1, num_total=1, slot_index=zero)
        with torch.inference_mode():
            self._model(ForwardBatch(zero, zero, zero, (span,), zero), self._kv)

    def run(self, plan: Plan) -> list[Sample]:
        """Compute the plan's chunks; one sample for each that yields any, in order."""
        with torch.inference_mode():
            logits = self._model(self._batches.build(plan), self._kv)
            chunks = [chunk for chunk in plan.chunks if chunk.yields]
            if not any(chunk.scored for chunk in chunks):
                return self._draw(logits, [chunk.request for chunk in chunks])
            return self._score(logits, chunks)

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
