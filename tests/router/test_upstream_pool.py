"""Connections to upstreams: who gets which, and what is kept of them."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from router.front_door.upstream import Address
from router.front_door.upstream_pool import UpstreamPool
from tests.router.fakes import until
from tests.router.groups import FakeGroup

pytestmark = pytest.mark.anyio
EMPTY = "<UpstreamPool, idle {}, all {}, 0 doomed>"


@asynccontextmanager
async def pooled():
    """A pool, and the address of a group."""
    async with FakeGroup.listening() as group:
        pool = UpstreamPool(asyncio.get_running_loop())
        yield pool, Address("127.0.0.1", group.port)
        pool.close()
        pool.lose(Address("127.0.0.1", group.port), "the test is over")
        for _ in range(9):
            pool.tick()
        await until(lambda: repr(pool) == EMPTY)


async def test_a_connection_that_was_given_back_is_taken_next():
    """
    The newest first, and each once.
    """
    async with pooled() as (pool, address):
        connections = [await pool.connect(address) for _ in range(2)]
        for connection in connections:
            pool.give_back(connection)

        assert [pool.take(address) for _ in range(3)] == [*reversed(connections), None]


async def test_asking_for_an_address_leaves_nothing_behind():
    """
    Each life of a group has one, and a front door lives long.
    """
    async with pooled() as (pool, address):
        assert pool.take(address) is None
        assert repr(pool) == EMPTY


async def test_a_connection_to_an_upstream_that_is_gone_is_not_kept():
    """
    Whether it was idle then, or busy and given back later.
    """
    async with pooled() as (pool, address):
        idle, busy = await pool.connect(address), await pool.connect(address)
        pool.give_back(idle)

        pool.lose(address, "it is gone")
        pool.give_back(busy)

        assert pool.take(address) is None
        assert not idle.is_open
        assert not busy.is_open


async def test_a_connection_is_kept_if_its_upstream_is_well_after_all():
    """
    With all its ticks, should it be gone again.
    """
    async with pooled() as (pool, address):
        connection = await pool.connect(address)
        for _ in range(2):
            pool.lose(address, "it is gone")
            for _ in range(3):
                pool.tick()
            assert connection.is_open
            pool.spare(address)
        for _ in range(9):
            pool.tick()

        pool.give_back(connection)

        assert pool.take(address) is connection


async def test_a_connection_that_is_being_made_is_given_up_at_every_turn_of_the_loop():
    """
    None that was begun before its upstream was found gone comes out of it afterwards.
    """
    async with pooled() as (pool, address):
        num_given_up = 0
        for number_of_turns in range(1, 30):
            making = asyncio.create_task(pool.connect(address))
            for _ in range(number_of_turns):
                await asyncio.sleep(0)
            if making.done():
                pool.lose(address, "it is gone")
                continue
            pool.lose(address, "it is gone")
            with pytest.raises(OSError):  # noqa: PT011  timed out, or why it is gone
                await making
            num_given_up += 1
        assert num_given_up > 1


async def test_a_connection_that_waits_too_long_is_closed_before_its_upstream_closes_it():
    """
    If the pool is told so: who takes one just then would lose a request.
    """
    async with FakeGroup.listening() as group:
        pool = UpstreamPool(asyncio.get_running_loop(), max_idle_ticks=3)
        address = Address("127.0.0.1", group.port)
        first, second = await pool.connect(address), await pool.connect(address)
        pool.give_back(first)
        pool.tick()
        pool.give_back(second)
        for _ in range(2):
            pool.tick()

        assert (first.is_open, second.is_open) == (False, True)
        assert [pool.take(address), pool.take(address)] == [second, None]
        second.cancel()
        await until(lambda: repr(pool) == EMPTY)
