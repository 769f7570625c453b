"""The control plane's routes, asked without a network."""

import asyncio

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.control_plane.front_doors import read_meters
from router.front_door.meters import Meters
from shm.group_table import GroupState
from tests.router.asking import asked, entry, error_of, refuse, torn
from tests.router.clients import get, post
from tests.router.fakes import until
from tests.router.groups import FakeGroup
from tests.router.house import House

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house():
    """Segments for two groups and one front door."""
    async with House.built(dp_size=2) as built:
        yield built


async def test_models_are_those_that_the_groups_serve():
    """
    Each once, as OpenAI lists them, with the longest prompt that they take.
    """
    entries = [entry(0), entry(1), entry(2, model="org/other"), entry(3, epoch=0, model="")]
    async with House.built(dp_size=4) as house, asked(house, entries) as client:
        listed = (await client.get("/v1/models")).json()

        assert listed["object"] == "list"
        assert [model["id"] for model in listed["data"]] == ["m", "org/other"]
        assert listed["data"][0]["max_model_len"] == 2048
        one = await client.get("/v1/models/org/other")
        assert one.json() == listed["data"][1]


async def test_sglangs_frontend_is_told_the_models_name(house):
    """
    That of a group that is ready; 503 while there is none.
    """
    async with asked(house, [entry(0, GroupState.DEAD, model="x"), entry(1)]) as client:
        answer = await client.get("/get_model_info")
    async with asked(house, [entry(0, GroupState.DEAD)]) as client:
        none = await client.get("/get_model_info")

    assert answer.json() == {"model_path": "m", "is_generation": True}
    assert (none.status_code, none.headers["retry-after"]) == (503, "1")


async def test_an_unknown_model_is_not_found(house):
    """
    404 in OpenAI's shape, naming those that there are.
    """
    async with asked(house, [entry()]) as client:
        answer = await client.get("/v1/models/gpt-9")

    assert answer.status_code == 404
    error = error_of(answer)
    assert error["type"] == "invalid_request_error"
    assert "'gpt-9' does not exist; there are: m" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("DELETE", "/v1/models", 405)]
)
async def test_what_there_is_not_is_told_in_openais_shape(house, method, path, status):
    """
    A client library parses every error alike.
    """
    async with asked(house, [entry()]) as client:
        answer = await client.request(method, path)

    assert answer.status_code == status
    assert error_of(answer)["type"] == "invalid_request_error"


async def test_the_control_plane_says_that_it_is_there(house):
    """
    Whatever the groups' health is: the root asks for nothing else.
    """
    async with asked(house, [entry(0, GroupState.DEAD)]) as client:
        answer = await client.get("/health")

    assert (answer.status_code, answer.content) == (200, b"")


async def test_the_document_tells_what_front_doors_answer_too(house):
    """
    A client sees one address; errors are documented as they are, in OpenAI's form.
    """
    async with asked(house, [entry(0)]) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]

    assert {"/health", "/ready", "/v1/chat/completions", "/v1/loads"} <= set(paths)
    errors = [told["responses"] for path in paths.values() for told in path.values()]
    assert all("default" in told and "422" not in told for told in errors)


async def test_loads_are_told_for_every_group(house):
    """
    Under SGLang's names and ours; null where nothing is reported.
    """
    house.report(1, holding_tokens=60, running_requests=2, waiting_requests=1, kv_used_tokens=1024)
    async with asked(house, [entry(0), entry(1, GroupState.STARTING)]) as client:
        told = (await client.get("/v1/loads")).json()

    assert (told["dp_rank_count"], told["imbalance"]) == (2, 1.0)
    first, second = told["loads"]
    assert (first["num_running_reqs"], first["num_waiting_reqs"]) == (2, 1)
    assert first["num_total_tokens"] == first["holding_tokens"] == 60
    assert first["token_usage"] == 0.25
    assert (second["state"], second["holding_tokens"]) == ("starting", None)


async def test_metrics_come_from_segments_and_front_doors():
    """
    With two doors, one of them away: the other's counters are there.
    """
    async with House.built(num_front_doors=2) as house, FakeGroup.listening() as group:
        house.present(group)
        house.report(holding_tokens=60)
        async with house.door() as door, door.client() as client:
            client.send(post() + get())
            (await group.next_request()).answer()
            await client.response()
            await client.response()
            async with asked(house, [entry()]) as control:
                answer = await control.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    up = {s.labels["front_door"]: s.value for s in families["levelhead_front_door_up"].samples}
    assert up == {"0": 1, "1": 0}
    responses = families["levelhead_responses"].samples
    assert {s.labels["front_door"] for s in responses} == {"0"}
    assert {s.labels["status"]: s.value for s in responses if s.value} == {"200": 1}
    assert families["levelhead_holding_tokens"].samples[0].value == 60


async def test_a_door_that_tells_nonsense_is_as_one_that_is_away(house):
    """
    No scrape fails for it.
    """

    async def tell(reader, writer):
        writer.write(b'{"slot": 0, "disp')
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(tell, house.instance.meters_socket(0))
    assert await read_meters(house.instance) == [None]
    server.close()
    await until(lambda: not server.is_serving())


async def test_a_door_that_is_stopped_is_left_with_no_connection(house):
    """
    It would get one more at each scrape, for as long as it stands still.
    """
    is_left = asyncio.Event()

    async def listen(reader, writer):
        await reader.read()
        is_left.set()
        writer.close()

    server = await asyncio.start_unix_server(listen, house.instance.meters_socket(0))
    assert await read_meters(house.instance, timeout_s=0.05) == [None]
    await until(is_left.is_set)
    server.close()


async def test_drift_is_of_books_and_figures_of_one_time(house):
    """
    A group that is slow to tell its totals does not have old books compared with new figures.
    """
    is_told = asyncio.Event()

    async def tell(reader, writer):
        extra = {"slot": 0, "epoch": 1, "method": "random", "book": [[60, 1], [0, 0]]}
        told = Meters(2).as_dict() | extra
        writer.write(orjson.dumps(told, option=orjson.OPT_NON_STR_KEYS))
        writer.close()
        is_told.set()

    async def respond(request):
        await is_told.wait()
        for _ in range(100):  # until whoever asked the door has taken what it told
            await asyncio.sleep(0)
        house.report(holding_tokens=9000)
        return refuse(request)

    house.report(holding_tokens=60)
    server = await asyncio.start_unix_server(tell, house.instance.meters_socket(0))
    async with asked(house, [entry()], respond) as client:
        answer = await client.get("/metrics")
    server.close()

    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert [sample.value for sample in families["levelhead_ledger_drift_tokens"].samples] == [0]


@pytest.mark.parametrize("path", ["/metrics", "/v1/loads", "/admin/groups"])
async def test_a_torn_segment_is_told_by_what_it_was_before(house, path):
    """
    Until nobody has read it whole, 503 with Retry-After.
    """
    house.report(1, holding_tokens=60)
    async with asked(house, [entry()]) as client, asked(house, [entry()]) as newcomer:
        whole = await client.get(path)
        with torn(house):
            later, first = await client.get(path), await newcomer.get(path)

    assert (whole.status_code, later.status_code) == (200, 200)
    if path == "/v1/loads":
        assert later.json()["loads"] == whole.json()["loads"]
    assert (first.status_code, first.headers["retry-after"]) == (503, "1")
    assert "there are no figures yet" in error_of(first)["message"]
