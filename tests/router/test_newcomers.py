"""A front door and a group that has just become ready."""

from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from router.health_rules import HealthRules
from tests.router.backends import Backends, entries
from tests.router.clients import post

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("slow_start_s", "passed_s", "second"), [(30.0, 0, 0), (30.0, 30, 1), (0.0, 0, 1)]
)
async def test_a_newcomer_is_level_with_a_tenth_and_later_with_as_much(
    slow_start_s, passed_s, second
):
    """
    The first group has three requests; the newcomer gets the next one, and only if it is slowed
    no more, or never was, the one after that.
    """
    rules = HealthRules(slow_start_s=slow_start_s)
    async with Backends.opened(None, None, health=rules, method="minimum_tokens") as site:
        old, new = entries(site.groups)
        site.door.clock.now_s += 60
        now_ns = site.door.clock.ns()
        site.house.publish_table(
            replace(old, ready_since_ns=1), replace(new, ready_since_ns=now_ns)
        )
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(site.door.client()) for _ in range(5)]
            for client in clients[:3]:
                client.send(post(extra=b"X-Data-Parallel-Rank: 0\r\n"))
                await site.servers[0].next_request()
            site.door.clock.now_s += passed_s

            clients[3].send(post())
            await site.servers[1].next_request()
            clients[4].send(post())
            await site.servers[second].next_request()
        await site.door.all_released()
