import random

import pytest

from balancer.prefill_share import PrefillShare
from shm.load import Accepted
from tests.balancer.loads import EPOCH, report

PROMPT = 700


class Groups:
    """Each step some accept a prompt; of its tokens they compute a part in their next step."""

    def __init__(self, num_groups, *, rate, part, seed=0, every=1):
        self._rng, self._rate, self._part = random.Random(seed), rate, part
        self._requests, self._num_steps, self._every = [0] * num_groups, 0, every

    def step(self):
        self._num_steps += 1
        rate = 0 if self._num_steps % self._every else self._rate
        arrived = [self._rng.random() < rate for _ in self._requests]
        self._requests = [sum(pair) for pair in zip(self._requests, arrived, strict=True)]
        return [self._report(*one) for one in enumerate(zip(self._requests, arrived, strict=True))]

    def _report(self, rank, counts):
        requests, is_new = counts
        return report(
            rank,
            num_steps=self._num_steps,
            step_prefill_tokens=round(self._part * PROMPT) * is_new,
            accepted=(Accepted(EPOCH, PROMPT * requests, requests, 0, 0),),
        )


def watched(groups, *, num_steps):
    share = PrefillShare()
    for _ in range(num_steps):
        share.observe(groups.step())
    return share


@pytest.mark.parametrize("num_groups", [1, 8, 32])
def test_a_pool_that_prompts_come_to_with_their_kv_is_found_out(num_groups):
    assert not watched(Groups(num_groups, rate=0.3, part=0.0), num_steps=600).is_computed


@pytest.mark.parametrize("rate", [0.005, 0.05, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_who_computes_prompts_is_never_taken_for_a_pool_however_few_come(rate, seed):
    """
    Though one group's report of a batch is all that is looked at.
    """
    share = PrefillShare()
    groups = Groups(8, rate=rate, part=1.0, seed=seed)
    for _ in range(6000):
        share.observe(groups.step())
        assert share.is_computed


def test_prompts_that_come_to_all_groups_at_once_are_seen():
    """
    Every 16 steps, as often as each of 32 groups has its turn if two have it a batch.
    """
    share, groups = PrefillShare(), Groups(32, rate=1.0, part=1.0, every=16)
    for _ in range(3000):
        reports = groups.step()
        share.observe(reports)
        share.observe(reports)
        assert share.is_computed


def test_what_a_pool_retracts_does_not_make_it_compute_prompts():
    assert not watched(Groups(8, rate=0.3, part=0.01), num_steps=1500).is_computed


def test_most_of_a_prompt_may_be_found_in_caches():
    assert watched(Groups(8, rate=0.3, part=0.1), num_steps=1500).is_computed


def test_without_requests_nothing_is_refuted():
    assert watched(Groups(8, rate=0.0, part=1.0), num_steps=1000).is_computed


def test_a_group_that_begins_anew_takes_back_nothing_that_was_counted():
    share = watched(Groups(8, rate=0.3, part=0.0), num_steps=1500)
    for reports in (Groups(8, rate=0.0, part=0.0).step() for _ in range(100)):
        share.observe(reports)
    assert not share.is_computed
