"""Limits are on the whole of an answer."""

import asyncio

import httpx
import pytest

from router.backends.inquiry import Answer, NoAnswer, inquire

pytestmark = pytest.mark.anyio


async def asked(handle, limit_s=30.0):
    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as client:
        return await inquire(client, "http://a:1/x", limit_s)


async def parts(num, part=b" " * (1 << 20), at_each=lambda: None):
    for _ in range(num):
        at_each()
        yield part


async def test_what_is_answered_is_told():
    """
    Good or not.
    """
    assert await asked(lambda _: httpx.Response(200, content=b"a")) == Answer(200, b"a")
    assert not (await asked(lambda _: httpx.Response(503))).is_good


async def test_an_answer_in_small_parts_ends_with_its_time():
    """
    Though each of them comes in time.
    """

    async def endless():
        while True:
            yield b" "
            await asyncio.sleep(0)

    with pytest.raises(NoAnswer, match=r"has not answered within 0 s"):
        await asked(lambda _: httpx.Response(200, content=endless()), limit_s=0)


async def test_no_more_of_an_answer_is_read_than_is_kept():
    """
    Whatever its length.
    """
    num_read = []

    with pytest.raises(NoAnswer, match="more than 16777216 bytes"):
        await asked(
            lambda _: httpx.Response(200, content=parts(99, at_each=lambda: num_read.append(1)))
        )

    assert len(num_read) == 17


async def test_an_engine_that_refuses_or_has_no_url_gives_no_answer():
    """
    One error for all of it.
    """

    def refuses(_request):
        raise httpx.ConnectError("refused")

    with pytest.raises(NoAnswer, match="refused"):
        await asked(refuses)
