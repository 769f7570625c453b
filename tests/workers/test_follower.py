"""Ranks that share the attention of a group compute the tokens of one that has all heads."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.dp_rig import written
from tests.workers.test_lockstep import (
    PAGE_SIZE,
    PROMPTS,
    Group,
    draw_arrivals,
    greedy,
    load,
    make_inner,
    oracle,
)
from tests.workers.test_token_identity import GREEDY, MAX_TOKENS
from tests.workers.thread_ranks import ThreadRanks
from workers.engine.scheduler import Limits
from workers.errors import RankLost
from workers.follower import follow
from workers.lockstep.follower import Follower
from workers.lockstep.pass_exchange import ComputingRanks
from workers.model.shard import Shard

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(name="folder", scope="module", params=["uneven, biased", "qwen2_moe"])
def _folder(request, tmp_path_factory):
    return written(request.param, tmp_path_factory.mktemp("models") / request.param)


def run_set(folder, size, arrivals, limits=None, is_expert_parallel=False, **more):
    """The groups that leaders led; all have followers."""
    num_groups = len(arrivals)
    each = size // num_groups
    last = max((round for each in arrivals for round in each), default=0)
    options = {"num_pages": 60} | more

    def model_of(rank):
        shards = Shard(rank, size), Shard(rank % each, each)
        return load(folder, shards[0], is_expert_parallel, shards[1])

    def main(world, attention):
        model, number = model_of(world.rank), world.rank // each
        if attention.rank:
            inner = make_inner(model, options["num_pages"], Shard(attention.rank, each))
            return Follower(inner, world, attention, ComputingRanks(world, attention), 1).run()
        own = arrivals[number] | {last: arrivals[number].get(last, [])}
        limits_ = limits or Limits(4, 10, 20)
        return Group(model, world, own, limits_, **options, attention=attention).run()

    for rank in range(size):
        model_of(rank)  # a cache is not for several threads
    return ThreadRanks(size).run_in_groups(num_groups, main)[::each]


@settings(
    deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_tokens_are_those_of_one_process(folder, data):
    """
    With idle groups, uneven batches, prefill beside decode, retraction, cached prefixes.
    """
    size, num_groups = data.draw(st.sampled_from([(2, 1), (4, 2)]))
    groups = run_set(
        folder,
        size,
        [draw_arrivals(data.draw) for _ in range(num_groups)],
        Limits(data.draw(st.integers(1, 5)), 10, data.draw(st.integers(5, 90))),
        is_expert_parallel=data.draw(st.booleans()),
        num_pages=(MAX_TOKENS + data.draw(st.integers(0, 200))) // PAGE_SIZE,
        retractions=data.draw(st.sets(st.integers(0, 30), max_size=5)),
    )

    for group in groups:
        for request in group.requests:
            assert request.output_ids == oracle(folder).outputs(request.prompt_ids, GREEDY)


def test_a_retracted_request_is_computed_anew_by_followers_too(folder):
    """
    In other pages, which its leader tells again.
    """
    arrivals = [{0: [greedy(1, PROMPTS[3]), greedy(2, PROMPTS[2])]}]

    (group,) = run_set(folder, 2, arrivals, num_pages=24, retractions={4, 6})

    for request in group.requests:
        assert request.output_ids == oracle(folder).outputs(request.prompt_ids, GREEDY)


def test_a_leader_that_is_gone_ends_its_followers(folder):
    """
    None waits for ever.
    """
    lost = []

    def main(world, attention):
        if attention.rank == 0:
            raise ZeroDivisionError
        model = load(folder, Shard(1, 2), False, Shard(1, 2))
        inner = make_inner(model, 60, Shard(1, 2))
        try:
            Follower(inner, world, attention, ComputingRanks(world, attention), 1).run()
        except RankLost as error:
            lost.append(error)

    with pytest.raises(ZeroDivisionError):
        ThreadRanks(2).run_in_groups(1, main)

    assert len(lost) == 1


def test_who_is_told_to_end_does_not_mind_that_others_have():
    """
    Who is not told finds that its set is broken.
    """

    def lose():
        raise RankLost("gone")

    follow(lose, lambda: True)
    with pytest.raises(RankLost, match="gone"):
        follow(lose, lambda: False)
