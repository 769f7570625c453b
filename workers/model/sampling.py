"""
Choose the next token of each sequence from its logits.

Three steps, each over all rows at once: make the logits of row i into weights,
keep the tokens that its parameters allow, and walk their cumulative weights up
to a number drawn for the row.

The number is counter-based: a hash of the request's seed and of the position
that is being filled, and nothing else.  So a request that was preempted and
resumed, or that runs in another batch, draws the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from workers.model.errors import BrokenLogits
from workers.model.sampling_params import SamplingParams

__all__ = ["SampledTokens", "Sampler", "SamplingParams", "TokenLogprobs", "prompt_logprobs"]

_MASK = (1 << 64) - 1
_NUM_CANDIDATES = 256
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """
    Natural log-probabilities at one position, before temperature and cuts.

    top: (token id, logprob) of the k most probable tokens, the best one first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """One token for each row, and its log-probabilities where they were asked for."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]


class Sampler:
    """
    Chooses tokens.  It has no state besides the worker's seed.

    seed stands in for the client's where a request has none: it is mixed into
    that request's own number.  A request with a seed of its own draws the same
    tokens on every worker.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def sample(
        self,
        logits: torch.Tensor,
        params: Sequence[SamplingParams],
        positions: Sequence[int],
        request_seeds: Sequence[int],
    ) -> SampledTokens:
        """
        Return one token for each row of logits [R, vocab] float32.  Raises BrokenLogits.

        positions: the position that row's new token will have in its sequence.
        request_seeds: a number for each request, the same at each of its steps.
        """
        chosen = logits.argmax(dim=-1)  # of a row with a NaN, that
        _check_finite(logits.gather(-1, chosen[:, None])[:, 0])
        rows = [row for row, wish in enumerate(params) if not wish.is_greedy]
        if rows:
            draws = [self._draw(params[r], positions[r], request_seeds[r]) for r in rows]
            index = torch.tensor(rows, device=logits.device)
            drawn = draw_tokens(logits[index], [params[row] for row in rows], draws)
            chosen = chosen.index_copy(0, index, drawn)
        token_ids: list[int] = chosen.tolist()
        return SampledTokens(token_ids, token_logprobs(logits, params, token_ids))

    def _draw(self, params: SamplingParams, position: int, request_seed: int) -> float:
        """Return this request's number at this position, uniform in [0, 1)."""
        worker_seed = self._seed if params.seed is None else 0
        return (_mix(_mix(_mix(worker_seed) ^ request_seed) ^ position) >> 11) / 2**53


def _check_finite(largest: torch.Tensor) -> None:
    """Raise BrokenLogits unless the largest logit of each row is a number."""
    if not bool(largest.isfinite().all()):
        broken = (~largest.isfinite()).nonzero()[:, 0].tolist()
        raise BrokenLogits(len(broken), len(largest))


def _mix(value: int) -> int:
    """Scramble 64 bits: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def draw_tokens(
    logits: torch.Tensor, params: Sequence[SamplingParams], draws: Sequence[float]
) -> torch.Tensor:
    """
    Return, for each row of logits [R, vocab], the token that its draw falls on: [R] int64.

    A row's tokens lie side by side on [0, 1), each as wide as its probability after
    temperature and cuts, in order of their ids; draws are positions on that line.
    """
    temperature = _column([wish.temperature for wish in params], logits)
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    weights = scaled.exp()
    if any(wish.top_k or wish.top_p < 1 or wish.min_p > 0 for wish in params):
        weights = torch.where(most_probable(scaled, params), weights, 0.0)
    reached = weights.cumsum(dim=-1, dtype=torch.float64)
    targets = _column(draws, reached) * reached[:, -1:]
    tokens = torch.searchsorted(reached, targets, right=True).squeeze(-1)
    return tokens.clamp_(max=logits.shape[-1] - 1)


def most_probable(scaled: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """
    Return which tokens top_k, then top_p, then min_p leave, as a mask like scaled.

    scaled: [R, vocab] logits after temperature, the largest of each row 0.  Of equal
    tokens the lower id is kept first, so top_k = 1 is what argmax takes.
    """
    num_kept, last_kept = _cut(scaled, params)
    above = scaled > last_kept
    equal = scaled == last_kept
    num_equal_kept = num_kept - above.sum(dim=-1, keepdim=True)
    return above | (equal & (equal.cumsum(dim=-1) <= num_equal_kept))


def _cut(
    scaled: torch.Tensor, params: Sequence[SamplingParams]
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return how many tokens each row keeps, and the logit of its last one, both [R, 1].

    Only the largest logits are sorted.  That is enough unless a row would keep all of
    those without having asked for so few; then more are, up to all.
    """
    vocab_size = scaled.shape[-1]
    num_sorted = min(vocab_size, max(_NUM_CANDIDATES, *(wish.top_k for wish in params), 1))
    while True:
        ordered = scaled.topk(num_sorted, dim=-1).values
        num_kept = _num_kept(ordered, scaled, params)
        is_open = torch.tensor([wish.top_k == 0 for wish in params], device=scaled.device)
        if num_sorted == vocab_size or not ((num_kept[:, 0] == num_sorted) & is_open).any():
            return num_kept, ordered.gather(-1, num_kept - 1)
        num_sorted = min(vocab_size, 16 * num_sorted)


def _num_kept(
    ordered: torch.Tensor, scaled: torch.Tensor, params: Sequence[SamplingParams]
) -> torch.Tensor:
    """Return how many of ordered [R, K], the largest logits, each row keeps: [R, 1]."""
    num_sorted = ordered.shape[-1]
    wanted = [min(wish.top_k or num_sorted, num_sorted) for wish in params]
    top_k = _column(wanted, ordered).long()
    allowed = torch.arange(num_sorted, device=ordered.device) < top_k
    weights = torch.where(allowed, ordered, -torch.inf).double().exp()
    total = torch.where(
        _column([wish.top_k > 0 for wish in params], ordered).bool(),
        weights.sum(dim=-1, keepdim=True),
        scaled.exp().sum(dim=-1, keepdim=True, dtype=torch.float64),
    )
    before = weights.cumsum(dim=-1) - weights
    top_p = _column([wish.top_p for wish in params], weights)
    min_p = _column([wish.min_p for wish in params], weights)
    kept = allowed & ((top_p == 1) | (before < top_p * total)) & (weights >= min_p)
    return kept.sum(dim=-1, keepdim=True).clamp_(min=1)


def token_logprobs(
    logits: torch.Tensor, params: Sequence[SamplingParams], token_ids: Sequence[int]
) -> list[TokenLogprobs | None]:
    """Return the log-probabilities of the rows that ask for them, None for the others."""
    found: list[TokenLogprobs | None] = [None] * len(token_ids)
    rows = [row for row, wish in enumerate(params) if wish.logprobs is not None]
    if not rows:
        return found
    num_top = max(params[row].logprobs or 0 for row in rows)
    picked = logits[torch.tensor(rows, device=logits.device)]
    scored = _score(picked, [token_ids[row] for row in rows], num_top)
    for row, each in zip(rows, scored, strict=True):
        found[row] = replace(each, top=each.top[: params[row].logprobs])
    return found


def prompt_logprobs(
    logits: torch.Tensor, token_ids: Sequence[int], num_top: int
) -> tuple[TokenLogprobs, ...]:
    """
    Return the log-probability of each token in its row of logits [R, vocab].  Raises BrokenLogits.

    Some rows at a time, because a prompt has many and each is as wide as the vocabulary.
    """
    found: list[TokenLogprobs] = []
    for start in range(0, len(token_ids), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        _check_finite(logits[rows].amax(dim=-1))
        found += _score(logits[rows], token_ids[rows], num_top)
    return tuple(found)


def _score(logits: torch.Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
    """Return each row's log-probability of its token, and its num_top best."""
    logprobs = logits.log_softmax(dim=-1)
    wanted = torch.tensor(token_ids, device=logits.device)
    chosen: list[float] = logprobs.gather(-1, wanted[:, None])[:, 0].tolist()
    best = logprobs.topk(min(logits.shape[-1], num_top), dim=-1)
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        TokenLogprobs(token_id, logprob, tuple(zip(*top, strict=True)))
        for token_id, logprob, top in zip(token_ids, chosen, tops, strict=True)
    ]


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Return values as a column [R, 1] with the dtype and device of like."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
