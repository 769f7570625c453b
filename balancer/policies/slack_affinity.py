"""Slack affinity."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from balancer.load import GroupLoad, RequestShape
from balancer.policies.minimum_tokens import MinimumTokens
from balancer.policies.ties import FairTies

TOLERANCE = 0.03


class SlackAffinity:
    """
    Take the group that holds most of the prompt's prefix, of those that have slack.

    All in tokens.  With L a group's holding + in-flight tokens, n the prompt, c
    what of it the group has cached, u = n - c what it would compute, and M the
    largest L among the candidates, a group has slack if

        L + n <= M                        it stays under the slowest group as it is, or
        L + u <= (1 + e) * least(L + u)   it costs as little as elsewhere, e = 0.03

    Of those with slack and at least one cached page, the longest match is taken,
    of these the least L + u; equals take turns.  If there is none, minimum_tokens
    decides.

    Where the first line holds the group's step costs nobody anything, for the
    slowest group sets the pace.  It counts n, not u: cached tokens are read at
    every step as others are, and a group that is let in by u alone raises M by n,
    so that a few groups could raise each other without end.  e is applied to the
    least, not to M, for the same reason.  So affinity never makes a group heavier
    than M or, if that is more, than (1 + e) * (least L + n) + c.  The second line
    sends a fork home when all are idle or level: there L is equal and u differs.
    A beginning that all groups hold makes no difference between them, and least
    L + u decides, as it would without it.

    Loads are as fresh as minimum_tokens has them.  What is cached is what groups
    told and what was sent to them (see balancer.prefix_index); if that is missing
    or out of date, the request lands on a group as level as another and computes
    there what it lacks.  Where nothing is known of the prompt's pages - its count
    was estimated, or the groups' page size is not known - it is minimum_tokens.

    Choose it where requests share long beginnings: conversations, agents, forks,
    long system prompts of several kinds.  Not where prompts have nothing or all the
    same in common: naming their pages costs time and wins nothing.
    """

    name: ClassVar[str] = "slack_affinity"

    def __init__(self, rng: random.Random) -> None:
        self._fallback = MinimumTokens(rng)
        self._ties = FairTies(rng)

    def pick(self, candidates: Sequence[GroupLoad], request: RequestShape) -> int:
        """Return the dp_rank with the longest cached prefix that has slack, or the least tokens."""
        cached = request.cached_tokens
        if not cached or not any(cached[load.dp_rank] for load in candidates):
            return self._fallback.pick(candidates, request)
        homes = _with_slack(candidates, request)
        longest = max((cached[load.dp_rank] for load in homes), default=0)
        if not longest:
            return self._fallback.pick(candidates, request)
        best = [load for load in homes if cached[load.dp_rank] == longest]
        return self._ties.least(best, [load.tokens for load in best])


def _with_slack(candidates: Sequence[GroupLoad], request: RequestShape) -> list[GroupLoad]:
    prompt_tokens, cached = request.prompt_tokens, request.cached_tokens
    slowest = max(load.tokens for load in candidates)
    costs = [load.tokens + prompt_tokens - cached[load.dp_rank] for load in candidates]
    dearest = (1 + TOLERANCE) * min(costs)
    return [
        load
        for load, cost in zip(candidates, costs, strict=True)
        if load.tokens + prompt_tokens <= slowest or cost <= dearest
    ]
