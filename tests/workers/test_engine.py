import queue

import pytest

from tests.workers.fakes import FakeText, SlotRunner, StepClock, expected_output, make_request
from workers.engine.acceptance import AcceptedCounters, Charge, Ticket
from workers.engine.engine import MAX_FAILED_STEPS, Engine, Ports
from workers.engine.inbox import Abort, Inbox, Settle, Submit
from workers.engine.meter import GroupId, LoadMeter
from workers.engine.pages import PagePool
from workers.engine.scheduler import Limits, Scheduler
from workers.errors import QueueFull, StepFailed, Stopping

PAGE_SIZE = 4


class Bench:
    """An engine whose rounds the test calls, and everything that it said."""

    def __init__(self, num_pages=16, max_queued=8, pool=None, looks_ahead=True):
        self.outputs, self.reports, self.fatal = [], [], []
        self.runner = SlotRunner(PAGE_SIZE, looks_ahead)
        self.inbox = Inbox()
        self.engine = Engine(
            self.inbox,
            Scheduler(Limits(2, max_queued, 8), pool or PagePool(num_pages, PAGE_SIZE)),
            self.runner,
            AcceptedCounters(2),
            LoadMeter(GroupId(3, 77), StepClock()),
            Ports(lambda outputs: self.deliver(outputs), self.reports.append, self.fatal.append),
            heartbeat_s=60.0,
        )

    def deliver(self, outputs):
        self.outputs.extend(outputs)

    def step(self, *arrivals):
        for arrival in arrivals:
            self.inbox.put(arrival)
        return self.engine.step(0.0)

    def tokens(self, request_id):
        return [o.token_id for o in self.outputs if o.request_id == request_id]


@pytest.fixture(name="bench", params=[True, False], ids=["overlap", "plain"])
def _bench(request):
    return Bench(looks_ahead=request.param)


def charge(number, tokens, front_door=0, epoch=5):
    return Charge(f"{number:016x}", front_door, epoch, tokens)


def test_holding_and_accepted_change_in_the_same_report(bench):
    """
    No report shows a request's charge as accepted without its tokens, or the reverse.
    """
    bench.step()
    bench.step(Submit(make_request(1, [1] * 3, ticket=Ticket(charge(1, 9), 1))))

    before, after = bench.reports
    assert (before.holding_tokens, before.accepted[0].tokens) == (0, 0)
    assert (after.holding_tokens, after.accepted[0]) == (3, (5, 9, 1, 0, 0))


def test_the_report_of_a_step_is_made_before_its_forward_pass(bench):
    """
    A front door hears of the acceptance while the prompt is computed, not afterwards.
    """
    seen = []

    def run(plan):
        seen.extend(bench.reports)
        return []  # the chunk does not reach the prompt's end

    bench.runner.run = run
    bench.step(Submit(make_request(1, [1] * 12)))

    assert [(r.waiting_uncached_tokens, r.computing_tokens) for r in seen] == [(12, 8)]


def test_the_last_report_says_that_nothing_is_held(bench):
    """
    A report is sampled after the last finish: an idle group does not look busy for ever.
    """
    bench.step(Submit(make_request(1, [1], max_new_tokens=1, ticket=Ticket(charge(1, 4), 1))))
    assert bench.reports[0].holding_tokens == 1

    assert bench.step(), "nothing left to do"

    last = bench.reports[-1]
    assert (last.holding_tokens, last.running_requests, last.kv_used_tokens) == (0, 0, 0)
    assert (last.num_steps, last.step_prefill_tokens) == (1, 1)
    assert last.accepted[0] == (5, 4, 1, 1, 1)
    assert (last.dp_rank, last.group_epoch, last.max_requests) == (3, 77, 10)


def test_what_a_finished_request_held_is_reported_free_before_it_is_answered(bench):
    """
    Its client may ask again at once, and would find its group busy with what has ended.
    """
    held = []
    bench.deliver = lambda outputs: held.append(bench.reports[-1].holding_tokens)

    bench.step(Submit(make_request(1, [1], max_new_tokens=2)))
    bench.step()

    assert held == [1, 0]
    assert len(bench.reports) == 3, "no more reports than needed"


def test_an_end_is_told_in_the_report_that_holds_it_no_more(bench):
    """
    Not before, or a front door would take it off twice; and not after.
    """
    bench.step(Submit(make_request(1, [1], max_new_tokens=3, ticket=Ticket(charge(1, 4), 1))))
    while not bench.step():
        pass

    told = [(r.holding_tokens, r.accepted[0].ended_requests) for r in bench.reports]
    assert told == [(1, 0), (2, 0), (3, 0), (0, 1), (0, 1)]


def test_a_charge_ends_with_the_last_of_its_choices(bench):
    """
    Three of them, of which one is aborted and two have unequal lengths.
    """
    ticket = Ticket(charge(1, 4), 3)
    choices = [make_request(n, [1], max_new_tokens=n, ticket=ticket) for n in (1, 2, 3)]
    ends = []

    for arrivals in (map(Submit, choices), [Abort(3)], []):
        bench.step(*arrivals)
        ends.append(bench.reports[-1].accepted[0])

    assert ends[0] == (5, 4, 1, 0, 0)
    assert ends[-1] == (5, 4, 1, 1, 1)
    while not bench.step():
        pass
    assert bench.reports[-1].accepted[0] == (5, 4, 1, 1, 1)


class CountingPool(PagePool):
    """Counts how often its books are checked."""

    num_checks = 0

    def check_integrity(self, used):
        self.num_checks += 1
        super().check_integrity(used)


def test_books_are_checked_once_when_the_last_request_has_left():
    """
    Not while one is there, and not at the heartbeats of an idle group.
    """
    pool = CountingPool(16, PAGE_SIZE)
    bench = Bench(pool=pool)
    bench.step(Submit(make_request(1, [1], max_new_tokens=3)))
    bench.step()
    assert pool.num_checks == 0

    for _ in range(5):
        bench.step()
    assert pool.num_checks == 1

    bench.step(Submit(make_request(2, [1])), Abort(2))
    for _ in range(5):
        bench.step()
    assert pool.num_checks == 2


def test_what_is_settled_counts_and_holds_nothing(bench):
    """
    A charge without a request shows in the next report.
    """
    bench.step(Settle(charge(1, 9, front_door=1)))

    assert bench.reports[-1].accepted == ((0, 0, 0, 0, 0), (5, 9, 1, 1, 1))
    assert bench.reports[-1].holding_tokens == 0


def test_a_request_that_is_refused_is_counted_too(bench):
    """
    Queue full: its client gets the reason, its charge is settled, and it holds nothing.
    """
    full = Bench(max_queued=0)
    arrivals = [Submit(make_request(i, [1], ticket=Ticket(charge(i, 1), 1))) for i in (1, 2, 3)]

    full.step(*arrivals)

    errors = [(o.request_id, type(o.error)) for o in full.outputs if o.error]
    assert errors == [(3, QueueFull)]
    assert full.reports[0].accepted[0] == (5, 3, 3, 1, 3)
    assert full.reports[0].holding_tokens == 2


def test_a_client_that_leaves_before_the_step_holds_nothing(bench):
    """
    Submit and abort in one take: counted once, and never computed.
    """
    bench.step(Submit(make_request(1, [1], ticket=Ticket(charge(1, 4), 1))), Abort(1))

    assert bench.reports[-1].accepted[0] == (5, 4, 1, 1, 1)
    assert bench.reports[-1].holding_tokens == 0
    assert bench.runner.num_steps == 0


def test_a_step_that_fails_ends_its_requests_and_the_loop_goes_on(bench):
    """
    The clients get the cause; the next request is served.
    """
    bench.runner.errors = {1: ValueError("bad weights")}
    bench.step(Submit(make_request(1, [1])))
    bench.step(Submit(make_request(2, [2], max_new_tokens=2)))
    bench.step()

    failed = [o for o in bench.outputs if o.request_id == 1]
    assert [type(o.error) for o in failed] == [StepFailed]
    assert "ValueError: bad weights" in str(failed[0].error)
    assert bench.tokens(2) == expected_output([2], 2)


def during(bench, number, happen):
    """Let something happen while that step is computed."""
    run = bench.runner.run

    def interrupted(plan):
        if bench.runner.num_steps + 1 == number:
            happen()
        return run(plan)

    bench.runner.run = interrupted


def test_an_abort_during_a_step_ends_the_request_after_it(bench):
    """
    Its last token is still delivered, its pages are free, and the other goes on.
    """
    during(bench, 2, lambda: bench.inbox.put(Abort(1)))
    for request_id in (1, 2):
        bench.inbox.put(Submit(make_request(request_id, [request_id] * 3, max_new_tokens=4)))
    while not bench.step():
        pass

    assert bench.tokens(1) == expected_output([1] * 3, 2)
    assert bench.tokens(2) == expected_output([2] * 3, 4)
    assert bench.reports[-1].holding_tokens == 0


def test_a_charge_during_a_step_is_accepted_with_its_tokens_after_it(bench):
    """
    The report of the next step shows both; none in between shows one.
    """
    arrival = Submit(make_request(2, [2] * 3, ticket=Ticket(charge(2, 9), 1)))
    during(bench, 2, lambda: bench.inbox.put(arrival))
    bench.step(Submit(make_request(1, [1] * 3, max_new_tokens=4)))
    bench.step()
    bench.step()

    seen = [(r.num_steps, r.holding_tokens, r.accepted[0].tokens) for r in bench.reports]
    assert seen == [(0, 3, 0), (1, 4, 0), (2, 5 + 3, 9)]


def test_what_was_foreseen_of_one_that_stops_is_not_computed(bench):
    """
    Foreseen while the token was unknown that ends it.
    """
    first, second = expected_output([1] * 3, 2)
    bench.step(Submit(make_request(1, [1] * 3, 4, text=FakeText(stop=f"{second} "))))
    bench.step()
    assert [place[:2] for place in bench.runner.foreseen] == [(1, 4)] * bench.runner.looks_ahead

    assert bench.step(), "nothing left to do"
    assert bench.tokens(1) == [first, second]
    assert bench.runner.num_steps == 2


def test_a_step_is_computed_to_its_end_if_preparing_fails():
    """
    Only then its requests end, and their pages are somebody else's.
    """
    bench = Bench()
    prepare, bench.runner.prepare = bench.runner.prepare, lambda decodes: 1 // 0
    bench.step(Submit(make_request(1, [1] * 3)))
    bench.runner.prepare = prepare
    bench.step(Submit(make_request(2, [2] * 3, max_new_tokens=1)))

    assert bench.runner.num_steps == 2
    assert [type(o.error) for o in bench.outputs if o.request_id == 1] == [StepFailed]
    assert bench.tokens(2) == expected_output([2] * 3, 1)


def test_steps_that_keep_failing_are_fatal(bench):
    """
    After a few in a row the loop raises, and does not go on failing every request.
    """
    bench.runner.errors = dict.fromkeys(range(1, MAX_FAILED_STEPS + 1), ValueError("gone"))
    for request_id in range(1, MAX_FAILED_STEPS):
        bench.step(Submit(make_request(request_id, [1])))

    with pytest.raises(ValueError, match="gone"):
        bench.step(Submit(make_request(9, [1])))


def test_the_thread_serves_what_arrives(bench):
    """
    Outputs come out of the thread without anybody calling a step.
    """
    delivered = queue.Queue()
    bench.deliver = delivered.put
    bench.inbox.put(Submit(make_request(1, [1], max_new_tokens=1)))
    bench.engine.start()

    assert [o.token_id for o in delivered.get(timeout=60)] == expected_output([1], 1)
    bench.engine.stop()
    assert bench.engine.join(60.0)


def test_what_is_left_when_it_stops_ends_with_a_last_word(bench):
    """
    Nothing is let in afterwards, and the last report holds nothing.
    """
    bench.inbox.put(Submit(make_request(1, [1], ticket=Ticket(charge(1, 4), 1))))
    bench.engine.stop()
    bench.engine.start()

    assert bench.engine.join(60.0)
    assert [type(output.error) for output in bench.outputs] == [Stopping]
    assert bench.reports[-1].holding_tokens == 0
    assert bench.reports[-1].accepted[0] == (5, 4, 1, 1, 1)
    with pytest.raises(Stopping):
        bench.inbox.put(Settle(charge(2, 1)))
    assert not bench.fatal


def test_a_failure_of_the_loop_itself_is_told(bench):
    """
    The thread does not die silently.
    """
    bench.runner.warm_up = lambda wake: 1 / 0
    bench.engine.start()

    assert bench.engine.join(10.0)
    assert isinstance(bench.fatal[0], ZeroDivisionError)


def test_an_arrival_wakes_an_idle_loop():
    """
    The wait ends with the arrival, not with the time-out.
    """
    inbox = Inbox()
    inbox.put(Abort(1))

    assert inbox.take(timeout_s=3600.0) == [Abort(1)]
    inbox.close()
    assert inbox.take(timeout_s=3600.0) == []


def test_the_runner_hears_that_there_is_nothing_to_compute(bench):
    """
    At every round without a plan, and at none with one.
    """
    bench.step(Submit(make_request(1, [1] * 3, max_new_tokens=1)))
    assert bench.runner.num_rests == 0

    bench.step()
    bench.step()

    assert bench.runner.num_rests == 2


def test_the_runner_hears_that_the_loop_is_to_end(bench):
    """
    What waits for others in the middle of a step would hold it up.
    """
    bench.engine.stop()

    assert bench.runner.is_stopped
