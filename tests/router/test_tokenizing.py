import asyncio

import httpx
import pytest

from shm.group_table import GroupState
from tests.router.asking import asked, entry, error_of
from tests.router.fakes import soon, until
from tests.router.house import House

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house():
    """Segments for two groups and one front door."""
    async with House.built(dp_size=2) as built:
        yield built


async def test_tokenize_is_answered_by_a_ready_group(house):
    """
    The body goes there and the answer comes back as they are.
    """

    def respond(request):
        assert (request.url.port, request.url.path) == (1001, "/tokenize")
        assert request.content == b'{"prompt": "x"}'
        return httpx.Response(418, content=b"[5]", headers={"content-type": "text/x"})

    async with asked(house, [entry(0, GroupState.DEAD), entry(1)], respond) as client:
        answer = await client.post("/tokenize", content=b'{"prompt": "x"}')

    assert (answer.status_code, answer.content) == (418, b"[5]")
    assert answer.headers["content-type"].startswith("text/x")


async def test_tokenize_without_a_ready_group_is_unavailable(house):
    """
    503 with Retry-After.
    """
    async with asked(house, [entry(0, GroupState.DEAD)]) as client:
        answer = await client.post("/tokenize", content=b"{}")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "no DP group is ready" in error_of(answer)["message"]


async def test_tokenize_tells_that_its_group_was_lost(house):
    """
    502, not a failure of the control plane.
    """
    async with asked(house, [entry()]) as client:
        answer = await client.post("/tokenize", content=b"{}")

    assert answer.status_code == 502
    assert error_of(answer)["message"] == "DP group 0 was lost: refused"


async def test_more_prompts_than_there_are_places_for_are_refused(house):
    """
    503 with Retry-After; a place is free again when its answer is there, or its client gone.
    """
    under_way, may_answer = [], asyncio.Event()

    async def respond(request):
        under_way.append(request)
        await may_answer.wait()
        return httpx.Response(200, content=b"[5]")

    async with asked(house, [entry()], respond, max_tokenizing=2) as client:
        waiting = [asyncio.create_task(client.post("/tokenize", content=b"{}")) for _ in range(2)]
        await until(lambda: len(under_way) == 2)
        refused = await soon(client.post("/tokenize", content=b"{}"))
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        may_answer.set()
        after = [await soon(client.post("/tokenize", content=b"{}")) for _ in range(3)]
        answered = await soon(waiting[1])

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "2 prompts are being tokenized" in error_of(refused)["message"]
    assert [answer.status_code for answer in (answered, *after)] == [200] * 4
