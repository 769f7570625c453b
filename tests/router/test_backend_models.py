"""Requests go to engines that have their model, and all engines' models are told together."""

import httpx
import orjson
import pytest

from router.backends.backend import BackendGroup, Kind
from router.control_plane.backend_models import BackendModels
from router.instance import Instance
from shm.group_table import GroupState
from tests.router.backends import Backends
from tests.router.clients import get, post
from tests.router.watched_engine import engines_of

pytestmark = pytest.mark.anyio
READY, DEAD = GroupState.READY, GroupState.DEAD
MODELS = [("small",), ("large", "lora"), ()]


def asking(model, extra=b""):
    return post(orjson.dumps({"model": model, "prompt": "a"}), b"/v1/completions", extra)


async def served(site, request):
    """Which server got the request."""
    before = site.num_received
    site.client.send(request)
    response = await site.client.response()
    assert response.status == 200
    return [now - then for now, then in zip(site.num_received, before, strict=True)].index(1)


def answers(received):
    received.answer()


def refuses(received):
    received.answer(b"full", status=b"503 Service Unavailable")


# The front door


@pytest.mark.parametrize(
    ("model", "servers"),
    [("small", {0, 2}), ("lora", {1, 2}), ("other", {2}), (None, {0, 1, 2}), (5, {0, 1, 2})],
)
async def test_a_request_goes_where_its_model_is_or_may_be(model, servers):
    """
    The third engine does not say what it serves, so it may serve what nobody lists.
    """
    async with Backends.opened(None, None, None, respond=answers, method="round_robin") as site:
        site.present(models=MODELS)

        assert {await served(site, asking(model)) for _ in range(9)} == servers


async def test_a_group_that_was_asked_for_is_asked_whatever_it_serves():
    """
    By number.
    """
    async with Backends.opened(None, None, None, respond=answers) as site:
        site.present(models=MODELS)

        assert await served(site, asking("small", b"X-Data-Parallel-Rank: 1\r\n")) == 1


async def test_a_request_waits_for_no_engine_that_has_not_its_model():
    """
    With the only one that has it dead it is refused, and not sent to another.
    """
    async with Backends.opened(None, None, respond=answers) as site:
        site.present(DEAD, READY, models=MODELS[:2])
        site.client.send(asking("small"))

        assert (await site.client.response()).status == 503
        assert site.num_received == [0, 0]


async def test_a_retry_goes_where_the_model_is_too():
    """
    There is no third one.
    """
    async with Backends.opened(None, None, None, respond=refuses) as site:
        site.present(models=[("m",), ("m",), ("other",)])
        site.client.send(asking("m"))

        assert (await site.client.response()).body == b"full"
        assert site.num_received == [1, 1, 0]


async def test_one_engine_tells_its_models_itself_and_of_several_we_tell():
    """
    No control plane runs here, so it says so.
    """
    async with Backends.opened((0, 1), respond=answers) as site:
        site.client.send(get(b"/v1/models"))
        assert (await site.client.response()).status == 200
    async with Backends.opened(None, None, respond=answers) as site:
        site.client.send(get(b"/v1/models"))
        assert (await site.client.response()).status == 503
        assert site.num_received == [0, 0]


# The control plane


class Engines:
    """Two servers' lists of models, by host."""

    def __init__(self, **lists):
        self.lists = lists

    async def __call__(self, request):
        told = self.lists[request.url.host]
        return httpx.Response(200, json=told) if told is not None else httpx.Response(503)


def listing(*names):
    return {"object": "list", "data": [{"id": name, "x": 1} for name in names]}


async def asked(engines, models):
    async with httpx.AsyncClient(transport=httpx.MockTransport(engines)) as client:
        models._client = client
        for url in ("http://a:1", "http://b:1"):
            await models.ask(url)


def over(kind=Kind.VLLM):
    groups = [BackendGroup("a", 1, kind), BackendGroup("b", 1, Kind.OPENAI)]
    models = BackendModels(httpx.AsyncClient())
    models.follow(engines_of(Instance("i", 1, "", "", 0, 2, backends=tuple(groups))))
    return models


async def test_all_models_are_told_once_as_their_engines_tell_of_them():
    """
    Whatever fields they have.
    """
    models = over()
    await asked(Engines(a=listing("m", "n"), b=listing("n", "o")), models)

    assert models.all() == listing("m", "n", "o")["data"]
    assert (models.names("http://a:1"), models.names("http://b:1")) == (("m", "n"), ("n", "o"))


async def test_an_engine_that_takes_any_name_is_not_chosen_by_names():
    """
    What it lists is told all the same.
    """
    models = over(Kind.LLAMACPP)
    await asked(Engines(a=listing("m.gguf"), b=None), models)

    assert models.names("http://a:1") == ()
    assert models.all() == listing("m.gguf")["data"]


@pytest.mark.parametrize(
    "told", [None, [], {"data": None}, {"data": [{"name": "m"}]}, {"data": [{"id": 5}]}]
)
async def test_what_was_listed_stands_while_nothing_better_is(told):
    """
    No answer, or none that is understood.
    """
    models = over()
    await asked(Engines(a=listing("m"), b=None), models)

    await asked(Engines(a=told, b=None), models)

    assert models.names("http://a:1") == ("m",)


async def test_a_list_that_does_not_fit_the_table_is_not_chosen_by(caplog):
    """
    A warning says so, once.
    """
    models = over()
    await asked(Engines(a=listing(*(f"adapter-{n:04}" for n in range(99))), b=None), models)

    assert (models.names("http://a:1"), models.names("http://a:1")) == ((), ())
    assert caplog.text.count("http://a:1 lists 99 models") == 1


async def test_a_list_is_measured_as_it_is_written_into_the_table():
    """
    Some letters take six bytes there.
    """
    models = over()
    await asked(Engines(a=listing("\u0001" * 80), b=listing("x" * 470)), models)

    assert (models.names("http://a:1"), models.names("http://b:1")) == ((), ("x" * 470,))
    assert len(orjson.dumps(["x" * 470])) <= 480


@pytest.mark.parametrize(
    "body", [b'{"data":[{"id":"\\ud800"}]}', b"[" * 100_000, b'{"data":5}', b"\xff"]
)
async def test_a_list_that_is_no_list_of_names_is_not_known(body):
    """
    Half a character, or a depth that has no end.
    """

    async def odd(_request):
        return httpx.Response(200, content=body)

    models = over()
    await asked(odd, models)

    assert (models.names("http://a:1"), models.all()) == ((), [])
