"""
Why a group was chosen, in a sentence: made from a decision's facts when somebody reads it.

    least holding + in-flight: 812 v 1,204 tokens (DP group 0)
    longest prefix match, 1,024 of 1,500 tokens: of the 2 groups with a match and slack

Figures are those that were compared, slow start's factors among them.  The other group named is the
one that came closest.  Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from balancer.choice import Why
from balancer.decision import Decision, Weighed

_COMPARED = {
    Why.FEWEST_TOKENS: ("least holding + in-flight", " tokens"),
    Why.FEWEST_REQUESTS: ("fewest requests", ""),
    Why.LEAST_STEP_COST: ("least step cost", " ms"),
    Why.FEWEST_PUBLISHED_TOKENS: ("fewest tokens, as published last", ""),
    Why.LEAST_SCORE: ("least score", ""),
}
_HOME = "home of the request's session"


def reason(decision: Decision) -> str:
    """The sentence, without a full stop."""
    told = _RULES.get(decision.why, _least)(decision)
    if decision.are_suspect and decision.why is Why.ASKED_FOR:
        told += ", though it is suspect"
    elif decision.are_suspect:
        told += "; no ready group could take it, so suspect ones were candidates"
    if decision.is_last_resort:
        told += "; nobody else could take it, so its open breaker was passed"
    return told


def _least(decision: Decision) -> str:
    """Where figures were compared, and the least won."""
    name, unit = _COMPARED[decision.why]
    mine, second = decision.chosen, _second(decision)
    told = f"{name}: {_figure(mine)}{unit}"
    if decision.num_equal > 1:
        told = f"{told}, as {_others(decision.num_equal - 1)}: they take turns"
    elif second is not None:
        least, other = _apart(mine, second)
        told = f"{name}: {least} v {other}{unit} (DP group {second.load.dp_rank})"
    return told + _passed_over(decision, 0)


def _published(decision: Decision) -> str:
    """Tokens decide, then requests, which are kept nowhere, then the number of the group."""
    mine, second = decision.chosen, _second(decision)
    if second is None or second.cost != mine.cost:
        return _least(decision)
    told = f"{_COMPARED[decision.why][0]}: {_figure(mine)}"
    if decision.num_equal > 1:
        return f"{told}, as {_others(decision.num_equal - 1)}: it has the lowest number"
    return f"{told}, as DP group {second.load.dp_rank} has, but fewer requests"


def _longest(decision: Decision) -> str:
    mine = decision.chosen
    among = decision.num_shortlisted or 1
    cached = f"{mine.cached_tokens or 0:,} of {decision.prompt_tokens:,} tokens"
    only = "the only group" if among == 1 else f"of the {among:,} groups"
    told = f"longest prefix match, {cached}: {only} with a match and slack"
    if decision.num_equal > 1:
        told += f"; {_others(decision.num_equal - 1)} too: they take turns"
    return told + _passed_over(decision, mine.cached_tokens or 0)


def _fewer_of_two(decision: Decision) -> str:
    drawn = [each for each in decision.candidates if each.is_shortlisted]
    other = next((each for each in drawn if each.load.dp_rank != decision.dp_rank), None)
    if other is None:
        return "two were drawn, and it has the fewer tokens"
    mine, theirs = _tokens(decision.chosen), _tokens(other)
    if mine == theirs:
        return f"drawn before DP group {other.load.dp_rank}, which has {theirs} tokens, too"
    return f"fewer tokens of two that were drawn: {mine} v {theirs} (DP group {other.load.dp_rank})"


def _home_with_slack(decision: Decision) -> str:
    among, everybody = decision.num_shortlisted, decision.num_candidates
    if among == everybody:
        return _HOME
    return f"{_HOME} among the {among:,} of {everybody:,} groups with slack"


def _next_home(decision: Decision) -> str:
    num_over = decision.num_candidates - (decision.num_shortlisted or 0)
    return (
        f"next in the order of the request's session: its home is overloaded, as {num_over:,} of "
        f"{decision.num_candidates:,} groups are"
    )


def _fixed(told: str) -> Callable[[Decision], str]:
    return lambda _: told


_RULES: dict[Why, Callable[[Decision], str]] = {
    Why.ASKED_FOR: _fixed("asked for by X-Data-Parallel-Rank"),
    Why.ONLY_CANDIDATE: _fixed("the only group that could take it"),
    Why.NEXT_IN_TURN: _fixed("its turn"),
    Why.DRAWN: _fixed("drawn, each group with the same chance"),
    Why.FEWEST_PUBLISHED_TOKENS: _published,
    Why.LONGEST_MATCH: _longest,
    Why.FEWER_OF_TWO: _fewer_of_two,
    Why.SESSION_HOME: _fixed(_HOME),
    Why.SESSION_HOME_WITH_SLACK: _home_with_slack,
    Why.SESSION_NEXT: _next_home,
}


def _second(decision: Decision) -> Weighed | None:
    """The one that came closest, if figures were compared."""
    others = [each for each in decision.candidates if each.load.dp_rank != decision.dp_rank]
    return min(others, key=_cost, default=None)


def _passed_over(decision: Decision, cached_tokens: int) -> str:
    """A group that has more of the prompt, and was not to be had for it."""
    longer = [
        each
        for each in decision.candidates
        if (each.cached_tokens or 0) > cached_tokens and each.load.dp_rank != decision.dp_rank
    ]
    is_about_prefixes = decision.why is Why.LONGEST_MATCH or not (
        decision.chosen.cached_tokens or 0
    )
    if not longer or not is_about_prefixes:
        return ""
    best = max(longer, key=lambda each: each.cached_tokens or 0)
    return (
        f"; DP group {best.load.dp_rank} has {best.cached_tokens or 0:,} tokens of the prompt "
        "cached, but the request would make it the slowest"
    )


def _others(count: int) -> str:
    return "another has" if count == 1 else f"{count:,} others have"


def _cost(each: Weighed) -> float:
    return each.cost if each.cost is not None else float("inf")


def _figure(each: Weighed) -> str:
    return _written(each.cost or 0, 4)


def _apart(mine: Weighed, other: Weighed) -> tuple[str, str]:
    """Both with as many digits as tell them apart."""
    for digits in range(4, 18):
        two = _written(mine.cost or 0, digits), _written(other.cost or 0, digits)
        if two[0] != two[1]:
            break
    return two


def _written(figure: float, digits: int) -> str:
    if figure == int(figure):
        return f"{int(figure):,}"
    return f"{figure:,.{digits}g}"


def _tokens(each: Weighed) -> str:
    """With the factor of slow start, as balancer.slow_start applies it."""
    load, factor = each.load, each.factor
    return f"{round(load.holding_tokens * factor) + round(load.in_flight_tokens * factor):,}"
