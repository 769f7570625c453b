"""The source that is a Kubernetes service, before an API server that lists and watches."""

import asyncio
import logging
import random
from contextlib import asynccontextmanager

import pytest

from router.backends.backend import Backend, Kind
from router.backends.kubernetes.source import KubernetesSource
from router.errors import ConfigError
from router.options import parse_serve
from tests.router.certified import Authority
from tests.router.fakes import until
from tests.router.kubernetes_api import FakeApi, endpoint, ready

pytestmark = pytest.mark.anyio
TEXT = "serving/engines"


def backends(*hosts, port=8000):
    return tuple(Backend(host, port) for host in hosts)


class Watching:
    """A source that runs, and what it has told."""

    def __init__(self, api, server, text):
        self.api = api
        self.told = []
        self.pauses = []
        self.source = KubernetesSource(text, server, self._sleep, random.Random(1))

    async def _sleep(self, pause_s):
        self.pauses.append(pause_s)
        await asyncio.sleep(0.001)

    async def tells(self, *hosts, port=8000):
        await until(lambda: self.told and self.told[-1] == backends(*hosts, port=port))

    async def watches(self):
        """Until it does, so that it misses nothing."""
        await until(lambda: self.api.num_watches == 1)


@asynccontextmanager
async def watching(text=TEXT, tls=None, token_file=None, ca_file=None, prepare=None):
    async with FakeApi.listening(tls) as api:
        api.apply("engines-1", ready("10.0.0.1"))
        if prepare is not None:
            prepare(api)
        site = Watching(api, api.at(token_file, ca_file), text)
        keeping = asyncio.create_task(site.source.keep(site.told.append))
        try:
            yield site
        finally:
            assert not keeping.done()
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


async def test_ready_endpoints_are_told_as_they_come_and_go():
    """
    Of all slices of the service together; each change as it is watched.
    """
    async with watching() as site:
        await site.tells("10.0.0.1")
        await site.watches()
        site.api.apply("engines-2", ready("10.0.0.2", "10.0.0.3"))
        await site.tells("10.0.0.1", "10.0.0.2", "10.0.0.3")
        site.api.apply("engines-1", [])
        await site.tells("10.0.0.2", "10.0.0.3")
        site.api.delete("engines-2")
        await site.tells()

        assert site.api.lists == 1


async def test_settings_go_with_each_endpoint():
    """
    The same for all of the service.
    """
    async with watching(TEXT + ":9000,kind=vllm,weight=2") as site:
        await until(lambda: site.told == [(Backend("10.0.0.1", 9000, Kind.VLLM, None, 2.0),)])


async def test_an_endpoint_that_terminates_is_told_no_more():
    """
    Though it serves still: what it has it finishes.
    """
    async with watching() as site:
        await site.tells("10.0.0.1")
        await site.watches()
        leaving = endpoint("10.0.0.1", ready=False, serving=True, terminating=True)
        site.api.apply("engines-1", [leaving, *ready("10.0.0.2")])

        await site.tells("10.0.0.2")


@pytest.mark.parametrize("how", ["end_watches", "break_watches"])
async def test_a_watch_that_ends_or_breaks_goes_on_where_it_was(how, caplog):
    """
    From the last version, without a list, and what came meanwhile is not missed.
    """
    async with watching() as site:
        await site.tells("10.0.0.1")
        await site.watches()
        site.api.apply("engines-2", ready("10.0.0.2"))
        await site.tells("10.0.0.1", "10.0.0.2")
        getattr(site.api, how)()
        site.api.apply("engines-3", ready("10.0.0.3"))

        await site.tells("10.0.0.1", "10.0.0.2", "10.0.0.3")
        assert site.api.lists == 1
        assert site.api.watched_from[:2] == [101, 102]
        assert caplog.messages == []


async def test_a_bookmark_moves_the_version_and_nothing_else():
    """
    So that a quiet service's is not forgotten.
    """
    async with watching() as site:
        await site.tells("10.0.0.1")
        await site.watches()
        site.api.bookmark()
        site.api.end_watches()
        await until(lambda: len(site.api.watched_from) > 1)

        assert site.api.watched_from[:2] == [101, 111]
        assert site.told == [backends("10.0.0.1")]


@pytest.mark.parametrize("as_event", [True, False])
async def test_what_is_too_old_is_listed_again(as_event, caplog):
    """
    Told within the stream or by its status; who went while nobody watched is gone.
    """
    async with watching() as site:
        site.api.is_gone_told_as_event = as_event
        await site.tells("10.0.0.1")
        await site.watches()
        site.api.break_watches()
        site.api.delete("engines-1")
        site.api.apply("engines-2", ready("10.0.0.2"))
        site.api.compact()

        await site.tells("10.0.0.2")
        assert site.api.lists == 2
        assert site.told == [backends("10.0.0.1"), backends("10.0.0.2")]
        assert caplog.messages == []


async def test_what_stood_stands_while_the_api_refuses_and_it_is_asked_ever_less_often(caplog):
    """
    One line when that begins, and one when it is over; pauses double, give or take a half.
    """
    caplog.set_level(logging.INFO, "levelhead.backends")
    async with watching() as site:
        await site.tells("10.0.0.1")
        await site.watches()
        site.api.refusal = (500, "etcd is away")
        before = len(site.pauses)
        site.api.break_watches()
        await until(lambda: len(site.pauses) > before + 9)
        assert site.told == [backends("10.0.0.1")]
        assert not site.source.standing.is_good
        pauses = site.pauses[before + 1 : before + 9]
        site.api.refusal = None
        await until(lambda: site.source.standing.is_good)

    for pause_s, doubled in zip(pauses, (1, 2, 4, 8, 16, 30, 30, 30), strict=True):
        assert doubled / 2 <= pause_s <= doubled * 1.5
    assert len(set(pauses)) == len(pauses)
    _, bad, good = caplog.messages
    assert bad == f"--backend-kubernetes {TEXT}: it answers 500: etcd is away: the 1 stand"
    assert good.endswith("is good again, with the same 1 backends")


async def test_another_refusal_is_told_too(caplog):
    """
    A network that was not there yet must not hide a role that is missing.
    """
    async with watching() as site:
        await site.watches()
        site.api.refusal = (500, "etcd is away")
        site.api.break_watches()
        await until(lambda: "etcd is away" in caplog.text)
        site.api.refusal = (403, "forbidden")
        await until(lambda: "it answers 403: forbidden" in caplog.text)

        assert site.source.standing.why_bad == "it answers 403: forbidden"


async def test_pauses_begin_anew_after_a_watch_that_had_nothing_to_tell():
    """
    A quiet service is as good as another: its next trouble does not begin with half a minute.
    """
    async with watching() as site:
        await site.watches()
        site.api.refusal = (500, "etcd is away")
        site.api.break_watches()
        await until(lambda: site.pauses[-1:] > [20])
        site.api.refusal = None
        await site.watches()
        await until(lambda: site.source.standing.is_good)
        site.api.break_watches()
        await site.watches()
        site.api.refusal = (500, "etcd is away again")
        before = len(site.pauses)
        site.api.break_watches()
        await until(lambda: len(site.pauses) > before + 1)

        assert max(site.pauses[before : before + 2]) <= 1.5


async def test_who_may_list_and_not_watch_is_told_so_and_not_good_in_turns(caplog):
    """
    The reason names what is missing in the role.
    """

    def forbid(api):
        api.watch_refusal = (403, "endpointslices is forbidden: cannot watch")

    async with watching(prepare=forbid) as site:
        await until(lambda: site.api.lists > 3)

        assert caplog.messages == [
            f"--backend-kubernetes {TEXT}: it answers 403: endpointslices is forbidden: cannot "
            "watch: nothing is known yet"
        ]
        assert site.told == []


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\n", b"[]\n", b'{"type":"ADDED"}\n', b'{"type":"ADDED","object":{"metadata":'
        b'{"resourceVersion":"7"}}}\n', b'{"type":"ERROR","object":{"code":500}}\n',
    ],
)  # fmt: skip
async def test_what_is_no_event_makes_it_list_again(raw):
    """
    What it missed nobody knows.
    """
    async with watching() as site:
        await site.tells("10.0.0.1")
        await site.watches()
        site.api.send(raw)
        await until(lambda: site.api.lists == 2 and site.source.standing.is_good)

        assert site.told == [backends("10.0.0.1")]


async def test_a_slice_that_is_none_changes_nothing_until_it_is_replaced(caplog):
    """
    The others' endpoints are not told either: half of a service is another one.
    """
    async with watching() as site:
        await site.tells("10.0.0.1")
        await site.watches()
        site.api.apply("engines-2", [{"addresses": []}])
        await until(lambda: site.source.standing.why_bad)
        assert "an EndpointSlice is not one" in caplog.text
        site.api.apply("engines-2", ready("10.0.0.2"))

        await site.tells("10.0.0.1", "10.0.0.2")


async def test_the_token_is_read_anew_and_never_told(tmp_path, caplog):
    """
    Kubernetes replaces it within the hour.
    """
    file = tmp_path / "token"
    file.write_text("secret-1\n")

    def guard(api):
        api.token = "secret-1"

    async with watching(token_file=str(file), prepare=guard) as site:
        await site.tells("10.0.0.1")
        await site.watches()
        site.api.token = "secret-2"
        site.api.break_watches()
        await until(lambda: not site.source.standing.is_good)
        file.write_text("secret-2\n")
        site.api.apply("engines-2", ready("10.0.0.2"))

        await site.tells("10.0.0.1", "10.0.0.2")
        assert "it answers 401: Unauthorized" in caplog.text
        assert "secret" not in caplog.text


@pytest.mark.parametrize("content", [None, "", "two words", "line\nline"])
async def test_a_token_that_cannot_be_sent_is_told_as_such(tmp_path, content, caplog):
    """
    By the file, without what is in it.
    """
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    async with watching(token_file=str(file)) as site:
        await until(lambda: caplog.messages)

        why = "No such file or directory" if content is None else "there is no token in it"
        assert f"{file}: {why}" in caplog.text
        assert site.told == []


@pytest.mark.parametrize("is_known", [True, False])
async def test_the_api_is_verified_by_its_authority(tmp_path, is_known, caplog):
    """
    A token goes to nobody else.
    """
    authority = Authority(tmp_path)
    ca_file = authority.file if is_known else None
    async with watching(tls=authority.context("localhost"), ca_file=ca_file) as site:
        if is_known:
            await site.tells("10.0.0.1")
        else:
            await until(lambda: caplog.messages)
            assert "certificate verify failed" in caplog.text
            assert site.api.lists == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["engines"], "'engines': allowed is NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORT"),
        (["a/B"], "'a/B': allowed is NAMESPACE/SERVICE"),
        (["a/b:0"], "allowed are ports 1 to 65535"),
        (["a/b,role=x"], "'role=x': allowed after the service are kind=..., dp-size="),
        (["a/b,family=any"], "family=any: allowed are ipv4, ipv6"),
        (["a/b"], "the environment has no KUBERNETES_SERVICE_HOST: outside a cluster, --kub"),
        (["a/b", "--kubernetes-api", "k8s:6443"], "'k8s:6443': allowed is http[s]://host:port"),
        (["a/b", "--kubernetes-api", "http://k", "--kubernetes-ca-file", "/no"], "/no cannot be"),
        (["a/b", "--kubernetes-api", "http://k", "--backend-kubernetes", "a/b"], "is told twice"),
        (["a/b,api-key-env=NO", "--kubernetes-api", "http://k"], "the environment has no NO"),
    ],
)
def test_a_bad_service_or_api_is_refused_with_what_is_allowed(arguments, said):
    """
    At the start.
    """
    with pytest.raises(ConfigError) as refused:
        parse_serve(["--backend-kubernetes", *arguments], {})

    assert said in str(refused.value)


def test_an_api_that_nobody_asks_is_refused():
    """
    Whoever told it meant something.
    """
    with pytest.raises(ConfigError, match="--kubernetes-api http://k: is for --backend-kubern"):
        parse_serve(["--backend", "http://a:1", "--kubernetes-api", "http://k"], {})
