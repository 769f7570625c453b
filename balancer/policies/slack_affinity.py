"""Slack affinity."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import ClassVar

from balancer.cost_model import CostFit
from balancer.ledger import Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.policies.min_step_cost import MinStepCost
from balancer.policies.ties import FairTies
from balancer.rendezvous import home

TOLERANCE = 0.03


class SlackAffinity:
    """
    Take the group that holds most of the prompt's prefix, of those that have slack.

    All in milliseconds of a step (balancer.cost_model).  With p the prompt, u what of it
    the group has not cached, and of the group

        D = a * (K + W) + b * n      its steps once all prompts are computed, d = a * p + b
        L = D + c * W                its steps now

    and the largest and the least taken over the candidates, a group has slack if it may

        keep it   D + d <= largest D   or   D + c * u / S <= (1 + e) * least of that,  and
        take it   L + c * u <= largest L   or   L + c * u <= (1 + e) * (least L + c * p)

    with e = 0.03 and S = 512 steps, for which a request is taken to stay.  Of those with
    slack and at least one cached page, the longest match is taken, of these the least
    D + c * u / S; equals take turns.  If there is none, min_step_cost decides.

    Under the largest D or L a group's step costs nobody anything, for the slowest sets the
    pace.  It has to be under both: a group that computes a long prompt raises L, but not for
    as long as a request that is let in under it stays.  d counts the whole prompt, for
    cached tokens are read at every step as others are, and e is applied to the least
    and not to the largest: groups that may raise the maximum which they are measured
    against would raise it without end.  So affinity never makes a group's D more than
    the largest or, if that is more, (1 + e) * (least D + c * p / S) + d.  The second
    part of the line sends a fork home when all are idle or level: there D is equal and
    u differs, and computing its prefix anew is dearer than some requests more.
    A beginning that all groups hold makes no difference between them.

    Loads are as fresh as minimum_tokens has them.  What is cached is what groups
    told and what was sent to them (see balancer.prefix_index); if that is missing
    or out of date, the request lands on a group as level as another and computes
    there what it lacks.  Where nothing is known of the prompt's pages - its count was
    estimated, or the groups' page size is not known - a session that is known has its home
    among the groups with slack (balancer.rendezvous), all tokens taken to be uncached.

    Choose it where requests share long beginnings: conversations, agents, forks,
    long system prompts of several kinds.  Not where prompts have nothing or all the
    same in common: naming their pages costs time and wins nothing.
    """

    name: ClassVar[str] = "slack_affinity"

    def __init__(self, rng: random.Random, costs: CostFit) -> None:
        self._level = MinStepCost(rng, costs).pick
        self._ties = FairTies(rng)
        self._costs = costs

    def read(self, ledger: Ledger) -> None:
        """Let the coefficients learn from the reports."""
        self._costs.observe(ledger.reports)

    def pick(self, candidates: Sequence[GroupLoad], request: RequestShape) -> int:
        """Return the dp_rank with the longest cached prefix that has slack, or the least cost."""
        cached, key = request.cached_tokens, request.session_key
        if not cached:
            homes = {} if key is None else self._with_slack(candidates, request)
            return (
                home(homes, key) if homes and key is not None else self._level(candidates, request)
            )
        if not any(cached[load.dp_rank] for load in candidates):
            return self._level(candidates, request)
        homes = self._with_slack(candidates, request)
        longest = max((cached[rank] for rank in homes), default=0)
        if not longest:
            return self._level(candidates, request)
        best = [load for load in candidates if load.dp_rank in homes]
        best = [load for load in best if cached[load.dp_rank] == longest]
        return self._ties.least(best, [homes[load.dp_rank] for load in best])

    def _with_slack(
        self, candidates: Sequence[GroupLoad], request: RequestShape
    ) -> dict[int, float]:
        """D + c * u / S of each group that has slack, by dp_rank."""
        cost, prompt_tokens = self._costs.step_cost, request.prompt_tokens
        uncached = [request.uncached_tokens(load.dp_rank) for load in candidates]
        steady, now = cost.steady_costs_ms(candidates), cost.costs_ms(candidates)
        most_to_keep = max(steady) - cost.request_ms(prompt_tokens)
        kept = _with(steady, cost.spread_prefill_ms, uncached)
        dearest_to_keep = (1 + TOLERANCE) * min(kept)
        per_token_ms = cost.per_prefill_token_ms
        taken = _with(now, per_token_ms, uncached)
        most_to_take = max(max(now), (1 + TOLERANCE) * (min(now) + per_token_ms * prompt_tokens))
        each = zip(candidates, steady, kept, taken, strict=True)
        return {
            load.dp_rank: keep
            for load, stay, keep, take in each
            if (stay <= most_to_keep or keep <= dearest_to_keep) and take <= most_to_take
        }


def _with(costs: Iterable[float], per_token_ms: float, uncached: Iterable[int]) -> list[float]:
    return [cost + per_token_ms * tokens for cost, tokens in zip(costs, uncached, strict=True)]
