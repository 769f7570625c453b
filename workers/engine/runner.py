"""Computes plans with a model: tensors in, samples out."""

from __future__ import annotations

import torch

from workers.engine.batch import BatchBuilder
from workers.engine.plan import Plan
from workers.engine.request import Sample
from workers.model.batch import ForwardBatch, SequenceSpan
from workers.model.kv_cache import KVCache
from workers.model.llama import LlamaModel
from workers.model.sampling import Sampler


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
        """Compute the plan's chunks; one sample for each that samples, in order."""
        requests = [chunk.request for chunk in plan.chunks if chunk.samples]
        with torch.inference_mode():
            logits = self._model(self._batches.build(plan), self._kv)
            if not requests:
                return []
            drawn = self._sampler.sample(
                logits,
                [request.params for request in requests],
                [request.num_tokens for request in requests],
                [request.seed for request in requests],
            )
        return [Sample(*pair) for pair in zip(drawn.token_ids, drawn.logprobs, strict=True)]
