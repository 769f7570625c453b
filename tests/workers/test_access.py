"""The key of an instance: without it nothing is served, and nothing is counted."""

import asyncio

import pytest

from tests.workers.server_rig import serving

KEY = "a1" * 32
CHARGE = {"dp_balance_id": f"{1:016x}", "front_door": "1/7", "charge_tokens": 12}
CHARGED = {
    "x-levelhead-dp-balance-id": CHARGE["dp_balance_id"],
    "x-levelhead-front-door": "1/7",
    "x-levelhead-charge-tokens": "12",
}
REQUESTS = {
    "/v1/completions": {"prompt": [40, 41], "max_tokens": 1},
    "/settle": CHARGE,
    "/tokenize": {"prompt": "x"},
}


def ask(codec, method, path, body=None, headers=None, instance_key=KEY):
    """The answer, and what is counted for slot 1 afterwards."""

    async def run():
        async with serving(codec, instance_key=instance_key) as (rig, client):
            answer = await client.request(method, path, json=body, headers=headers)
            return answer, rig.accepted[1]

    return asyncio.run(run())


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("key", [None, "", KEY[:-1], KEY + "0", "\xfc"])
def test_without_the_key_nothing_is_served_or_counted(codec, path, key):
    """
    Neither a request past the front door, nor a charge that somebody makes up.
    """
    given = {} if key is None else {"x-levelhead-instance-key": key.encode("latin-1")}

    answer, accepted = ask(codec, "POST", path, REQUESTS[path], CHARGED | given)

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_instance_key"
    assert accepted == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("path", REQUESTS)
def test_with_the_key_all_is_served(codec, path):
    """
    It is a header like any other.
    """
    headers = {"x-levelhead-instance-key": KEY}

    assert ask(codec, "POST", path, REQUESTS[path], headers)[0].status_code == 200


def test_what_the_cache_holds_is_told_to_the_key_only(codec):
    """
    A rig without a cache has nothing to tell, and says so to who may ask.
    """
    key = {"x-levelhead-instance-key": KEY}

    assert ask(codec, "GET", "/prefix_events")[0].status_code == 401
    assert ask(codec, "GET", "/prefix_events", headers=key)[0].status_code == 404


def test_health_is_open(codec):
    """
    Who asks whether a group lives needs no key; a path that looks like it does.
    """
    assert ask(codec, "GET", "/health")[0].status_code == 200
    assert ask(codec, "GET", "/health/")[0].status_code == 401


def test_a_leader_without_a_key_lets_everybody_in(codec):
    """
    One that was started by hand, to be tried.
    """
    answer, _ = ask(codec, "POST", "/tokenize", REQUESTS["/tokenize"], instance_key=None)

    assert answer.status_code == 200
