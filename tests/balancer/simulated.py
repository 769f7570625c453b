"""Small engines and traffic for the simulation, with round figures."""

from balancer.assignment import Assignment
from balancer.simulation.group import GroupLimits, SimulatedGroup
from balancer.simulation.job import Job
from balancer.simulation.prefix_cache import PrefixCache
from balancer.simulation.settings import Settings
from balancer.simulation.step_time import StepTime
from balancer.simulation.traffic import TracedRequest, Traffic

# 10 ms, and 1 ms for each KV token, 10 for each request, 2 for each computed token.
STEP = StepTime(10.0, 1.0, 10.0, 2.0)
LIMITS = GroupLimits(
    kv_capacity_tokens=80, page_size=4, max_running_requests=8, max_step_tokens=16, cache_tokens=40
)
CACHE_PAGE = 4


def job(prompt_tokens, output_tokens, *page_digests):
    request = TracedRequest(0.0, prompt_tokens, output_tokens, page_digests)
    sent = Assignment("a", 0, 1, prompt_tokens, 1, prompt_tokens)
    return Job(request, assignment=sent)


def a_group(*, computes_prompts=False, mixes=True, limits=LIMITS, told=None):
    told = [] if told is None else told
    cache = PrefixCache(limits.cache_tokens // CACHE_PAGE)
    return SimulatedGroup(
        limits, cache, CACHE_PAGE, told.append, computes_prompts=computes_prompts, mixes=mixes
    )


def step(group):
    """One whole step; returns who had a first token, and who ended."""
    group.begin_step()
    group.check_integrity()
    passed = group.end_step()
    group.check_integrity()
    return passed


def traffic(*requests, page_size=0, num_clients=None):
    """Requests as (arrival_s, prompt_tokens, output_tokens[, page_digests])."""
    asked = [TracedRequest(*request) for request in requests]
    return Traffic("made up", asked, page_size, num_clients)


def settings(num_groups=2, **others):
    return Settings(num_groups, **{"step": STEP, "limits": LIMITS, **others})
