"""What reports of ranks in lock step say of the step that all have computed."""

from tests.balancer.loads import report
from workers.lockstep.common_step import CommonStep
from workers.lockstep.row import StepRow, Timing, Work


def row(dp_rank, tokens=0, prefill=0, step_ns=0, is_leader=True, **figures):
    own = report(dp_rank, **figures) if is_leader else None
    work = Work(num_tokens=tokens, prefill_tokens=prefill)
    return StepRow(work, Timing(step_ns, 0), False, 0, own)


def told(reports):
    return [(r.dp_rank, r.num_steps, r.step_time_ns, r.step_prefill_tokens) for r in reports]


def test_before_the_first_step_there_is_no_time():
    """
    Whatever a rank thinks of its last one.
    """
    assert told(CommonStep().reports([row(0, 7, 7, step_ns=5), row(1)])) == [
        (0, 0, 0, 0),
        (1, 0, 0, 0),
    ]


def test_a_group_that_joined_with_nothing_tells_the_step_that_all_have_computed():
    """
    The slowest rank's time; of prompts it has computed none, whatever its own last step did.
    """
    step = CommonStep()
    step.reports([row(0, 7, 6), row(1)])

    reports = step.reports(
        [
            row(0, 1, step_ns=39, num_steps=3, step_time_ns=41, step_prefill_tokens=6),
            row(1, step_ns=40, num_steps=90, step_time_ns=999, step_prefill_tokens=50),
        ]
    )

    assert told(reports) == [(0, 1, 40, 6), (1, 1, 40, 0)]


def test_rounds_in_which_nobody_computes_change_nothing_of_the_last_step():
    """
    It is told again with every heartbeat; the holdings are those of now.
    """
    step = CommonStep()
    step.reports([row(0, 7, 6), row(1, 1)])
    for tokens in (5, 4):
        reports = step.reports([row(0, step_ns=9, holding_tokens=tokens), row(1, step_ns=8)])

        assert told(reports) == [(0, 1, 9, 6), (1, 1, 9, 0)]
        assert reports[0].holding_tokens == tokens


def test_ranks_that_lead_no_group_report_nothing():
    """
    But their time counts.
    """
    step = CommonStep()
    step.reports([row(0, 7, 6), row(0, 7, is_leader=False), row(1, 3, 3), row(1, is_leader=False)])
    reports = step.reports(
        [row(0), row(0, step_ns=70, is_leader=False), row(1), row(1, is_leader=False)]
    )

    assert told(reports) == [(0, 1, 70, 6), (1, 1, 70, 3)]
