"""
The rule of settlement over HTTP: whatever becomes of a request, its charge is counted once.
"""

import asyncio

import orjson
import pytest

from tests.workers.server_rig import EPOCH, Connection, Rig, serving

COMPLETIONS = "/v1/completions"
GOOD = {"prompt": [40, 41, 42], "max_tokens": 3}


def headers(number=1, front_door="1/7", tokens="12"):
    return {
        "x-levelhead-dp-balance-id": f"{number:016x}",
        "x-levelhead-front-door": front_door,
        "x-levelhead-charge-tokens": tokens,
    }


def settle_body(number=1):
    return {"dp_balance_id": f"{number:016x}", "front_door": "1/7", "charge_tokens": 12}


def with_rig(codec, scenario, **options):
    """Run scenario(rig, client); return what it returns and slot 1's counters afterwards."""

    async def run():
        async with serving(codec, **options) as (rig, client):
            result = await scenario(client)
            return result, rig.accepted[1]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (COMPLETIONS, GOOD, 200),
        (COMPLETIONS, GOOD | {"stream": True}, 200),
        (COMPLETIONS, GOOD | {"temperature": -1}, 400),
        (COMPLETIONS, {"prompt": [5] * 500}, 400),
        (COMPLETIONS, GOOD | {"model": "other"}, 404),
        ("/v1/nowhere", {}, 404),
        ("/tokenize", {"prompt": "x"}, 200),
    ],
)
def test_a_request_is_counted_once_whatever_its_answer(codec, path, body, status):
    """
    Served, refused, or sent to the wrong place.
    """
    response, accepted = with_rig(
        codec, lambda client: client.post(path, json=body, headers=headers())
    )

    assert response.status_code == status
    assert accepted == (7, 12, 1, 1, 1)


def test_requests_refused_by_a_full_queue_are_counted(codec):
    """
    Three charges arrive, one request runs, three are counted.
    """

    async def scenario(client):
        calls = [client.post(COMPLETIONS, json=GOOD, headers=headers(n)) for n in (1, 2, 3)]
        return sorted(response.status_code for response in await asyncio.gather(*calls))

    statuses, accepted = with_rig(codec, scenario, max_queued=0)

    assert statuses == [200, 503, 503]
    assert accepted == (7, 36, 3, 3, 6)


def test_requests_without_a_charge_are_served_and_not_counted(codec):
    """
    A client may talk to a leader directly.
    """
    response, accepted = with_rig(codec, lambda client: client.post(COMPLETIONS, json=GOOD))

    assert response.status_code == 200
    assert accepted == (0, 0, 0, 0, 0)


def test_an_id_is_served_once(codec):
    """
    The same assignment sent again is refused with 409 and counts nothing.
    """

    async def scenario(client):
        calls = [await client.post(COMPLETIONS, json=GOOD, headers=headers()) for _ in range(2)]
        return [response.status_code for response in calls]

    statuses, accepted = with_rig(codec, scenario)

    assert statuses == [200, 409]
    assert accepted == (7, 12, 1, 1, 1)


def test_asking_after_a_charge_that_never_came_counts_it(codec):
    """
    From then on it is seen, and its request is refused if it comes after all.
    """

    async def scenario(client):
        asked = [(await client.post("/settle", json=settle_body())).json() for _ in range(2)]
        late = await client.post(COMPLETIONS, json=GOOD, headers=headers())
        return asked, late.status_code

    result, accepted = with_rig(codec, scenario)

    assert result == ([{"seen": False}, {"seen": True}], 409)
    assert accepted == (7, 12, 1, 1, 1)


def test_asking_after_a_charge_that_came_counts_nothing_more(codec):
    """
    The usual case: the connection broke after the leader had the request.
    """

    async def scenario(client):
        await client.post(COMPLETIONS, json=GOOD, headers=headers())
        return (await client.post("/settle", json=settle_body())).json()

    asked, accepted = with_rig(codec, scenario)

    assert asked == {"seen": True}
    assert accepted == (7, 12, 1, 1, 1)


@pytest.mark.parametrize(
    "bad",
    [
        headers(front_door="9/7"),
        headers(front_door="1"),
        headers(tokens="-3"),
        headers(tokens=""),
        headers() | {"x-levelhead-dp-balance-id": "nonsense"},
        headers() | {"x-levelhead-group-epoch": "last"},
    ],
)
def test_headers_that_name_no_charge_are_refused(codec, bad):
    """
    There is nothing that could be counted.
    """
    response, accepted = with_rig(
        codec, lambda client: client.post(COMPLETIONS, json=GOOD, headers=bad)
    )

    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("x-levelhead-")
    assert accepted == (0, 0, 0, 0, 0)


def test_a_request_for_this_epoch_is_served(codec):
    """
    Its header is what the front door knows of the group that it chose.
    """
    own = headers() | {"x-levelhead-group-epoch": str(EPOCH)}

    response, accepted = with_rig(
        codec, lambda client: client.post(COMPLETIONS, json=GOOD, headers=own)
    )

    assert response.status_code == 200
    assert accepted == (7, 12, 1, 1, 1)


@pytest.mark.parametrize("charged", [True, False])
@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
def test_a_request_for_another_epoch_is_refused_and_not_counted(codec, epoch, charged):
    """
    Its charge ended with the life of the group that it was dispatched to.
    """
    other = (headers() if charged else {}) | {"x-levelhead-group-epoch": str(epoch)}

    response, accepted = with_rig(
        codec, lambda client: client.post(COMPLETIONS, json=GOOD, headers=other)
    )

    assert response.status_code == 421
    assert response.json()["error"]["code"] == "wrong_epoch"
    assert accepted == (0, 0, 0, 0, 0)


def test_asking_after_a_charge_of_another_epoch_counts_nothing(codec):
    """
    Nor is it remembered: the same id is news to this epoch.
    """

    async def scenario(client):
        bodies = [settle_body() | {"group_epoch": epoch} for epoch in (EPOCH - 1, EPOCH)]
        return [await client.post("/settle", json=body) for body in bodies]

    (other, own), accepted = with_rig(codec, scenario)

    assert (other.status_code, other.json()["error"]["code"]) == (421, "wrong_epoch")
    assert own.json() == {"seen": False}
    assert accepted == (7, 12, 1, 1, 1)


@pytest.mark.parametrize("with_body", [False, True])
@pytest.mark.parametrize("num_steps", [0, 1])
def test_a_client_that_hangs_up_is_counted(codec, with_body, num_steps):
    """
    Before its body was read, before its step, or after: once.
    """

    async def run():
        rig = Rig(codec)
        body = orjson.dumps(GOOD)
        connection = Connection(rig.app, COMPLETIONS, body, headers().items())
        if not with_body:
            connection.hang_up_first()
        await connection.settle_down()
        for _ in range(num_steps):
            rig.engine.step(0.0)
        connection.hang_up()
        await connection.task
        return rig.accepted[1], rig.holding_tokens

    accepted, holding_tokens = asyncio.run(run())

    assert accepted == (7, 12, 1, 1, 1)
    assert holding_tokens == 0
