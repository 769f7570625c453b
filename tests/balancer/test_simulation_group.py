import dataclasses

from balancer.prefix_index import Change, PrefixEvent
from tests.balancer.simulated import LIMITS, a_group, job, step


def accept(group, *jobs):
    assert all(group.accept(one, one.request.prompt_tokens) for one in jobs)
    return jobs


def test_in_a_decode_pool_each_step_gives_each_request_a_token():
    """
    Three tokens are three steps, and KV grows by one a step for each.
    """
    group = a_group()
    short, long = accept(group, job(10, 2), job(6, 3))

    group.begin_step()
    assert (group.decoding.kv_tokens, len(group.decoding)) == (16, 2)
    assert group.end_step() == ([short, long], [])
    assert group.decoding.kv_tokens == 18
    assert step(group) == ([], [short])
    assert group.decoding.kv_tokens == 8
    assert step(group) == ([], [long])
    assert (group.holding_tokens, group.has_work) == (0, False)


def test_a_prompt_is_computed_in_chunks_and_its_last_chunk_gives_the_first_token():
    """
    16 tokens a step: 20 tokens are two steps, then one token a step.
    """
    group = a_group(computes_prompts=True)
    (only,) = accept(group, job(20, 2))

    assert group.uncached_tokens == 20
    assert step(group) == ([], [])
    assert (group.last_prefill_tokens, group.uncached_tokens) == (16, 4)
    assert step(group) == ([only], [])
    assert (group.last_prefill_tokens, group.uncached_tokens) == (4, 0)
    assert group.holding_tokens == 21
    assert step(group) == ([], [only])


def test_a_request_of_one_token_ends_with_its_last_chunk():
    """
    It never decodes.
    """
    group = a_group(computes_prompts=True)
    (only,) = accept(group, job(8, 1))

    assert step(group) == ([only], [only])
    assert not group.has_work


def test_decoded_tokens_are_taken_from_the_budget_that_computes_prompts():
    """
    Two decode, so 14 of 16 are left.
    """
    group = a_group(computes_prompts=True)
    accept(group, job(4, 9), job(4, 9))
    step(group)
    accept(group, job(30, 1))

    step(group)

    assert group.last_prefill_tokens == 14


def test_a_group_that_does_not_mix_decodes_nothing_while_it_computes():
    """
    And all of the budget is for prompts.
    """
    group = a_group(computes_prompts=True, mixes=False)
    (early,) = accept(group, job(4, 3))
    step(group)
    accept(group, job(20, 2))

    for expected in (16, 4):
        assert step(group)[1] == []
        assert group.last_prefill_tokens == expected
        assert group.decoding.num_produced(early) == 1
    step(group)
    assert step(group)[1] == [early]


def test_what_is_cached_is_not_computed_again_but_for_the_last_token():
    """
    Two full pages of 4 are the whole prompt: the second is computed anew for its last token.
    """
    group = a_group(computes_prompts=True)
    accept(group, job(8, 1, 71, 72))
    step(group)
    (again,) = accept(group, job(8, 1, 71, 72))

    assert group.uncached_tokens == 4
    step(group)
    assert again.cached_tokens == 4
    assert group.last_prefill_tokens == 4


def test_it_tells_what_its_cache_stores_and_evicts():
    """
    Ten pages fit; for an eleventh the end of the prefix goes that was used longest ago.
    """
    told = []
    group = a_group(told=told)
    for digests in ((1, 2, 3, 4, 5), (6, 7, 8, 9, 10), (1, 2, 3, 4, 5), (11,)):
        accept(group, job(4 * len(digests), 1, *digests))
        step(group)

    assert told == [
        PrefixEvent(Change.STORED, [1, 2, 3, 4, 5]),
        PrefixEvent(Change.STORED, [6, 7, 8, 9, 10]),
        PrefixEvent(Change.STORED, [11]),
        PrefixEvent(Change.EVICTED, [10]),
    ]


def test_who_does_not_fit_waits_and_is_admitted_when_room_appears():
    """
    20 pages: 15 are taken, 6 more would be too many.
    """
    group = a_group()
    first, second = accept(group, job(56, 2), job(20, 2))

    step(group)
    assert (group.num_running, group.num_waiting, group.waiting_tokens) == (1, 1, 20)
    assert step(group)[1] == [first]
    assert step(group)[0] == [second]


def test_the_batch_has_a_limit():
    """
    Eight run, the ninth waits.
    """
    group = a_group()
    accept(group, *(job(1, 2) for _ in range(9)))

    step(group)

    assert (group.num_running, group.num_waiting) == (8, 1)


def test_the_one_with_the_fewest_tokens_is_retracted_and_computes_all_anew():
    """
    Also in a decode pool: its KV came once.  No token is produced twice.
    """
    group = a_group()
    (early,) = accept(group, job(36, 20))
    for _ in range(4):
        step(group)
    (late,) = accept(group, job(32, 16))
    for _ in range(4):
        step(group)

    group.begin_step()  # with 44 and 36 tokens both need a page, and one is free
    assert (group.num_waiting, group.waiting_tokens, group.uncached_tokens) == (1, 36, 36)
    group.end_step()

    first, ended, computed = [], [], 0
    while group.has_work:
        begun, over = step(group)
        first += begun
        ended += over
        computed += group.last_prefill_tokens
    assert (first, ended, computed) == ([late], [early, late], 36)
    assert late.num_produced == 16


def test_a_request_that_can_never_fit_is_refused_and_its_charge_counted():
    """
    The charge counts in any case: nothing of it stays in flight.
    """
    group = a_group()

    assert not group.accept(job(70, 10), 70)
    assert (group.accepted_tokens, group.accepted_requests, group.has_work) == (70, 1, False)
    assert group.ended == (1, 0xA)


def test_no_step_looks_at_each_request():
    """
    A thousand requests of one page in a batch: what a step changes is a sum.
    """
    limits = dataclasses.replace(LIMITS, kv_capacity_tokens=1 << 20, max_running_requests=1 << 10)
    group = a_group(limits=limits)
    accept(group, *(job(1 + n % 7, 5 + n % 3) for n in range(1000)))

    ended = sum(len(step(group)[1]) for _ in range(7))

    assert ended == 1000
