import logging
from dataclasses import dataclass

import pytest

from router.ping import Ping
from router.pulse import Answer
from tests.router.sleepers import asking

GIVEN, MISSED, *_ = Answer

pytestmark = pytest.mark.anyio


@dataclass
class Asked:
    """A child that answers as it is told."""

    pid: int
    answers: list
    returncode: int | None = None
    kills: int = 0

    def kill(self):
        self.kills += 1
        self.returncode = -9


class OneUnit:
    name = "rank 7"

    def __init__(self, child):
        self.child = child
        self.question = asking(self.ask)
        self.num_answered = 0

    def answered(self):
        self.num_answered += 1

    async def ask(self, pid):
        assert pid == self.child.pid
        return self.child.answers.pop(0)


async def test_a_child_is_killed_at_its_second_miss_and_not_at_the_first(caplog):
    """
    With one line that names it.
    """
    child = Asked(11, [GIVEN, MISSED, GIVEN, MISSED, MISSED])
    pinging = Ping(unit := OneUnit(child))
    for _ in range(4):
        await pinging.once()
    assert (child.kills, caplog.messages) == (0, [])
    assert unit.num_answered == 2

    await pinging.once()

    assert child.kills == 1
    assert caplog.messages == ["rank 7 (pid 11) does not answer and is killed"]
    assert caplog.records[0].levelno == logging.ERROR


async def test_the_misses_of_one_life_are_not_the_next_ones():
    """
    A new process begins with none.
    """
    unit = OneUnit(Asked(11, [MISSED]))
    pinging = Ping(unit)
    await pinging.once()
    unit.child = Asked(12, [MISSED, MISSED])

    await pinging.once()
    assert unit.child.kills == 0

    await pinging.once()
    assert unit.child.kills == 1


@pytest.mark.parametrize("child", [None, Asked(11, [], returncode=3)])
async def test_nobody_is_asked_between_two_lives(child):
    """
    There is nobody to answer.
    """
    await Ping(OneUnit(child)).once()


async def test_a_child_that_ended_while_it_was_asked_is_not_killed():
    """
    Its number may be another's by then.
    """
    child = Asked(11, [MISSED, MISSED])
    unit = OneUnit(child)

    async def ask(pid):
        child.returncode = 0
        return MISSED

    pinging = Ping(unit)
    await pinging.once()
    unit.question = asking(ask)
    await pinging.once()

    assert child.kills == 0


async def test_an_answer_of_a_life_that_has_ended_meanwhile_is_not_the_next_ones():
    """
    That one has yet to answer.
    """
    unit = OneUnit(Asked(11, []))

    async def ask(pid):
        unit.child = Asked(12, [])
        return GIVEN

    unit.question = asking(ask)
    await Ping(unit).once()

    assert unit.num_answered == 0
