"""The chaos run's own judgement: it sees what it is there to see."""

import json

import pytest

from shm.board import Cell
from shm.load import Accepted
from tests.faults.chaos.audit import LawBook
from tests.faults.chaos.judgement import Doors, Outcome, judge
from tests.faults.chaos.plan import Act, make_plan, num_kills
from tests.faults.chaos.reading import End, read_answer
from tests.faults.chaos.report import Report
from tests.figures import load_report

TEXT = "one two two three"
PIECES = ("one ", "two ", "two ", "three")
DONE = b"data: [DONE]\n\n"
ERROR = {"error": {"message": "lost", "type": "upstream_error", "param": None, "code": "x"}}
CLEAN = Report(1, 60, 100, 90, 10, 0, 0, 0, 0, 0, 0, 0)


def chunk(text, reason=None):
    return event({"choices": [{"index": 0, "text": text, "finish_reason": reason}]})


def event(told):
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def stream_of(pieces):
    return b"".join(chunk(piece) for piece in pieces[:-1]) + chunk(pieces[-1], "length")


def outcome(body, end=End.WHOLE, status=200, is_stream=True, doors=Doors(), ended_s=10.0):  # noqa: B008
    reading = read_answer(
        body, is_stream=is_stream, status=status, end=end, began_s=5.0, ended_s=ended_s
    )
    return judge(reading, TEXT, doors).outcome


def whole(text, reason="length"):
    return json.dumps({"choices": [{"text": text, "finish_reason": reason}]}).encode()


def test_a_stream_with_the_whole_text_and_done_is_completed():
    """
    Nothing less is.
    """
    assert outcome(stream_of(PIECES) + DONE) is Outcome.COMPLETED


def test_a_whole_answer_with_the_whole_text_is_completed():
    """
    The same of an answer in one piece.
    """
    assert outcome(whole(TEXT), is_stream=False) is Outcome.COMPLETED


@pytest.mark.parametrize(
    "body",
    [
        stream_of(PIECES),  # no [DONE]
        stream_of(("one ", "two ", "two ", "two ", "three")) + DONE,  # a token twice
        stream_of(("one ", "two ", "three")) + DONE,  # a token missing
        stream_of(PIECES[:-1]) + DONE,  # too short
        stream_of(PIECES) + DONE + DONE,  # ended twice
        stream_of(PIECES) + DONE + chunk("more"),
        stream_of(PIECES[:2]) + event(ERROR) + event(ERROR),  # two errors
        stream_of(PIECES[:2]) + event(ERROR) + chunk("two "),  # and on it goes
        stream_of(PIECES[:2]) + event({"error": "lost"}),  # not OpenAI's shape
        stream_of(PIECES[:2]) + b'data: {"choi\n\n' + DONE,  # half an event
        stream_of(PIECES[:2]) + b"data: [DO",
        b"",
    ],
)
def test_a_stream_that_is_not_right_is_lost(body):
    """
    Also when a front door died at that very moment: nothing of this is a broken connection.
    """
    assert outcome(body, doors=Doors((10.0,))) is Outcome.LOST


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (whole("one two two"), 200),
        (whole("one two two two three"), 200),
        (whole(TEXT, reason="stop"), 200),
        (b"gateway", 502),
        (json.dumps(ERROR).encode(), 400),  # the request was right
        (json.dumps(ERROR).encode(), 421),  # none of the client's business
        (json.dumps(ERROR).encode(), 200),
    ],
)
def test_a_whole_answer_that_is_not_right_is_lost(body, status):
    """
    A wrong text, a status that a right request must not get, an error that nobody can read.
    """
    assert outcome(body, status=status, is_stream=False) is Outcome.LOST


def test_an_error_body_and_an_error_event_are_one_clear_error():
    """
    With a status, or as the last event of a stream.
    """
    error = json.dumps(ERROR).encode()
    assert outcome(error, status=503) is Outcome.ERRORED
    assert outcome(error, status=502, is_stream=False) is Outcome.ERRORED
    assert outcome(stream_of(PIECES[:2]) + event(ERROR)) is Outcome.ERRORED


@pytest.mark.parametrize("end", [End.EOF, End.RESET])
def test_a_broken_connection_is_an_error_only_when_a_front_door_died_just_then(end):
    """
    Later, earlier, or with nobody dead, the request is lost.
    """
    cut = stream_of(PIECES[:2])

    assert outcome(cut, end, doors=Doors((9.8,))) is Outcome.ERRORED
    assert outcome(cut, end, doors=Doors((6.0,))) is Outcome.LOST
    assert outcome(cut, end, doors=Doors((11.0,))) is Outcome.LOST
    assert outcome(cut, end) is Outcome.LOST


def test_a_wrong_text_is_lost_even_where_its_connection_broke():
    """
    A death explains an end, and nothing that came before it.
    """
    cut = stream_of(("one ", "two ", "three"))
    assert outcome(cut, End.RESET, doors=Doors((10.0,))) is Outcome.LOST


def test_a_refused_connection_is_an_error_only_while_nobody_listened():
    """
    With one front door alive the kernel must not refuse anybody.
    """
    assert outcome(b"", End.REFUSED, None, doors=Doors((), ((9.0, 10.2),))) is Outcome.ERRORED
    assert outcome(b"", End.REFUSED, None, doors=Doors((), ((3.0, 4.0),))) is Outcome.LOST


def test_a_client_that_left_is_abandoned_unless_it_read_something_wrong():
    """
    Leaving excuses the rest of the answer only.
    """
    assert outcome(stream_of(PIECES[:2]), End.LEFT) is Outcome.ABANDONED
    assert outcome(b"", End.LEFT, None) is Outcome.ABANDONED
    assert outcome(stream_of(("one ", "three")), End.LEFT) is Outcome.LOST


def test_silence_is_hung():
    """
    Whatever had come before.
    """
    assert outcome(stream_of(PIECES[:2]), End.SILENT) is Outcome.HUNG


def report_of(accepted_tokens, accepted_requests=1, front_door_epoch=7):
    accepted = (Accepted(front_door_epoch, accepted_tokens, accepted_requests, 0, 0),)
    return load_report(0, group_epoch=3, accepted=accepted)


def test_accepted_beyond_dispatched_is_counted_once_while_it_lasts():
    """
    A charge that was counted twice shows as less than nothing in flight.
    """
    book, cells = LawBook(), [Cell(7, 3, 10, 1, 0, 0, 0, 0)]

    assert book.look(report_of(10), cells) == (0, 0)
    assert book.violations == []
    book.look(report_of(20, 2), cells)
    book.look(report_of(20, 2), cells)
    assert [violation.flying for violation in book.violations] == [(-10, -1)]
    book.look(report_of(10), cells)
    book.look(report_of(10, 2), cells)
    assert len(book.violations) == 2


def test_what_belongs_to_an_earlier_epoch_is_no_violation():
    """
    Neither an earlier life of the group nor one of the front door.
    """
    book = LawBook()
    book.look(report_of(20), [Cell(7, 2, 10, 1, 0, 0, 0, 0)])
    book.look(report_of(20, front_door_epoch=6), [Cell(7, 3, 10, 1, 0, 0, 0, 0)])

    assert book.violations == []


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_of_five_minutes_kills_at_least_fifty_times(seed):
    """
    The same seed, the same plan.
    """
    plan = make_plan(seed, 300)
    kills = sum(fault.act is Act.KILL or fault.then_kill for fault in plan)

    assert kills == num_kills(300) >= 50
    assert plan == make_plan(seed, 300)


def test_every_one_of_the_last_seven_figures_fails_a_run():
    """
    And so does a run in which nothing was killed or nothing came through.
    """
    fatal = ("lost", "double_counted", "hung", "ledger_residue_tokens", "leaked_pages",
             "leaked_segments", "leaked_processes")  # fmt: skip
    assert CLEAN.is_clean
    assert list(json.loads(CLEAN.line()))[-7:] == list(fatal)
    for name in fatal:
        assert not Report(**json.loads(CLEAN.line()) | {name: 1}).is_clean
    assert not Report(**json.loads(CLEAN.line()) | {"kills": 0}).is_clean
    assert not Report(**json.loads(CLEAN.line()) | {"completed": 0}).is_clean
