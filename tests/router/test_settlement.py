"""Questions about charges: asked until they are answered, or until what they are about is over."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import orjson
import pytest

from balancer.assignment import Assignment
from router.front_door.settlement import Settlement
from router.front_door.upstream import Address
from router.front_door.upstream_pool import UpstreamPool
from tests.router.fakes import soon, turns, until
from tests.router.groups import FakeGroup, refusing_port

pytestmark = pytest.mark.anyio


def assignment(number=1, epoch=11):
    return Assignment(f"{number:016x}", 0, epoch, 100 + number, number, 100 + number)


class Pauses:
    """Sleeps that end when the test says so."""

    def __init__(self):
        self.lengths_s = []
        self._pausing = []

    async def __call__(self, length_s):
        self.lengths_s.append(length_s)
        pausing = asyncio.get_running_loop().create_future()
        self._pausing.append(pausing)
        await pausing

    async def end_next(self, number):
        """Wait for the number-th pause, and end it."""
        await until(lambda: len(self._pausing) >= number)
        self._pausing[number - 1].set_result(None)


class Asker:
    """A settlement, and all that it is given."""

    def __init__(self, answer_limit_s):
        self.epoch = 11
        self.epoch_of = lambda dp_rank: self.epoch
        self.outcomes = Counter()
        self.pauses = Pauses()
        self.pool = UpstreamPool(asyncio.get_running_loop())
        self.settlement = Settlement(
            self.pool,
            "3/77",
            lambda dp_rank: self.epoch_of(dp_rank),
            self.outcomes,
            self.pauses,
            answer_limit_s,
        )

    def ask(self, port, *assignments):
        for each in assignments:
            self.settlement.ask(Address("127.0.0.1", port), each)

    async def over(self):
        await until(lambda: self.settlement.num_open == 0)


@asynccontextmanager
async def asking(answer_limit_s=10.0):
    asker = Asker(answer_limit_s)
    try:
        yield asker
    finally:
        await soon(asker.settlement.stop())
        asker.pool.close()


def answering(group, answers):
    """Let the group give these answers, one for each question: status and body, or None."""
    questions, left = [], list(answers)

    def take(received):
        questions.append(orjson.loads(received.body))
        answer = left.pop(0)
        if answer is None:
            received.abort()
        else:
            received.answer(answer[1], b"%d X" % answer[0])

    group.take = take
    return questions


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b'{"seen":true}', "seen"),
        (200, b'{"seen": true}', "seen"),
        (200, b'{"seen":false}', "unseen"),
        (421, b'{"error":{"code":"wrong_epoch"}}', "epoch_over"),
    ],
)
async def test_an_answer_ends_the_question_and_is_counted(status, body, outcome):
    """
    The question says who asks about which charge, in which life of the group.
    """
    async with FakeGroup.listening() as group, asking() as asker:
        questions = answering(group, [(status, body)])

        asker.ask(group.port, assignment())

        await asker.over()
        assert asker.outcomes == {outcome: 1}
        assert questions == [
            {
                "dp_balance_id": "0000000000000001",
                "front_door": "3/77",
                "charge_tokens": 101,
                "group_epoch": 11,
            }
        ]
        assert asker.pauses.lengths_s == []


@pytest.mark.parametrize("unanswered", [None, (500, b""), (503, b"{}"), (404, b"")])
async def test_a_question_is_asked_until_it_is_answered(unanswered):
    """
    Pauses double up to five seconds, and there is no last try.
    """
    async with FakeGroup.listening() as group, asking() as asker:
        questions = answering(group, [unanswered] * 9 + [(200, b'{"seen":true}')])

        asker.ask(group.port, assignment())
        for number in range(1, 10):
            await asker.pauses.end_next(number)

        await asker.over()
        assert len(questions) == 10
        assert asker.pauses.lengths_s == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]
        assert asker.outcomes == {"seen": 1}


async def test_an_answer_that_settles_nothing_is_told_once(caplog):
    """
    For each line, naming the status; the charge stays open meanwhile.
    """
    async with FakeGroup.listening() as group, asking() as asker:
        odd, lost, seen = (404, b""), None, (200, b'{"seen":true}')
        answering(group, [odd, lost, (500, b""), odd, seen, seen])

        asker.ask(group.port, assignment(1), assignment(2))
        for number in range(1, 5):
            await asker.pauses.end_next(number)
            assert asker.settlement.num_open > 0

        await asker.over()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "DP group 0 answers 404" in caplog.messages[0]
        assert asker.outcomes == {"seen": 2}


async def test_a_mistake_of_ours_drops_no_question(caplog):
    """
    It is told, and what waits in the line is asked as if there had been no answer.
    """
    async with FakeGroup.listening() as group, asking() as asker:

        def fails(dp_rank):
            asker.epoch_of = lambda dp_rank: 11
            raise ZeroDivisionError

        asker.epoch_of = fails
        asker.ask(group.port, assignment(1), assignment(2))
        await asker.pauses.end_next(1)

        await asker.over()
        assert asker.outcomes == {"seen": 2}
        assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


async def test_a_group_that_cannot_be_reached_is_asked_until_its_life_is_over():
    """
    Charges end with the epoch they were sent in.
    """
    with refusing_port() as port:
        async with asking() as asker:
            asker.ask(port, assignment(1), assignment(2))
            for number in range(1, 20):
                await asker.pauses.end_next(number)
            await until(lambda: len(asker.pauses.lengths_s) == 20)
            asker.epoch = 12
            await asker.pauses.end_next(20)

            await asker.over()
            assert asker.outcomes == {"epoch_over": 2}


async def test_a_group_that_takes_the_question_and_is_silent_is_asked_again():
    """
    Over another connection: the answer to the first question might still come.
    """
    async with FakeGroup.listening() as group, asking(answer_limit_s=0.01) as asker:
        take, silent = group.take, []

        def keep_silent(received):
            silent.append(received)
            group.take = take

        group.take = keep_silent
        asker.ask(group.port, assignment())
        await asker.pauses.end_next(1)

        await asker.over()
        assert asker.outcomes == {"seen": 1}
        await until(lambda: silent[0].connection_is_lost)


async def test_questions_about_one_life_wait_in_a_line():
    """
    One connection, however many there are; what is not answered does not stop the others.
    """
    async with FakeGroup.listening() as group, asking() as asker:
        seen = (200, b'{"seen":true}')
        questions = answering(group, [None, *[seen] * 5])

        asker.ask(group.port, *(assignment(number) for number in range(1, 6)))
        await asker.pauses.end_next(1)

        await asker.over()
        asked = [int(each["dp_balance_id"], 16) for each in questions]
        assert asked == [1, 2, 3, 4, 5, 1]
        assert asker.outcomes == {"seen": 5}
        assert len(group.connections) == 2  # the first was lost


async def test_lives_are_asked_beside_each_other():
    """
    A group that does not answer keeps no other group's questions waiting.
    """
    with refusing_port() as port:
        async with FakeGroup.listening() as group, asking() as asker:
            asker.ask(port, assignment(1))
            await until(lambda: asker.pauses.lengths_s)
            asker.ask(group.port, assignment(2))

            await until(lambda: asker.settlement.num_open == 1)
            assert len(group.settled) == 1


async def test_a_stopped_front_door_asks_no_more():
    """
    Its charges end with its own epoch; nothing is left running, whatever it waited for.
    """
    with refusing_port() as port:
        async with FakeGroup.listening() as group, asking() as asker:
            group.take = lambda received: None
            asker.ask(port, assignment(1))
            asker.ask(group.port, assignment(2))
            await until(lambda: asker.pauses.lengths_s and group.connections)
            connection = group.connections[0]

            await soon(asker.settlement.stop())
            asker.ask(port, assignment(3))

            await turns()
            assert asker.settlement.num_open == 0
            await until(lambda: connection.is_lost)
            assert asker.outcomes == {}
