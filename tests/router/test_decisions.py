"""Why requests went where they did: kept by front doors, told by the control plane."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
import orjson
import pytest
from fastapi import FastAPI

from router.control_plane.decision_words import newest
from router.control_plane.decisions import add_decisions
from router.front_door.decision_log import DecisionLog, Occasion, Wanted
from router.front_door.decision_teller import DecisionTeller
from shm.group_table import GroupState
from tests.balancer.test_witness import RequestShape, made
from tests.router.clients import post
from tests.router.failures import refuse, row
from tests.router.fakes import until
from tests.router.site import Site

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def operator(instance):
    """Somebody who asks the control plane."""
    app = FastAPI()
    add_decisions(app, instance)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
        yield client


async def answered(site, rank):
    """Send a request, which that group answers; its dp_balance_id."""
    site.client.send(post())
    (await site.groups[rank].next_request()).answer(b"{}")
    answer = await site.client.response()
    return answer.header(b"x-levelhead-dp-balance-id").decode()


async def test_the_newest_decision_comes_first_with_its_reason():
    """
    As it was made: with the figures of both groups, their age, and who decided when.
    """
    async with Site.opened(2) as site, operator(site.house.instance) as client:
        before = datetime.now(UTC)
        await answered(site, 0)
        site.door.clock.now_s += 1.5
        second = await answered(site, 0)

        told = (await client.get("/admin/decisions")).json()

        newest, oldest = told["decisions"]
        assert told["silent_front_doors"] == []
        assert (newest["dp_balance_id"], newest["request"]) == (second, second)
        assert newest["reason"].startswith("least holding + in-flight: ")
        assert (newest["why"], newest["cost_unit"]) == ("fewest_tokens", "tokens")
        assert (newest["method"], newest["stands_for"]) == ("minimum_tokens", "minimum_tokens")
        assert (newest["front_door"], newest["dp_rank"], newest["attempt"]) == (0, 0, 1)
        assert [each["holding_tokens"] for each in newest["candidates"]] == [0, 1000]
        assert [each["figure_age_s"] for each in newest["candidates"]] == [1.5, 1.5]
        assert [each["is_chosen"] for each in newest["candidates"]] == [True, False]
        assert newest["charge_tokens"] == newest["prompt_tokens"] > 0
        times = [datetime.fromisoformat(each["decided_at"]) for each in (oldest, newest)]
        assert before < times[0] < times[1] < datetime.now(UTC)


async def test_all_attempts_of_a_request_are_told_by_the_id_of_any():
    """
    In order, each with what became of the one before; the groups that were tried are left out.
    """
    async with Site.opened(3) as site, operator(site.house.instance) as client:
        site.groups[0].respond = site.groups[1].respond = refuse
        last = await answered(site, 2)
        await answered(site, 2)

        told = (await client.get(f"/admin/decisions/{last}")).json()["decisions"]

        first = told[0]["dp_balance_id"]
        assert [each["attempt"] for each in told] == [1, 2, 3]
        assert [each["dp_rank"] for each in told] == [0, 1, 2]
        assert told[2]["dp_balance_id"] == last
        assert {each["request"] for each in told} == {first}
        assert [each["follows"] for each in told] == [None, first, told[1]["dp_balance_id"]]
        assert [each["left_because"] for each in told] == [None, "refused", "refused"]
        assert told[2]["left_out"]["counts"] == {"tried": 2}
        assert told[2]["reason"] == "the only group that could take it"
        assert (await client.get(f"/admin/decisions/{first}")).json()["decisions"] == told


async def test_decisions_are_filtered_by_group_and_limited():
    """
    The newest of those for that group; a number that no group can have is refused.
    """
    async with Site.opened(2) as site, operator(site.house.instance) as client:
        for _ in range(3):
            await answered(site, 0)
        site.present(row(0, site.groups[0].port, state=GroupState.DRAINING))
        other = await answered(site, 1)

        told = (await client.get("/admin/decisions?group=0&limit=2")).json()["decisions"]
        others = (await client.get("/admin/decisions?group=1")).json()["decisions"]
        nobody = await client.get("/admin/decisions?group=2")

        assert [each["dp_rank"] for each in told] == [0, 0]
        assert [each["dp_balance_id"] for each in others] == [other]
        assert others[0]["left_out"] == {
            "groups": [{"dp_rank": 0, "why": "draining"}],
            "counts": {"draining": 1},
        }
        assert nobody.status_code == 404
        assert "dp_ranks are 0 to 1" in nobody.text


async def test_decisions_of_several_front_doors_are_put_in_order_of_time():
    """
    Whoever made them.
    """
    async with (
        Site.opened(2, num_front_doors=2) as site,
        site.house.door(1) as second,
        second.client() as beside,
        operator(site.house.instance) as client,
    ):
        for number in range(4):
            site.house.clock.now_s += 1
            asked = beside if number % 2 else site.client
            asked.send(post())
            (await site.groups[0].next_request()).answer(b"{}")
            await asked.response()
            site.house.report_holding(0, 100_000)

        told = (await client.get("/admin/decisions?limit=3")).json()["decisions"]

    assert [each["front_door"] for each in told] == [1, 0, 1]


async def test_a_front_door_that_does_not_answer_is_named():
    """
    Beside what the others tell; and one who asks for an id that it may know is to ask again.
    """
    async with (
        Site.opened(2, num_front_doors=3) as site,
        operator(site.house.instance) as client,
    ):
        known = await answered(site, 0)

        told = (await client.get("/admin/decisions")).json()
        unknown = await client.get("/admin/decisions/0123456789abcdef")
        found = await client.get(f"/admin/decisions/{known}")

    assert [each["dp_balance_id"] for each in told["decisions"]] == [known]
    assert told["silent_front_doors"] == [1, 2]
    assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "1")
    assert "front door 1, 2 does not" in unknown.text
    assert found.status_code == 200


async def test_an_id_that_nobody_keeps_is_not_found():
    """
    It is said how many are kept.
    """
    async with Site.opened(1, max_decisions=5) as site, operator(site.house.instance) as client:
        unknown = await client.get("/admin/decisions/0123456789abcdef")

    assert unknown.status_code == 404
    assert "keeps its last 5" in unknown.text


async def test_nothing_is_kept_if_nobody_wants_it():
    """
    `--max-decisions 0`.
    """
    async with Site.opened(2, max_decisions=0) as site, operator(site.house.instance) as client:
        await answered(site, 0)

        assert (await client.get("/admin/decisions")).json()["decisions"] == []


async def test_no_word_of_a_prompt_is_told():
    """
    Neither of the prompt nor of the session's name.
    """
    async with Site.opened(2, method="session") as site, operator(site.house.instance) as client:
        body = orjson.dumps({"messages": [{"role": "user", "content": "sesame opens"}]})
        site.client.send(post(body, extra=b"X-Session-ID: ali-baba\r\n"))
        await until(lambda: any(site.num_received))
        group = next(each for each in site.groups if each.received)
        (await group.next_request()).answer(b"{}")
        await site.client.response()

        told = (await client.get("/admin/decisions")).text

    assert "home of the request's session" in told
    assert not any(word in told for word in ("sesame", "opens", "ali", "baba"))


async def test_the_time_in_the_lobby_is_told():
    """
    A request that waits for room says how long it did.
    """
    async with Site.opened(1, admission="late") as site, operator(site.house.instance) as client:
        site.house.report(max_requests=0)
        site.client.send(post())
        door = site.door.door
        await until(lambda: door.meters.waiting_requests)
        site.door.clock.now_s += 0.75
        site.house.report(max_requests=10)
        (await site.groups[0].next_request()).answer(b"{}")
        await site.client.response()

        (told,) = (await client.get("/admin/decisions")).json()["decisions"]

    assert told["waited_s"] == pytest.approx(0.75)


@pytest.mark.parametrize("question", [b"", b"nonsense\n", b"[1,2,3,4,5]\n", b"{}\n"])
async def test_who_asks_otherwise_is_told_nothing(question):
    """
    And harms nobody: the next question is answered.
    """
    async with Site.opened(1) as site, operator(site.house.instance) as client:
        path = site.house.instance.decisions_socket(0)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(question)
        writer.write_eof()

        assert await reader.read() == b""
        writer.close()
        assert (await client.get("/admin/decisions")).status_code == 200


def test_the_log_forgets_the_oldest():
    """
    It never has more than it was made for.
    """
    log, controller = DecisionLog(3), made("minimum_tokens", 2)
    ids = []
    for number in range(5):
        assignment = controller.assign(RequestShape(1))
        log.note(assignment, number, Occasion())
        ids.append(assignment.dp_balance_id)

    assert len(log) == 3
    assert [each.dp_balance_id for each in log.found(Wanted(10))] == ids[:1:-1]
    assert log.found(Wanted(10, dp_balance_id=ids[0])) == []


def told_by(log, limit=1):
    """As the control plane gets it, and tells it."""
    entries = orjson.loads(orjson.dumps(log.found(Wanted(limit)), default=list))
    return newest([{"front_door": 0, "method": "auto", "entries": entries}], limit)


def test_a_report_that_came_while_it_was_read_has_no_negative_age():
    """
    The decision's time is taken before it reads.
    """
    log, controller = DecisionLog(1), made("minimum_tokens", 2)
    log.note(controller.assign(RequestShape(1)), 1, Occasion())  # its reports are of 2 ns

    (decision,) = told_by(log)

    assert [each.figure_age_s for each in decision.candidates] == [0.0, 0.0]


async def test_who_does_not_read_what_is_told_is_hung_up_on(tmp_path):
    """
    It would keep an answer in memory, and a task, for as long as it stays.
    """
    log, controller = DecisionLog(2_000), made("minimum_tokens", 8)
    assignment = controller.assign(RequestShape(1))
    for number in range(2_000):
        log.note(assignment, number, Occasion())
    teller, over = DecisionTeller(log, 0, "auto", timeout_s=0.01), asyncio.Event()

    async def tell(reader, writer):
        await teller.tell(reader, writer)
        over.set()

    path = str(tmp_path / "s")
    async with await asyncio.start_unix_server(tell, path):
        _, writer = await asyncio.open_unix_connection(path, limit=1)
        writer.write(b"[2000,null,null]\n")
        async with asyncio.timeout(20):
            await over.wait()
        writer.close()
