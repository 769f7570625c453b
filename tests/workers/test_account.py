import pytest

from tests.workers.fakes import expected_output
from tests.workers.scheduler_bench import Bench, counts
from workers.engine.account import Account
from workers.engine.request import State

PROMPT = [k * k % 89 + 1 for k in range(600)]


def test_336_computed_then_preempted_then_asked_about_many_times():
    """
    336 tokens were computed when the pages ran out, and 256 of them are cached on resumption.

    In between it is tried at every step for as long as the other one decodes.
    The tokens are those of a run without preemption, each is counted as computed
    once, and the 80 that were lost count as recomputed.
    """
    bench = Bench(page_size=16, num_pages=33, budget=337)
    other = bench.add(1, PROMPT[:15], max_new_tokens=257)
    bench.step()
    request = bench.add(2, PROMPT[50:550], 3)
    bench.step()
    assert (request.state, request.num_computed) == (State.RUNNING, 336)

    num_asked = 0
    while other.state is State.RUNNING:
        bench.step()
        num_asked += request.state is State.WAITING
    assert num_asked > 200
    assert bench.scheduler.tables.num_cached_tokens(request) == 256
    assert request.account.num_reached == 336
    bench.run()

    assert counts(request) == (0, 500, 80)
    assert request.account.num_retractions == 1
    assert request.output_ids == expected_output(PROMPT[50:550], 3)
    assert other.output_ids == expected_output(PROMPT[:15], 257)


def retracted(bench, prompt, num_computed):
    """A request that was retracted when num_computed of its prompt were computed."""
    request = bench.add(1, prompt, 3)
    while request.num_computed < num_computed:
        bench.step()
    assert request.num_computed == num_computed
    bench.scheduler._retract(request)
    return request


def test_what_others_computed_meanwhile_counts_as_cached_beyond_what_was_reached():
    """
    336 computed, 512 found: 176 came from the cache, and the 336 stay computed.
    """
    bench = Bench(page_size=16, num_pages=64, budget=336, max_running=1)
    request = retracted(bench, PROMPT, 336)
    bench.add(2, [*PROMPT[:512], 3], priority=1)
    bench.run()

    assert counts(request) == (176, 424, 0)
    assert request.output_ids == expected_output(PROMPT, 3)


def test_when_the_cache_forgets_everything_nothing_is_counted_again():
    """
    336 computed, 0 found: all of them are recomputed, and computed once.
    """
    bench = Bench(page_size=16, num_pages=64, budget=336)
    request = retracted(bench, PROMPT, 336)
    bench.forget()
    bench.run()

    assert counts(request) == (0, 600, 336)
    assert request.output_ids == expected_output(PROMPT, 3)


def test_a_full_hit_leaves_a_page_to_compute():
    """
    512 computed of 512 and its first token drawn: 496 and the token's own page can be found.
    """
    bench = Bench(page_size=16, num_pages=64, budget=512)
    request = retracted(bench, PROMPT[:512], 512)
    assert request.num_outputs == 1
    assert bench.scheduler.tables.num_cached_tokens(request) == 512
    bench.run()

    assert counts(request) == (0, 512, 0)
    assert request.output_ids == expected_output(PROMPT[:512], 3)
    again = bench.add(2, PROMPT[:512], 3)
    assert bench.scheduler.tables.num_cached_tokens(again) == 496
    bench.run()
    assert counts(again) == (496, 16, 0)


@pytest.mark.parametrize("num_rounds", [1, 2, 5])
def test_any_number_of_retractions_counts_once(num_rounds):
    """
    What is found falls and rises between the rounds; nothing of an older round remains.
    """
    bench = Bench(page_size=16, num_pages=64, budget=100)
    request = retracted(bench, PROMPT, 300)
    for number in range(num_rounds):
        if number % 2:
            bench.forget()
        bench.step()
        bench.scheduler._retract(request)
    bench.run()

    assert sum(counts(request)[:2]) == 600
    assert request.account.num_retractions == num_rounds + 1
    assert request.output_ids == expected_output(PROMPT, 3)


def test_tokens_found_before_anything_was_computed_are_cached_for_good():
    """
    A retraction loses them, and computing them then is no first computation.
    """
    bench = Bench(page_size=16, num_pages=64, budget=100)
    bench.add(9, PROMPT[:200])
    bench.run()
    request = retracted(bench, PROMPT, 192 + 100)
    bench.forget()
    bench.run()

    assert counts(request) == (192, 408, 292)


def test_an_account_that_does_not_add_up_is_found():
    """
    A token that was neither found nor computed has no place.
    """
    account = Account(num_prompt=10)
    account.found(4)
    account.computed(4, 9)

    with pytest.raises(AssertionError, match="num_computed=5"):
        account.check_complete()
    account.computed(9, 12)
    account.check_complete()
