"""Retries have a budget, which all requests of a front door share."""

import pytest

from router.health_rules import HealthRules
from tests.router.backends import Backends
from tests.router.clients import post

pytestmark = pytest.mark.anyio
RULES = HealthRules(retry_budget_percent=0, disable_circuit_breaker=True)


def refuse(received):
    received.answer(status=b"503 Service Unavailable")


def leave(site, number):
    """Spend the budget but for so many retries."""
    budget, now_ns = site.door.door._services.retry_budget, site.door.clock.ns()
    while budget.affords(now_ns):
        budget.withdraw()
    for _ in range(number):
        budget._balance += 1


async def ask(site):
    site.client.send(post())
    return (await site.client.response()).status


async def test_retries_end_when_the_budget_does():
    """
    Two requests that everybody refuses, and one retry: what was refused passes then.
    """
    async with Backends.opened(None, None, health=RULES, respond=refuse) as site:
        leave(site, 1)

        assert [await ask(site), await ask(site)] == [503, 503]

        assert sum(site.num_received) == 3
        assert site.door.meters.retries == {"refused": 1}
        assert site.door.meters.retries_over_budget == 1


async def test_each_request_adds_its_share():
    """
    A fifth of a retry each, unless told otherwise.
    """
    rules = HealthRules(disable_circuit_breaker=True)
    async with Backends.opened(None, None, health=rules, respond=refuse) as site:
        leave(site, 0)

        for _ in range(11):
            await ask(site)

        assert site.door.meters.retries == {"refused": 2}


async def test_what_could_not_be_sent_needs_no_budget():
    """
    It was load for nobody.
    """
    async with Backends.opened(None, None, health=RULES, respond=lambda r: r.answer()) as site:
        leave(site, 0)
        site.servers[0].stop_listening()

        assert [await ask(site) for _ in range(4)] == [200] * 4

        assert site.door.meters.retries["unreachable"] >= 1
