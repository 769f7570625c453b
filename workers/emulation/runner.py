"""
A runner that computes nothing: a step takes the time that the cost model says.

All the rest of a rank is real: scheduler, radix cache, pages, reports, HTTP.  Only
the keys and values are not there, and nobody reads them.

Tokens are those of one sentence, over and over.  They depend on nothing but how many a
request has, so equal prompts have equal outputs, as with greedy decoding.  No token
ends an output, and each has probability 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from workers.emulation.pace import Pace
from workers.emulation.step_cost import StepShare
from workers.engine.plan import Chunk, Plan
from workers.engine.request import Sample
from workers.model.sampling import TokenLogprobs
from workers.model.text import TextCodec

SENTENCE = " This answer is emulated."


class EmulatedRunner:
    """Every call but `stop` comes from the step loop's thread.  token_ids: one at least."""

    looks_ahead = False

    def __init__(self, pace: Pace, token_ids: Sequence[int]) -> None:
        assert token_ids
        self._pace = pace
        self._token_ids = token_ids

    def warm_up(self, wake: Callable[[], None]) -> None:
        """Nothing has to be got ready."""

    def prepare(self, decodes: Sequence[Chunk]) -> None:
        """Nothing can be prepared."""

    def launch(self, plan: Plan) -> Callable[[], list[Sample]]:
        """Return what waits for the end of the step."""
        return partial(self._finish, plan)

    def rest(self) -> bool:
        """Nobody is to wait for this rank, nor does it keep others company."""
        self._pace.rest()
        return False

    def leave(self) -> None:
        """Nobody is to wait for this rank any more."""
        self._pace.rest()

    def stop(self) -> None:
        """Let a step under way end at once."""
        self._pace.stop()

    def _finish(self, plan: Plan) -> list[Sample]:
        self._pace.wait(StepShare.of(plan))
        return [self._sample(chunk) for chunk in plan.chunks if chunk.yields]

    def _sample(self, chunk: Chunk) -> Sample:
        request = chunk.request
        prompt = request.tokens(chunk.scored.start, chunk.scored.stop)
        scored = tuple(map(_certain, prompt))
        if not chunk.samples:
            return Sample(prompt_logprobs=scored)
        token_id = self._token_ids[request.num_outputs % len(self._token_ids)]
        logprobs = None if request.params.logprobs is None else _certain(token_id)
        return Sample(token_id, logprobs, scored)


def sentence_tokens(codec: TextCodec) -> list[int]:
    """The tokens of SENTENCE that do not end an output, or else any one that does not."""
    ends = set(codec.eos_token_ids)
    tokens = [token for token in codec.encode(SENTENCE) if token not in ends]
    return tokens or [next(i for i in range(codec.vocab_size) if i not in ends)]


def _certain(token_id: int) -> TokenLogprobs:
    return TokenLogprobs(token_id, 0.0, ((token_id, 0.0),))
