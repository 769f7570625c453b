"""How `levelhead top` looks at an instance: its segments, or over HTTP."""

import asyncio
import dataclasses
import os
import tempfile
from contextlib import asynccontextmanager

import httpx
import pytest

from router.errors import ConfigError, KeyRefused, NoPicture
from router.instance import Instance
from router.run_folder import make_run_folder, running_instances
from router.top.http_source import HttpSource
from router.top.options import parse_top
from router.top.segment_source import SegmentSource
from router.top.source import source_of
from shm.process import this_process
from tests.router.asking import asked, entry
from tests.router.clients import post
from tests.router.fakes import unique_instance
from tests.router.house import House
from tests.router.pictures import loads

pytestmark = pytest.mark.anyio
ALIVE = dict(zip(("root_pid", "root_start_ticks"), this_process(), strict=True))


@asynccontextmanager
async def looked_at(house):
    house.instance.save()
    source = SegmentSource(house.instance)
    yield source
    await source.close()


def http_source(respond, key=None, admin=None):
    client = httpx.AsyncClient(transport=httpx.MockTransport(respond), base_url="http://door")
    return HttpSource(client, "http://door", key, admin)


def save_instance(environment, **fields):
    name = unique_instance()
    folder = make_run_folder(name, environment)
    instance = Instance(name, 1, str(folder), "127.0.0.1", 0, 2, **ALIVE | fields)
    instance.save()
    return instance


async def test_segments_tell_the_same_as_the_control_plane():
    """
    Without it: its socket is not there, which costs the decisions alone.
    """
    async with House.built(dp_size=2, **ALIVE) as house:
        house.publish_table(entry(0), entry(1))
        house.report(2, holding_tokens=40)
        async with looked_at(house) as source, asked(house, [entry(0), entry(1)]) as client:
            look = await source.look()
            told = (await client.get("/v1/loads", params={"front_doors": "true"})).json()

    mine = look.loads.model_dump(mode="json")
    for each in (mine, told):
        each.pop("timestamp")
        [group.pop("age_s") for group in each["loads"]]
    assert mine == told
    assert [group["holding_tokens"] for group in told["loads"]] == [40, 40]
    assert told["front_doors"]["doors"] == []
    assert told["front_doors"]["num_front_doors"] == 1
    assert "cannot be reached" in look.decisions.why_none


async def test_a_front_door_that_is_slow_to_answer_makes_no_figure_old():
    """
    Figures are read when it has answered, by the control plane as by who looks on the host.
    """
    async with House.built(**ALIVE) as house:
        house.publish_table(entry())
        held = iter(range(1, 9))

        async def answer(_, writer):
            house.report(holding_tokens=next(held))
            writer.close()

        house.report(holding_tokens=0)
        path = house.instance.meters_socket(0)
        async with (
            looked_at(house) as source,
            asked(house, [entry()]) as client,
            await asyncio.start_unix_server(answer, path),
        ):
            look = await source.look()
            told = (await client.get("/v1/loads", params={"front_doors": "true"})).json()

    assert look.loads.loads[0].holding_tokens == 1
    assert told["loads"][0]["holding_tokens"] == 2


async def test_what_front_doors_counted_comes_when_it_is_asked_for(house, group, door):
    """
    Plain `/v1/loads` asks no front door.
    """
    async with door.client() as client, asked(house, [entry()]) as control:
        client.send(post())
        (await group.next_request()).answer(b"{}")
        await client.response()
        plain = (await control.get("/v1/loads")).json()
        told = (await control.get("/v1/loads?front_doors=true")).json()["front_doors"]

    assert plain["front_doors"] is None
    assert (told["instance"], told["method"]) == (house.instance.name, "minimum_tokens")
    assert told["doors"][0]["responses"] == {"200": 1}
    assert told["doors"][0]["dispatches"] == [1]
    assert sum(told["doors"][0]["end_to_end_s"]["counts"]) == 1


async def test_an_instance_that_ends_tells_nothing_and_its_next_life_is_found():
    """
    By its folder, with the segments of the next life.
    """
    async with House.built(**ALIVE) as house:
        house.publish_table(entry())
        house.report(holding_tokens=5)
        async with looked_at(house) as source:
            before = await source.look()
            dead = dataclasses.replace(house.instance, root_pid=2**22 + 1)
            dead.save()
            with pytest.raises(NoPicture, match="is not running"):
                await source.look()
            dataclasses.replace(house.instance, epoch=99).save()
            house.report(holding_tokens=6)
            after = await source.look()

    assert before.loads.loads[0].holding_tokens == 5
    assert after.loads.loads[0].holding_tokens == 6
    assert after.loads.front_doors.instance_epoch == 99


@pytest.fixture
def environment():
    """Folders of instances in one of their own, whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="lh-") as folder:
        yield dict.fromkeys(("XDG_RUNTIME_DIR", "TMPDIR"), folder)


async def test_the_only_instance_is_taken_and_of_several_one_must_be_named(environment):
    """
    The error names those that run; the dead do not.
    """
    with pytest.raises(ConfigError, match="no instance"):
        source_of(parse_top([], environment), environment)
    first = save_instance(environment)
    save_instance(environment, root_pid=2**22 + 1)
    await source_of(parse_top([], environment), environment).close()
    second = save_instance(environment)

    assert {each.name for each in running_instances(environment)} >= {first.name, second.name}
    with pytest.raises(ConfigError) as several:
        source_of(parse_top([], environment), environment)
    assert first.name in str(several.value)
    assert second.name in str(several.value)
    with pytest.raises(ConfigError, match=f"--instance nobody: running here: .*{first.name}"):
        source_of(parse_top(["--instance", "nobody"], environment), environment)
    await source_of(parse_top(["--instance", second.name], environment), environment).close()


async def test_keys_go_with_what_they_are_for():
    """
    The API key with the loads, the admin key with the decisions.
    """
    seen = {}

    def respond(request):
        seen[request.url.path] = request.headers.get("authorization")
        if request.url.path == "/v1/loads":
            return httpx.Response(200, content=loads().model_dump_json())
        return httpx.Response(200, json={"decisions": [{"dp_rank": 1}, "nonsense"]})

    look = await http_source(respond, "user", "admin").look()

    assert seen == {"/v1/loads": "Bearer user", "/admin/decisions": "Bearer admin"}
    assert look.decisions.told == ({"dp_rank": 1},)
    assert look.loads == loads()


async def test_without_the_admin_key_everything_else_is_shown():
    """
    Why there are no decisions is told in the instance's own words.
    """

    def respond(request):
        if request.url.path == "/v1/loads":
            return httpx.Response(200, content=loads().model_dump_json())
        return httpx.Response(401, json={"error": {"message": "a valid admin API key is needed"}})

    look = await http_source(respond).look()

    assert look.decisions == ((), "a valid admin API key is needed (--admin-api-key)")


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (httpx.Response(401, json={"error": {"message": "a key"}}), KeyRefused, "a key .*--api-k"),
        (httpx.Response(503, json={"error": {"message": "restarted"}}), NoPicture, "503 restarted"),
        (httpx.Response(503, json={"error": {"message": "\x1b[2J"}}), NoPicture, r"503 \?\[2J"),
        (httpx.Response(200, json={"loads": [{"dp_rank": 0}]}), NoPicture, "not levelhead's"),
        (httpx.Response(200, text="<html>"), NoPicture, "not levelhead's"),
    ],
)
async def test_what_is_no_picture_is_told_with_its_reason(answer, error, said):
    """
    Naming the server that was asked.
    """
    with pytest.raises(error, match=f"http://door: .*{said}"):
        await http_source(lambda _: answer).look()


async def test_who_cannot_be_reached_is_named():
    """
    Refused, or silent for too long.
    """

    def refuse(request):
        raise httpx.ConnectError("refused")

    def hang(request):
        raise httpx.ReadTimeout("")

    for respond, said in ((refuse, "cannot be reached: refused"), (hang, "does not answer in 3 s")):
        with pytest.raises(NoPicture, match=f"http://door {said}"):
            await http_source(respond).look()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--json"], "--once"),
        (["ftp://x"], "URL ftp://x: allowed is http"),
        (["http://"], "allowed is"),
        (["http://x:99999"], "allowed is"),
        (["http://user:word@x"], "allowed is"),
        (["http://x/v1/loads"], "allowed is"),
        (["http://x", "--instance", "y"], "not together"),
        (["--interval", "0"], "0.1 to 86400"),
        (["--instance", "a/b"], "letters"),
        (["--colour"], "unrecognized"),
    ],
)
async def test_a_bad_flag_is_refused_with_what_is_allowed(given, said):
    """
    Before anything is read.
    """
    with pytest.raises(ConfigError, match=said):
        parse_top(given, {})


async def test_flags_win_over_the_environment_and_the_api_key_stands_in():
    """
    As for `serve`.
    """
    environment = {"LEVELHEAD_API_KEY": "env", "LEVELHEAD_ADMIN_API_KEY": ""}

    plain = parse_top(["http://x:1/v1/"], environment)
    given = parse_top(["http://x:1", "--api-key", "flag"], environment)

    assert plain.url == "http://x:1"
    assert (plain.api_key, plain.admin_api_key) == ("env", "env")
    assert (given.api_key, given.admin_api_key) == ("flag", "flag")
    assert os.environ.get("LEVELHEAD_API_KEY") is None
