"""What policies with another dispatcher's delays see of groups that report every step."""

from balancer.simulation.front_door import SimulatedFrontDoor
from balancer.waiting_room import WaitingRules
from shm.group_table import GroupState
from tests.balancer.loads import GROUP_EPOCH, report
from tests.balancer.simulated import job

STEP_NS = 40 * 10**6


def a_door(method):
    door = SimulatedFrontDoor(method, 2, 0, 0, 10.0, WaitingRules())
    for rank in range(2):
        door.table(rank, GroupState.READY, GROUP_EPOCH)
    return door


def chosen(door, *tokens_and_requests):
    """Group 0 reports that, step by step; group 1 always 100 tokens in 10 requests."""
    for step, (tokens, requests) in enumerate(tokens_and_requests, 1):
        told = {"group_epoch": GROUP_EPOCH, "num_steps": step, "sampled_ns": step * STEP_NS}
        mine = {"kv_used_tokens": tokens, "running_requests": requests}
        other = {"kv_used_tokens": 100, "running_requests": 10}
        door.publish([report(0, **told, **mine), report(1, **told, **other)])
    door.refresh(len(tokens_and_requests) * STEP_NS / 1e9, lambda rank: ())
    return door.assign(job(1, 1)).dp_rank


def test_total_tokens_sees_the_last_step_that_published_and_none_after_it():
    """
    Less from the 18th step on: the 16th and the 31st are published, whenever a request comes.
    """
    reports = [(200, 5)] * 17 + [(50, 5)] * 20
    more_again = [(200, 5)] * 14

    assert chosen(a_door("total_tokens"), *reports[:30]) == 1
    assert chosen(a_door("total_tokens"), *reports[:31]) == 0
    assert chosen(a_door("total_tokens"), *reports[:31], *more_again) == 0
    assert chosen(a_door("total_tokens"), *reports[:31], *more_again, (200, 5)) == 1


def test_vllm_score_sees_the_last_list_and_nothing_after_it():
    """
    A list comes with every third step of 40 ms, whenever a request does.
    """
    fewer_at_fourth = [(0, 20)] * 3 + [(0, 5)] * 3
    more_again = [(0, 20)] * 2

    assert chosen(a_door("vllm_score"), *fewer_at_fourth[:5]) == 1
    assert chosen(a_door("vllm_score"), *fewer_at_fourth) == 0
    assert chosen(a_door("vllm_score"), *fewer_at_fourth, *more_again) == 0
    assert chosen(a_door("vllm_score"), *fewer_at_fourth, *more_again, (0, 20)) == 1
