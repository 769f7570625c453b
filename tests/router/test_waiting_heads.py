"""Heads of streams: they wait for the first byte, because until then another group may answer."""

import asyncio

import pytest

from tests.router.clients import LAST_CHUNK, SSE_HEAD, post
from tests.router.failures import EVENT, questions
from tests.router.fakes import turns
from tests.router.site import Site

pytestmark = pytest.mark.anyio


async def test_the_head_of_a_stream_waits_for_its_first_byte():
    """
    Until then another group may give the answer.
    """
    async with Site.opened(1) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        received.write(SSE_HEAD)
        reading = asyncio.create_task(site.client.head())
        await turns()
        assert not reading.done()

        received.write(EVENT + LAST_CHUNK)

        assert (await reading).status == 200
        assert await site.client.exactly(len(EVENT + LAST_CHUNK)) == EVENT + LAST_CHUNK


async def test_a_stream_that_ends_without_a_byte_is_an_answer():
    """
    If its head said so: a client may get nothing from a group that says it has nothing.
    """
    async with Site.opened(2) as site:
        site.client.send(post())
        received = await site.groups[0].next_request()
        received.answer(b"", extra=b"content-type: text/event-stream\r\n")

        assert (await site.client.response()).body == b""
        await site.all_released()
        assert site.num_received == [1, 0]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_stream_whose_connection_ends_before_its_first_byte_is_lost(version):
    """
    With no length and no chunks its end looks like the death of its group, which is likelier.
    """
    async with Site.opened(2) as site:
        site.client.send(post(version=version))
        received = await site.groups[0].next_request()
        received.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        received.close()
        (await site.groups[1].next_request()).answer(b"other")

        assert (await site.client.response()).body == b"other"
        await site.all_released()
        assert site.door.meters.retries == {"lost": 1}
        assert await questions(site) == [0, 0]  # it answered: it has seen the charge


@pytest.mark.parametrize("begun", [b"", b"f", b"f\r\n"])
async def test_an_old_client_has_had_no_byte_of_a_chunk_that_only_began(begun):
    """
    What is taken off for it does not count.
    """
    async with Site.opened(2) as site:
        site.client.send(post(version=b"1.0"))
        received = await site.groups[0].next_request()
        received.write(SSE_HEAD)
        await turns()
        received.write(begun)
        await turns()
        received.abort()
        (await site.groups[1].next_request()).answer(b"whole")

        assert (await site.client.response()).body == b"whole"
        await site.all_released()
