import pytest

from tests.workers.fakes import expected_output
from tests.workers.scheduler_bench import Bench, counts

PROMPT = [*range(1, 13), 9]  # three full pages and a token


@pytest.fixture(name="bench")
def _bench():
    return Bench()


def test_a_prompt_that_was_computed_before_is_not_computed_again(bench):
    """
    Only what comes after its full pages is; the client is told how many were cached.
    """
    bench.serve(1, PROMPT)
    again = bench.serve(2, PROMPT)

    assert bench.plans == [[(1, 0, 13)], [(2, 12, 1)]]
    assert counts(again) == (12, 1, 0)


def test_at_least_one_token_is_computed(bench):
    """
    A prompt of which every page is cached computes its last page, to have its logits.
    """
    bench.serve(1, PROMPT[:12])

    assert counts(bench.serve(2, PROMPT[:12])) == (8, 4, 0)


def test_outputs_are_cached_as_well(bench):
    """
    The next turn of a conversation begins with the answer to the last one.
    """
    first = bench.serve(1, PROMPT, max_new_tokens=8)  # 20 of its 21 tokens have keys and values
    turn = [*PROMPT, *first.output_ids, 1, 2]

    assert counts(bench.serve(2, turn)) == (20, 3, 0)


def test_a_request_for_no_output_leaves_its_prompt(bench):
    """
    It ends without a token, and whoever extends its prompt finds all of it.
    """
    first = bench.serve(1, PROMPT[:12], max_new_tokens=0)
    assert first.output_ids == []

    assert counts(bench.serve(2, PROMPT)) == (12, 1, 0)


def test_a_request_may_limit_what_it_takes_from_the_cache(bench):
    """
    Whole pages below the limit; and it computes side by side with its like, not after it.
    """
    bench.serve(1, PROMPT)

    assert counts(bench.serve(2, PROMPT, prefix_limit=7)) == (4, 9, 0)
    assert counts(bench.serve(3, PROMPT, prefix_limit=0)) == (0, 13, 0)


def test_equal_prompts_in_one_batch_end_with_one_set_of_pages(bench):
    """
    Each computes all of it because it must; one set is kept, and decodes read that.
    """
    for request_id in range(1, 5):
        bench.add(request_id, PROMPT, 6, prefix_limit=0)
    assert len(bench.step()) == 4
    used = bench.scheduler.pool.num_pages - bench.scheduler.pool.num_free

    assert used == 3 + 4  # the prompt's full pages, and one page of each request's own
    bench.run()
    assert all(r.output_ids == expected_output(PROMPT, 6) for r in bench.requests.values())


def test_a_prefix_that_many_wait_for_is_computed_once(bench):
    """
    The others follow when it is cached, and somebody else takes the step's room meanwhile.
    """
    for request_id in (1, 2, 3):
        bench.add(request_id, [*PROMPT[:12], 50 + request_id, 7])
    bench.add(4, [90, 91])

    assert bench.step() == [(1, 0, 14), (4, 0, 2)]
    assert bench.step() == [(2, 12, 2), (3, 12, 2)]


def test_others_wait_only_for_what_they_have_in_common():
    """
    The first is still at its long prompt when the second starts after the part they share.
    """
    bench = Bench(budget=10)
    bench.add(1, range(100, 130))
    bench.add(2, [*range(100, 108), 7])

    for _ in range(4):
        bench.step()
    assert bench.plans == [[(1, 0, 10)], [(1, 10, 10)], [(1, 20, 10)], [(2, 8, 1)]]


def test_what_a_client_that_left_had_computed_is_kept(bench):
    """
    Aborted half way: the same prompt goes on from there.
    """
    bench = Bench(budget=8)
    bench.add(1, PROMPT)
    bench.step()
    bench.scheduler.abort(1)

    assert counts(bench.serve(2, PROMPT)) == (8, 5, 0)


def test_what_a_failed_step_leaves_is_not_kept(bench):
    """
    Of its requests only what was cached before remains: here the prompt, and not the outputs.
    """
    request = bench.add(1, PROMPT, 20)
    while request.num_tokens < 24:
        bench.step()
    bench.scheduler.fail(bench.scheduler.plan(), ValueError())

    assert counts(bench.serve(2, [*request.prompt_ids, *request.output_ids])) == (12, 12, 0)


def test_cached_pages_make_room_for_whoever_needs_it():
    """
    A full cache admits as if it were empty, and the longest unused prefix goes.
    """
    bench = Bench(num_pages=8)
    for request_id in (1, 2, 3):
        bench.serve(request_id, [request_id] * 12)
    assert bench.scheduler.pool.num_free < 3

    bench.serve(4, [9] * 30)
    assert bench.scheduler.tables.num_available == 8


def test_holding_counts_shared_tokens_for_each_request(bench):
    """
    Waiting: all of it is held, and what is not cached is to be computed.  Running: all is read.
    """
    bench.serve(1, PROMPT)
    bench.add(2, PROMPT, 9)
    bench.add(3, PROMPT, 9)

    assert bench.scheduler.holdings() == (26, 0, 2, 2, 0)
    bench.step()
    assert bench.scheduler.holdings() == (28, 2, 0, 0, 26)
