"""The row of a step gather."""

from hypothesis import given
from hypothesis import strategies as st

from tests.workers.fakes import make_report, make_request
from workers.engine.plan import Chunk, Plan
from workers.lockstep.row import NOTHING, StepRow, Timing, Work

words = st.integers(0, 2**62)


@given(
    st.builds(Work, *[words] * len(Work._fields)),
    st.builds(Timing, words, words),
    st.booleans(),
    words,
    st.one_of(st.none(), st.builds(make_report, st.integers(0, 9), st.integers(1, 2**62))),
)
def test_a_row_is_read_as_it_was_written(work, timing, is_leaving, num_plan_words, report):
    """
    With a report or without; all rows of an instance have one length.
    """
    row = StepRow(work, timing, is_leaving, num_plan_words, report)
    written = row.to_words(num_front_doors=1)

    assert len(written) == StepRow.num_words(1)
    assert StepRow.from_words(written) == row


def test_the_work_of_a_plan():
    """
    A prompt's last 3 of 5 tokens see 3 + 4 + 5; a decode at position 9 sees 10.
    """
    prefill, decode = make_request(1, [7] * 5), make_request(2, [7] * 10)
    chunks = (Chunk(prefill, 2, 3, [0]), Chunk(decode, 9, 1, [1]))

    work = Work.of(Plan(chunks, 3, ()))

    assert work == Work(4, 2, 2, 15, 3, 22)
    assert Work.of(Plan((), 0, ())) == NOTHING
