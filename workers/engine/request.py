"""
One request, from its arrival in a group to its end.

    num_prompt        num_outputs
    |-----------------|------|          num_tokens = both: what the request holds
    |------------|                      num_computed: keys and values in its pages

    WAITING ──admit──► RUNNING ──────► FINISHED
       ▲                  │               ▲
       └────retract───────┘   abort, failure: from anywhere

A running request decodes when all but its newest token is computed, and
prefills otherwise.  A retracted one keeps its outputs and computes them again,
as if they were prompt.  Only the step loop changes a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from workers.engine.acceptance import Ticket
from workers.engine.account import Account
from workers.errors import RequestRefused
from workers.model.sampling_params import SamplingParams

if TYPE_CHECKING:
    from workers.model.sampling import TokenLogprobs


class State(Enum):
    """Where a request is."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class FinishReason(Enum):
    """Why an output ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


class OutputText(Protocol):
    """What turns output tokens into text; workers.model.detokenizer has the real one."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was hit."""

    def push(self, token_id: int) -> str:
        """Add a token and return the text that has become certain."""

    def finish(self) -> str:
        """Return what was held back."""


@dataclass(slots=True, eq=False)
class Request:
    """
    The one record of what a request asks, holds and has computed.

    seed: with a position, decides what is drawn (see workers.model.sampling).
    max_new_tokens: 0 computes the prompt and ends without an output.
    stop_ids: tokens that end the output and add no text.
    ticket: of the charge that came with it; the same for all choices.
    prefix_limit: prompt tokens that may be taken from the cache, if not all but one.
    logprob_start: the first prompt position whose log-probability is wanted, if any is.
    That comes from the logits before it, so it limits the prefix to logprob_start - 1.
    prompt_logprobs: of the positions from there on that were computed; position 0 has none.
    priority: higher goes first, as in SGLang.
    """

    request_id: int
    prompt_ids: Sequence[int]
    params: SamplingParams
    seed: int
    max_new_tokens: int
    stop_ids: frozenset[int]
    text: OutputText
    ticket: Ticket | None = None
    prefix_limit: int | None = None
    logprob_start: int | None = None
    priority: int = 0
    output_ids: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    num_computed: int = 0
    state: State = State.WAITING
    finish_reason: FinishReason | None = None
    account: Account = field(init=False)

    def __post_init__(self) -> None:
        self.account = Account(self.num_prompt)
        if self.logprob_start is not None:
            limits = (self.prefix_limit, max(0, self.logprob_start - 1))
            self.prefix_limit = min(limit for limit in limits if limit is not None)

    @property
    def num_prompt(self) -> int:
        """Prompt tokens."""
        return len(self.prompt_ids)

    @property
    def num_outputs(self) -> int:
        """Output tokens so far."""
        return len(self.output_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens that the request holds."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def num_uncomputed(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return self.num_tokens - self.num_computed

    @property
    def max_cached_tokens(self) -> int:
        """
        Leading tokens that may come from a cache.

        One at least is computed, to have the logits after it.  The prefix
        limit holds until the whole prompt was computed once.
        """
        limit = self.num_tokens - 1
        if self.prefix_limit is not None and self.account.num_reached < self.num_prompt:
            limit = min(limit, self.prefix_limit)
        return limit

    @property
    def is_decoding(self) -> bool:
        """Whether its next step computes its newest output token, and only that."""
        return self.num_outputs > 0 and self.num_uncomputed == 1

    @property
    def first_scored(self) -> int | None:
        """First prompt position that has a log-probability and is wanted; None without any."""
        return None if self.logprob_start is None else max(1, self.logprob_start)

    def score(self, start: int, logprobs: Sequence[TokenLogprobs]) -> None:
        """Note those of positions start ..; what a retraction has computed again is known."""
        assert self.first_scored is not None
        num_known = self.first_scored + len(self.prompt_logprobs) - start
        assert num_known >= 0, f"{-num_known} positions before {start} were left out"
        self.prompt_logprobs += logprobs[num_known:]

    def tokens(self, start: int, end: int) -> list[int]:
        """Token ids at positions start .. end - 1, prompt first."""
        if end <= self.num_prompt:
            return list(self.prompt_ids[start:end])
        if start >= self.num_prompt:
            return self.output_ids[start - self.num_prompt : end - self.num_prompt]
        outputs = self.output_ids[: max(0, end - self.num_prompt)]
        return [*self.prompt_ids[start:end], *outputs]

    def append(self, token_id: int) -> str:
        """Add an output token; return its text, and set finish_reason if it is the last."""
        self.output_ids.append(token_id)
        if token_id in self.stop_ids:
            return self.end(FinishReason.STOP)
        text = self.text.push(token_id)
        if self.text.stopped:
            self.finish_reason = FinishReason.STOP
        elif self.num_outputs >= self.max_new_tokens:
            text += self.end(FinishReason.LENGTH)
        return text

    def end(self, reason: FinishReason) -> str:
        """Set finish_reason and return the text that was held back."""
        text = self.text.finish()
        self.finish_reason = FinishReason.STOP if self.text.stopped else reason
        return text


class Sample(NamedTuple):
    """
    What one chunk yields: a token if it samples, and log-probabilities of prompt tokens.

    prompt_logprobs: of the chunk's scored positions.
    """

    token_id: int | None = None
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


class Output(NamedTuple):
    """
    What one step has to say to one client.  Nothing in it changes any more.

    prompt_logprobs: in a request's first output, of all its prompt positions that it asked for.
    """

    request_id: int
    token_id: int | None = None
    text: str = ""
    logprobs: TokenLogprobs | None = None
    finish_reason: FinishReason | None = None
    error: RequestRefused | None = None
    num_cached: int = 0
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether nothing follows it."""
        return self.finish_reason is not None or self.error is not None
