import pytest

from router.pulse import Answer, Patience, Pulse

GIVEN, MISSED, NOT_YET, LEAVING, UNKNOWN = Answer


@pytest.mark.parametrize(
    ("answers", "stopped"),
    [
        ([], False),
        ([MISSED], False),
        ([MISSED, MISSED], True),
        ([MISSED, GIVEN, MISSED], False),
        ([GIVEN, MISSED, MISSED], True),
        ([MISSED, NOT_YET, MISSED], False),
        ([UNKNOWN] * 99, False),
        ([MISSED, UNKNOWN, MISSED], True),
        ([MISSED, UNKNOWN, GIVEN, MISSED], False),
        ([NOT_YET] * 30, False),
        ([NOT_YET] * 31, True),
        ([NOT_YET] * 30 + [GIVEN] + [NOT_YET] * 30, False),
        ([LEAVING] * 20, False),
        ([LEAVING] * 21, True),
        ([MISSED, LEAVING, LEAVING], False),
    ],
)
def test_what_answers_add_up_to(answers, stopped):
    """
    Two misses in a row are too many, and so is a start or an end without end; no evidence is none.
    """
    pulse = Pulse(1)
    for answer in answers:
        pulse = pulse.after(answer)

    assert pulse.has_stopped(Patience(max_not_yet=30, max_leaving=20)) is stopped


@pytest.mark.parametrize("answer", [NOT_YET, LEAVING])
def test_without_a_limit_an_answer_may_be_put_off_for_ever(answer):
    """
    A model may be large and a disk slow.
    """
    pulse = Pulse(1)
    for _ in range(9999):
        pulse = pulse.after(answer)

    assert not pulse.has_stopped(Patience())
