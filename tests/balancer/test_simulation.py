import dataclasses

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from balancer.methods import METHODS
from balancer.simulation.job import Outcome
from balancer.simulation.settings import Death, Mode, Pace, Prefill
from balancer.simulation.simulation import Simulation, simulate
from balancer.waiting_room import Admission, PrefillAlign, WaitingRules
from tests.balancer.simulated import LIMITS, settings, traffic


def run(simulation):
    """To the end, with all books checked after each event; returns the jobs."""
    for num_ended in simulation.events():
        simulation.check_integrity()
        assert num_ended == sum(job.outcome is not None for job in simulation.jobs)
    return simulation.jobs


def outcomes(jobs):
    return [job.outcome for job in jobs]


# Known cases, worked out by hand


def test_one_request_takes_the_time_of_its_steps():
    """
    10 ms, 10 for the request, and its KV: 4, then 5 ms.  The other group is empty.
    """
    figures = simulate(traffic((0.0, 4, 2)), settings(), "round_robin", seed=0)

    assert figures.ttft_p50_s == pytest.approx(0.024)
    assert figures.tpot_p50_s == pytest.approx(0.025)
    assert figures.slowdown == pytest.approx(49 / (17 + 17.5))
    assert figures.kv_max_over_mean == pytest.approx(2)
    assert figures.barrier_idle == pytest.approx((49 - 34.5) / 49)
    assert (figures.goodput, figures.requests, figures.completed) == (1.0, 1, 1)


def test_a_step_lasts_as_long_as_the_slowest_groups():
    """
    Round robin puts 10 tokens here and 2 there: both wait for the 10.
    """
    jobs = run(Simulation(traffic((0.0, 10, 1), (0.0, 2, 1)), settings(), "round_robin", 0))

    assert [job.ended_s for job in jobs] == [pytest.approx(0.030)] * 2


def test_independent_groups_wait_for_nobody():
    """
    The same two: 30 ms and 22 ms, and nobody idles at a barrier.
    """
    alone = settings(pace=Pace.INDEPENDENT)
    simulation = Simulation(traffic((0.0, 10, 1), (0.0, 2, 1)), alone, "round_robin", 0)

    jobs = run(simulation)

    assert [job.ended_s for job in jobs] == [pytest.approx(0.030), pytest.approx(0.022)]
    assert simulation.figures().barrier_idle == 0


def test_a_unified_group_computes_the_prompt_first():
    """
    16 + 4 tokens: 42 and 18 ms; then a step for the second token: 10 + 10 + 21.
    """
    unified = settings(1, mode=Mode.UNIFIED)
    (only,) = run(Simulation(traffic((0.0, 20, 2)), unified, "round_robin", 0))

    assert only.first_s == pytest.approx(0.042 + 0.018)
    assert only.ended_s == pytest.approx(0.060 + 0.041)


def test_equal_requests_that_fill_all_groups_alike_are_perfect_balance():
    """
    Whatever the method is that counts: slow-down 1, to the last bit that matters.
    """
    asked = traffic(*[(0.0, 5, 7)] * 24)
    for method in ("round_robin", "least_requests", "minimum_tokens"):
        figures = simulate(asked, settings(8), method, seed=3)

        assert figures.slowdown == pytest.approx(1.0)
        assert figures.kv_max_over_mean == pytest.approx(1.0)
        assert figures.barrier_idle == pytest.approx(0.0)


def test_a_request_that_arrives_during_a_step_waits_for_the_next():
    """
    The step from 0 to 24 ms is under way at 10 ms: the second's first token comes with the next.
    """
    asked = traffic((0.0, 4, 2), (0.010, 4, 1))
    _, late = run(Simulation(asked, settings(1), "round_robin", 0))

    assert late.first_s == pytest.approx(0.024 + 0.010 + 5e-3 + 4e-3 + 0.020)


def test_clients_of_closed_traffic_ask_again_when_they_are_answered():
    """
    One client, three requests: one after the other, without a gap.
    """
    asked = traffic(*[(0.0, 4, 1)] * 3, num_clients=1)
    jobs = run(Simulation(asked, settings(1), "round_robin", 0))

    assert [job.arrival_s for job in jobs[1:]] == [job.ended_s for job in jobs[:-1]]


# What the door sees


def test_a_decision_sees_what_was_dispatched_since_the_last_report():
    """
    Four at one instant, with reports that never come: in flight counts, so two go to each group.
    """
    late = settings(report_delay_steps=1000)
    simulation = Simulation(traffic(*[(0.0, 4, 1)] * 4), late, "minimum_tokens", 0)

    jobs = run(simulation)

    assert sorted(job.assignment.dp_rank for job in jobs) == [0, 0, 1, 1]


def test_a_report_is_seen_as_many_steps_later_as_told():
    """
    Three small requests outgrow a large one: 3 * (1 + s) tokens against 15 + s, after s steps.

    An arrival in the twelfth step or so is sent to the large one if that is seen, and to the
    small ones if it is not: seven steps earlier they had fewer.
    """
    for delay, expected in ((0, {True}), (7, {False})):
        chosen = set()
        for seed in range(8):
            first = [(at_s / 1e4, 1, 20) for at_s in (1, 2, 3)]
            asked = traffic((0.0, 15, 20), *first, (0.75, 1, 1))
            door = settings(report_delay_steps=delay)
            large, *small, late = run(Simulation(asked, door, "minimum_tokens", seed))
            assert {one.assignment.dp_rank for one in small} == {1 - large.assignment.dp_rank}
            chosen.add(late.assignment.dp_rank == large.assignment.dp_rank)
        assert chosen == expected


def test_what_has_ended_counts_no_more_whatever_the_reports_still_hold():
    """
    Reports are three steps late, and hold 20 tokens of a request that is over where the
    other group has one that has grown to 8: the next goes where nothing is left.
    """
    for seed in range(8):
        asked = traffic((0.0, 20, 2), (0.0, 1, 8), (0.115, 4, 1))
        door = settings(report_delay_steps=3)
        long, short, late = run(Simulation(asked, door, "minimum_tokens", seed))

        assert long.ended_s < late.arrival_s < short.ended_s
        assert late.assignment.dp_rank == long.assignment.dp_rank


def test_groups_of_the_simulator_tell_what_has_ended():
    """
    Of everything that was sent, in the end; and a front door that is never told takes nothing off.
    """
    asked = traffic(*[(n / 10, 5, 3) for n in range(12)], (2.0, 100, 3))
    simulation = Simulation(asked, settings(report_delay_steps=0), "round_robin", 0)
    jobs = run(simulation)

    for rank, member in enumerate(simulation.members):
        mine = [job for job in jobs if job.assignment.dp_rank == rank]
        assert member.group.ended.requests == member.group.accepted_requests == len(mine)
        assert (
            Outcome.REFUSED in {job.outcome for job in mine} or rank != jobs[-1].assignment.dp_rank
        )
    told = [simulation.door.controller.ledger.report(rank).accepted[0] for rank in range(2)]
    assert all(0 < one.ended_requests <= one.requests for one in told)


def test_reports_tell_what_the_step_is_computing():
    """
    20 prompt tokens and 16 in a step: 20 are to be computed as the first begins, 16 of them now.
    """
    unified = settings(num_groups=1, mode=Mode.UNIFIED, report_delay_steps=0)
    simulation = Simulation(traffic((0.0, 20, 2), (0.05, 4, 1)), unified, "round_robin", 0)
    for _ in simulation.events():
        if simulation.jobs[1].assignment is not None:
            break

    told = simulation.door.controller.ledger.report(0)
    assert (told.waiting_uncached_tokens, told.computing_tokens, told.kv_used_tokens) == (4, 4, 16)


def end_of_step(number, simulation):
    """When the groups end their step of that number."""
    for _ in simulation.events():
        if simulation.members[0].group.num_steps == number:
            return simulation.now_s
    raise AssertionError(f"no step {number}")


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_an_arrival_at_a_steps_very_end_sees_no_fresher_report_than_the_delay_allows(delay):
    """
    With the sixth step three small requests come to hold more than the large one: 3 * s after
    s steps, for they begin with the second, and 11 + s.
    """
    asked = [(0.0, 11, 20), *[(at_s / 1e4, 1, 20) for at_s in (1, 2, 3)]]
    at_delay = settings(report_delay_steps=delay)
    ended_s = end_of_step(6, Simulation(traffic(*asked), at_delay, "minimum_tokens", 0))

    asked.append((ended_s, 1, 1))
    large, *small, late = run(Simulation(traffic(*asked), at_delay, "minimum_tokens", 0))

    assert {one.assignment.dp_rank for one in small} == {1 - large.assignment.dp_rank}
    assert late.assignment.dp_rank == small[0].assignment.dp_rank


@pytest.mark.parametrize(("delay", "held"), [(0, 0), (1, 20)])
def test_groups_report_again_before_they_answer_if_reports_take_no_step(delay, held):
    """
    As live ones do.  Whoever asks again goes where 20 tokens have just ended, and not where 8
    go on: what is over counts no more, whatever the report that he finds still holds.
    """
    asked = traffic((0.0, 20, 2), (0.0, 8, 30), (0.0, 4, 1), num_clients=2)
    door = settings(report_delay_steps=delay)
    simulation = Simulation(asked, door, "minimum_tokens", 0)
    ended, _, follower = simulation.jobs
    events = simulation.events()
    while follower.assignment is None:
        next(events)

    assert follower.arrival_s == ended.ended_s
    assert follower.assignment.dp_rank == ended.assignment.dp_rank
    found = simulation.door.controller.ledger.report(ended.assignment.dp_rank)
    assert found.holding_tokens == held


def test_lost_reports_leave_the_books_to_stand_in():
    """
    With every report lost the front door counts what it sent and what has streamed.
    """
    deaf = settings(report_loss=1.0)
    asked = traffic(*[(n / 100, 4, 6) for n in range(30)])
    simulation = Simulation(asked, deaf, "minimum_tokens", 0)

    jobs = run(simulation)

    assert simulation.door.controller.ledger.report(0) is None
    assert 10 <= sum(job.assignment.dp_rank for job in jobs) <= 20


def test_books_grow_with_what_has_streamed():
    """
    4 tokens of prompt that have grown for ten steps weigh more than 8 that came just now.
    """
    deaf = settings(report_loss=1.0)
    asked = traffic((0.0, 4, 30), (0.3, 8, 9), (0.35, 4, 1))

    grown, young, third = run(Simulation(asked, deaf, "minimum_tokens", 0))

    assert grown.assignment.dp_rank != young.assignment.dp_rank
    assert third.assignment.dp_rank == young.assignment.dp_rank


def test_a_request_that_no_group_can_take_waits_for_room():
    """
    One runs and nobody may queue: the second goes when a heartbeat tells that the first has ended.

    The first of the last two can never fit: after its refusal nothing else would wake the other.
    """
    tight = settings(
        1, limits=dataclasses.replace(LIMITS, max_running_requests=1, max_queued_requests=0)
    )
    asked = traffic((0.0, 4, 5), (0.01, 4, 1), (1.0, 80, 1), (1.0, 4, 1))

    jobs = run(Simulation(asked, tight, "minimum_tokens", 0))

    assert [outcome.value for outcome in outcomes(jobs)] == [
        *("completed", "completed", "refused", "completed"),
    ]
    assert jobs[1].first_s > jobs[0].ended_s


# Who waits in front of the groups


def late(num_groups=2, **others):
    return settings(num_groups, waiting=WaitingRules(Admission.LATE), **others)


def held(num_groups=2, max_hold_s=1.0, **others):
    rules = WaitingRules(prefill_align=PrefillAlign.HOLD, max_hold_s=max_hold_s)
    return settings(num_groups, waiting=rules, **others)


def test_a_late_request_goes_where_room_appears_first():
    """
    66 tokens of 80 here and 60 there for longer: sent at once it waits behind the longer one.
    """
    asked = traffic((0.0, 60, 9), (0.0, 66, 2), (0.01, 40, 1))

    behind = run(Simulation(asked, settings(), "minimum_tokens", 0))
    kept = run(Simulation(asked, late(), "minimum_tokens", 0))

    assert behind[2].assignment.dp_rank == behind[0].assignment.dp_rank
    assert kept[2].assignment.dp_rank == kept[1].assignment.dp_rank
    assert kept[2].first_s < behind[2].first_s


def test_a_late_request_that_can_never_fit_is_refused_all_the_same():
    """
    By a group, while others run; those behind it go on.
    """
    jobs = run(Simulation(traffic((0.0, 60, 9), (0.01, 90, 1), (0.02, 4, 1)), late(1), "auto", 0))

    assert outcomes(jobs) == [Outcome.COMPLETED, Outcome.REFUSED, Outcome.COMPLETED]


def test_prompts_that_are_held_are_computed_in_one_step():
    """
    The second comes 30 ms after the first, while a third decodes: they go together.
    """
    asked = traffic((0.0, 1, 40), (0.1, 16, 1), (0.13, 16, 1))
    unified = {"mode": Mode.UNIFIED, "prefill": Prefill.FIRST}
    apart = run(Simulation(asked, settings(**unified), "minimum_tokens", 0))
    together = run(Simulation(asked, held(**unified), "minimum_tokens", 0))

    assert apart[1].first_s < apart[2].first_s
    assert together[1].first_s == together[2].first_s
    assert together[1].assignment.dp_rank != together[2].assignment.dp_rank


def test_a_held_prompt_goes_after_the_limit_and_at_once_if_nothing_runs():
    """
    The first finds idle groups; the second is alone for its 200 ms.
    """
    asked = traffic((0.5, 1, 40), (0.6, 4, 1))
    first, second = run(Simulation(asked, held(max_hold_s=0.2), "minimum_tokens", 0))

    assert first.first_s < first.arrival_s + 0.03
    assert 0.2 < second.first_s - second.arrival_s < 0.26


# Deaths


def test_a_death_loses_who_has_a_token_and_moves_who_has_none():
    """
    Group 0 dies in the second step: one of its requests has streamed, the other waits.
    """
    asked = traffic((0.0, 40, 9), (0.0, 1, 1), (0.0, 38, 3))
    mortal = settings(1, deaths=(Death(0.100, 0, 0.01, 0.5),))
    streamed, over, waiting = run(Simulation(asked, mortal, "round_robin", 0))

    assert outcomes((streamed, over, waiting)) == [
        Outcome.LOST,
        Outcome.COMPLETED,
        Outcome.COMPLETED,
    ]
    assert waiting.first_s == pytest.approx(0.600 + 0.058)
    assert waiting.assignment.group_epoch == 2


def test_a_request_for_a_group_that_is_dead_and_not_known_to_be_goes_to_another():
    """
    Its charge is taken back: nothing of it reached the group.
    """
    asked = traffic((0.2, 4, 1), (0.5, 4, 1), (0.5, 4, 1))
    mortal = settings(deaths=(Death(0.25, 0, noticed_after_s=10.0),))
    simulation = Simulation(asked, mortal, "round_robin", 0)

    jobs = run(simulation)

    assert outcomes(jobs) == [Outcome.COMPLETED] * 3
    assert {job.assignment.dp_rank for job in jobs[1:]} == {1}
    assert simulation.door.controller.ledger.in_flight(0) == (0, 0)


def test_a_dead_groups_cache_is_gone():
    """
    The same prompt again, after the death of the only group that had it: nothing is cached.
    """
    asked = traffic(*[(at, 8, 1, (1, 2)) for at in (0.0, 1.0, 3.0)], page_size=4)
    mortal = settings(1, mode=Mode.UNIFIED, deaths=(Death(2.0, 0, 0.1, 0.5),))
    jobs = run(Simulation(asked, mortal, "slack_affinity", 0))

    assert [job.cached_tokens for job in jobs] == [0, 4, 0]


# Whatever happens

_requests = st.lists(
    st.tuples(
        st.floats(0, 2),
        st.integers(1, 90),
        st.integers(1, 12),
        st.integers(0, 2).flatmap(
            lambda chat: st.integers(0, 6).map(lambda n: tuple(100 * chat + k for k in range(n)))
        ),
    ).map(lambda r: (*r[:3], r[3][: r[1] // 4])),
    min_size=1,
    max_size=40,
)
_deaths = st.lists(
    st.builds(Death, st.floats(0, 3), st.integers(0, 2), st.floats(0, 0.5), st.floats(0, 2)),
    max_size=4,
)
_settings = st.builds(
    lambda deaths, **others: settings(3, deaths=tuple(deaths), **others),
    _deaths,
    mode=st.sampled_from(Mode),
    prefill=st.sampled_from(Prefill),
    pace=st.sampled_from(Pace),
    report_delay_steps=st.integers(0, 3),
    report_loss=st.sampled_from((0.0, 0.5)),
    max_load_age_s=st.sampled_from((0.05, 2.0)),
    waiting=st.builds(
        WaitingRules,
        st.sampled_from(Admission),
        st.sampled_from(PrefillAlign),
        max_hold_s=st.sampled_from((0.0, 0.05, 1.0)),
        max_waiting_requests=st.just(1000),
        max_overtaken_s=st.sampled_from((0.0, 0.1, 5.0)),
    ),
    limits=st.builds(
        dataclasses.replace,
        st.just(LIMITS),
        max_running_requests=st.integers(1, 4),
        max_queued_requests=st.integers(0, 9),
    ),
)


@hypothesis_settings(deadline=None, max_examples=150)
@given(_requests, _settings, st.sampled_from(sorted(METHODS)), st.integers(0, 3))
def test_every_request_ends_once_and_all_books_add_up(requests, chosen, method, seed):
    """
    Under retraction, refusal, death and loss; KV never over capacity (check_integrity).
    """
    asked = traffic(*sorted(requests), page_size=4)
    simulation = Simulation(asked, chosen, method, seed)

    jobs = run(simulation)

    for job in jobs:
        assert job.outcome is not None
        assert job.ended_s is not None
        if job.outcome is Outcome.COMPLETED:
            assert job.arrival_s < job.first_s <= job.ended_s
            assert job.num_produced == job.request.output_tokens
        else:
            assert chosen.deaths or job.most_tokens > 76
    assert simulation.door.controller.books() == [(0, 0)] * 3
    figures = simulation.figures()
    if chosen.pace is Pace.LOCKSTEP and figures.slowdown is not None:
        assert figures.slowdown > 0.999999
    assert figures.completed == sum(job.outcome is Outcome.COMPLETED for job in jobs)


@hypothesis_settings(deadline=None, max_examples=25)
@given(_requests, _settings, st.sampled_from(sorted(METHODS)), st.integers(0, 3))
def test_a_seed_decides_everything(requests, chosen, method, seed):
    """
    The same arguments give the same figures, to the last bit.
    """
    asked = traffic(*sorted(requests), page_size=4)

    assert simulate(asked, chosen, method, seed) == simulate(asked, chosen, method, seed)


def test_a_seed_decides_when_requests_of_a_coarse_clock_arrive():
    """
    Another seed spreads them otherwise.
    """
    asked = traffic(*[(float(n // 10), 4, 5) for n in range(50)])
    figures = [simulate(asked, settings(), "minimum_tokens", seed) for seed in (1, 1, 2)]

    assert figures[0] == figures[1] != figures[2]


def test_progress_is_told_up_to_the_last_request():
    """
    Never less than before.
    """
    told = []
    asked = traffic(*[(n / 10, 4, 3) for n in range(9)])

    simulate(asked, settings(), "random", 0, on_progress=told.append)

    assert told == sorted(told)
    assert told[-1] == 9
