import pytest

from tests.workers.fakes import FakeText, SlotRunner, expected_output, make_request
from workers.engine.pages import PagePool
from workers.engine.request import FinishReason, State
from workers.engine.scheduler import Limits, Scheduler
from workers.errors import NeverFits, QueueFull, StepFailed, Stopping

PAGE_SIZE = 4


def make_scheduler(num_pages=16, max_running=4, max_queued=8, max_step_tokens=16):
    limits = Limits(max_running, max_queued, max_step_tokens)
    return Scheduler(limits, PagePool(num_pages, PAGE_SIZE))


def shape(plan):
    """A plan as (request id, start, number of tokens)."""
    return [(c.request.request_id, c.start, c.num_new) for c in plan.chunks]


def run(scheduler, runner, num_steps=200):
    """Step until idle; outputs by request."""
    outputs = {}
    for _ in range(num_steps):
        plan = scheduler.plan()
        for output in (*plan.failed, *scheduler.commit(plan, runner.run(plan))):
            outputs.setdefault(output.request_id, []).append(output)
        scheduler.check_integrity()
        if scheduler.is_idle:
            return outputs
    raise AssertionError(f"not idle after {num_steps} steps")


def tokens(outputs):
    return [output.token_id for output in outputs if output.token_id is not None]


def test_a_long_prompt_is_computed_in_chunks_beside_running_decodes():
    """
    Each step has one budget: decodes first, the chunked prompt with what they leave.
    """
    scheduler, runner = make_scheduler(max_step_tokens=8), SlotRunner(PAGE_SIZE)
    scheduler.add(make_request(1, [5] * 4))
    plan = scheduler.plan()
    scheduler.commit(plan, runner.run(plan))
    scheduler.add(make_request(2, [6] * 20))

    shapes = []
    for _ in range(3):
        plan = scheduler.plan()
        shapes.append(shape(plan))
        scheduler.commit(plan, runner.run(plan))

    assert shapes == [
        [(1, 4, 1), (2, 0, 7)],
        [(1, 5, 1), (2, 7, 7)],
        [(1, 6, 1), (2, 14, 6)],
    ]


def test_nobody_overtakes_the_first_in_the_queue():
    """
    A request that has no room yet holds back smaller ones behind it.
    """
    scheduler = make_scheduler(num_pages=4)
    for request_id, num_tokens in ((1, 8), (2, 12), (3, 1)):
        scheduler.add(make_request(request_id, [1] * num_tokens))

    assert shape(scheduler.plan()) == [(1, 0, 8)]


def test_when_pages_run_out_the_request_with_the_fewest_outputs_yields():
    """
    Everybody's output is what it would have been alone.
    """
    scheduler, runner = make_scheduler(num_pages=6), SlotRunner(PAGE_SIZE)
    prompts = {i: [i] * 4 for i in (1, 2, 3)}
    for request_id, prompt in prompts.items():
        scheduler.add(make_request(request_id, prompt, max_new_tokens=12))

    outputs = run(scheduler, runner)

    assert scheduler.totals.retractions > 0
    assert {i: tokens(outputs[i]) for i in prompts} == {
        i: expected_output(prompt, 12) for i, prompt in prompts.items()
    }


def test_a_retracted_request_is_the_latest_and_comes_back_first():
    """
    Among equals the one admitted last yields, and it stands before those who waited.
    """
    scheduler, runner = make_scheduler(num_pages=6, max_running=3), SlotRunner(PAGE_SIZE)
    lengths = {1: 7, 2: 8, 3: 8, 4: 8}
    requests = {i: make_request(i, [i] * 4, length) for i, length in lengths.items()}
    for request in requests.values():
        scheduler.add(request)
    while not any(request.account.num_retractions for request in requests.values()):
        plan = scheduler.plan()
        scheduler.commit(plan, runner.run(plan))

    assert [requests[i].state for i in (1, 2)] == [State.RUNNING] * 2
    assert [requests[i].state for i in (3, 4)] == [State.WAITING] * 2
    while requests[3].state is State.WAITING:
        assert requests[4].state is State.WAITING
        plan = scheduler.plan()
        scheduler.commit(plan, runner.run(plan))


def test_a_request_that_grows_beyond_the_whole_cache_ends_with_numbers():
    """
    Alone, it cannot be helped by retracting: it ends with an error, others go on.
    """
    scheduler, runner = make_scheduler(num_pages=2), SlotRunner(PAGE_SIZE)
    scheduler.add(make_request(1, [1] * 6, max_new_tokens=50))
    scheduler.add(make_request(2, [2] * 4, max_new_tokens=2))

    outputs = run(scheduler, runner)

    assert isinstance(outputs[1][-1].error, NeverFits)
    assert "9 tokens" in str(outputs[1][-1].error)
    assert "8 in all" in str(outputs[1][-1].error)
    assert tokens(outputs[2]) == expected_output([2] * 4, 2)


def test_a_prompt_larger_than_the_cache_is_refused_at_once():
    """
    It never enters the queue.
    """
    scheduler = make_scheduler(num_pages=2)

    with pytest.raises(NeverFits, match=r"9 tokens.* 8 in all"):
        scheduler.add(make_request(1, [1] * 9))
    assert scheduler.is_idle


def test_a_full_group_refuses_and_says_how_full():
    """
    Running and waiting requests together have one limit, the one that is reported.
    """
    scheduler = make_scheduler(max_running=1, max_queued=1)
    scheduler.add(make_request(1, [1]))
    scheduler.add(make_request(2, [1]))

    with pytest.raises(QueueFull, match="holds 2 requests, it takes at most 2"):
        scheduler.add(make_request(3, [1]))


@pytest.mark.parametrize("num_steps", [0, 1, 2, 4])
def test_abort_gives_back_everything_in_every_phase(num_steps):
    """
    Waiting, half prefilled or decoding: after an abort nothing is held.
    """
    scheduler, runner = make_scheduler(max_step_tokens=8), SlotRunner(PAGE_SIZE)
    scheduler.add(make_request(1, [1] * 20, max_new_tokens=9))
    for _ in range(num_steps):
        plan = scheduler.plan()
        scheduler.commit(plan, runner.run(plan))

    assert scheduler.abort(1)
    assert not scheduler.abort(1)

    assert scheduler.holdings() == (0, 0, 0, 0, 0)
    assert scheduler.pool.num_free == scheduler.pool.num_pages


def test_holdings_follow_a_chunked_request():
    """
    Holding counts the whole prompt from the start; the uncomputed rest moves to used KV.
    """
    scheduler, runner = make_scheduler(max_step_tokens=8), SlotRunner(PAGE_SIZE)
    scheduler.add(make_request(1, [1] * 12, max_new_tokens=2))
    seen = [scheduler.holdings()]
    for _ in range(3):
        plan = scheduler.plan()
        scheduler.commit(plan, runner.run(plan))
        seen.append(scheduler.holdings())

    assert seen == [(12, 0, 1, 12, 0), (12, 1, 0, 4, 8), (13, 1, 0, 0, 12), (0, 0, 0, 0, 0)]


@pytest.mark.parametrize(
    ("request_", "reason", "num_outputs"),
    [
        (make_request(1, [1, 2], max_new_tokens=3), FinishReason.LENGTH, 3),
        (make_request(1, [1, 2], stop_ids=range(97)), FinishReason.STOP, 1),
        (make_request(1, [1, 2], text=FakeText(stop=" ")), FinishReason.STOP, 1),
        (make_request(1, [1, 2], max_new_tokens=0), FinishReason.LENGTH, 0),
    ],
    ids=["length", "stop token", "stop text", "prompt only"],
)
def test_an_output_ends_for_one_of_these_reasons(request_, reason, num_outputs):
    """
    The last output carries the reason, and there is none after it.
    """
    scheduler = make_scheduler()
    scheduler.add(request_)

    outputs = run(scheduler, SlotRunner(PAGE_SIZE))[1]

    assert outputs[-1].finish_reason is reason
    assert len(tokens(outputs)) == num_outputs
    assert request_.state is State.FINISHED


def test_a_failed_step_ends_its_requests_and_no_others():
    """
    The waiting request, which was not part of the step, is computed afterwards.
    """
    scheduler, runner = make_scheduler(max_running=1), SlotRunner(PAGE_SIZE)
    scheduler.add(make_request(1, [1]))
    scheduler.add(make_request(2, [2]))

    failed = scheduler.fail(scheduler.plan(), StepFailed(ValueError("no")))

    assert [(o.request_id, str(o.error)) for o in failed] == [
        (1, "the forward pass failed: ValueError: no")
    ]
    assert tokens(run(scheduler, runner)[2]) == expected_output([2], 4)


def test_stopping_ends_every_request():
    """
    Each gets a last word.
    """
    scheduler = make_scheduler(max_running=1)
    for request_id in (1, 2):
        scheduler.add(make_request(request_id, [1]))
    scheduler.plan()

    outputs = scheduler.abort_all(Stopping())

    assert [output.request_id for output in outputs] == [1, 2]
    assert scheduler.is_idle
