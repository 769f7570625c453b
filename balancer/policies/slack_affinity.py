"""Slack affinity."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from balancer.choice import Choice, Why
from balancer.cost_model import CostFit
from balancer.ledger import Ledger
from balancer.load import GroupLoad, RequestShape
from balancer.policies.base import Policy
from balancer.policies.min_step_cost import MinStepCost
from balancer.policies.ties import FairTies
from balancer.rendezvous import home

TOLERANCE = 0.03


class SlackAffinity(Policy):
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
        self._level = MinStepCost(rng, costs).choose
        self._ties = FairTies(rng)
        self._costs = costs

    def read(self, ledger: Ledger) -> None:
        """Let the coefficients learn from the reports."""
        self._costs.observe(ledger.reports)

    def choose(self, candidates: Sequence[GroupLoad], request: RequestShape) -> Choice:
        """Take the group with the longest cached prefix that has slack, or the least cost."""
        cached, key = request.cached_tokens, request.session_key
        if any(cached):
            wanted = [place for place, load in enumerate(candidates) if cached[load.dp_rank]]
        else:
            wanted = [] if cached or key is None else list(range(len(candidates)))
        costs, homes = self._with_slack(candidates, request, wanted) if wanted else ((), ())
        if not homes:
            return self._level(candidates, request)
        if not cached and key is not None:
            dp_rank = home([candidates[place].dp_rank for place in homes], key)
            return Choice(dp_rank, Why.SESSION_HOME_WITH_SLACK, costs, homes)
        longest = max(cached[candidates[place].dp_rank] for place in homes)
        best = [place for place in homes if cached[candidates[place].dp_rank] == longest]
        dp_rank, num_equal = self._ties.least(
            [candidates[place] for place in best], [costs[place] for place in best]
        )
        return Choice(dp_rank, Why.LONGEST_MATCH, costs, homes, num_equal)

    def _with_slack(
        self, candidates: Sequence[GroupLoad], request: RequestShape, wanted: Sequence[int]
    ) -> tuple[list[float], list[int]]:
        """D + c * u / S of all, and the places in candidates of those wanted that have slack."""
        cost, prompt_tokens = self._costs.step_cost, request.prompt_tokens
        spread_ms, prefill_ms = cost.spread_prefill_ms, cost.per_prefill_token_ms
        steady = cost.steady_costs_ms(candidates)
        now = steady
        if prefill_ms:
            waiting = [load.uncached_tokens for load in candidates]
            now = [ms + prefill_ms * tokens for ms, tokens in zip(steady, waiting, strict=True)]
        kept = [ms + spread_ms * prompt_tokens for ms in steady]
        uncached = [request.uncached_tokens(candidates[place].dp_rank) for place in wanted]
        for place, tokens in zip(wanted, uncached, strict=True):
            kept[place] = steady[place] + spread_ms * tokens
        most_to_keep = max(steady) - cost.request_ms(prompt_tokens)
        dearest_to_keep = (1 + TOLERANCE) * min(kept)
        most_to_take = max(max(now), (1 + TOLERANCE) * (min(now) + prefill_ms * prompt_tokens))
        return kept, [
            place
            for place, tokens in zip(wanted, uncached, strict=True)
            if (steady[place] <= most_to_keep or kept[place] <= dearest_to_keep)
            and now[place] + prefill_ms * tokens <= most_to_take
        ]
