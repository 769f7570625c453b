from pathlib import Path

import httpx
import pytest

from router.backends.backend import BackendGroup, Kind, parse_backend
from router.backends.discovery import Discovered, Discovery
from router.errors import StartError

RECORDED = Path(__file__).parent / "recorded"
pytestmark = pytest.mark.anyio
VLLM_METRICS = (RECORDED / "vllm-metrics.txt").read_bytes()


class Server:
    """Answers by path; what is not in `answers` is 404, and with none at all it refuses."""

    def __init__(self, **answers):
        self.answers = answers
        self.later = []
        """Answers after each pause."""
        self.now_s = 0.0
        self.each_s = 0.0
        """How long it takes to be asked something that it does not answer."""
        self.num_asked = 0

    async def __call__(self, request):
        self.num_asked += 1
        if not self.answers:
            self.now_s += self.each_s
            raise httpx.ConnectError("refused")
        body = self.answers.get(request.url.path)
        return httpx.Response(404) if body is None else httpx.Response(200, content=body)

    async def pause(self, seconds):
        self.now_s += seconds
        if self.later:
            self.answers = self.later.pop(0)


async def discovered(server, *told):
    async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as client:
        discovery = Discovery(client, server.pause, lambda: server.now_s)
        return await discovery.groups([parse_backend(each) for each in told])


def group(kind, rank=None):
    return BackendGroup("a", 1, kind, rank)


async def test_what_answers_is_found_out():
    """
    Kind, ranks and model.
    """
    models = (RECORDED / "vllm-models.json").read_bytes()
    server = Server(**{"/v1/models": models, "/metrics": VLLM_METRICS})

    found = await discovered(server, "http://a:1")

    assert found == [Discovered((group(Kind.VLLM),), "SmolLM2-135M-Instruct")]


async def test_each_rank_of_an_engine_is_a_group():
    """
    At one address.
    """
    server = Server(**{"/get_server_info": b'{"dp_size":2}'})

    found = await discovered(server, "http://a:1")

    assert found[0].groups == (group(Kind.SGLANG, 0), group(Kind.SGLANG, 1))


async def test_an_engine_that_is_told_in_full_need_not_be_up():
    """
    It is asked once, for its model.
    """
    found = await discovered(Server(), "http://a:1,kind=vllm,dp-size=2", "http://a:1,kind=llamacpp")

    assert [each.groups for each in found] == [
        (group(Kind.VLLM, 0), group(Kind.VLLM, 1)),
        (group(Kind.LLAMACPP),),
    ]


async def test_an_engine_that_comes_up_is_waited_for():
    """
    One that loads its model answers that it does.
    """
    server = Server()
    server.later = [{"/nothing": b""}, {"/props": b'{"default_generation_settings":{}}'}]

    found = await discovered(server, "http://a:1")

    assert found[0].groups == (group(Kind.LLAMACPP),)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, "--backend http://a:1 does not answer; with kind=... and dp-size=... it need not be"),
        ({"/v1/models": b"{}"}, "--backend http://a:1 answers, but not as any engine"),
    ],
)
async def test_an_engine_that_stays_unknown_is_refused(answers, said):
    """
    With what to say of it.
    """
    with pytest.raises(StartError, match=said.replace(".", r"\.")):
        await discovered(Server(**answers), "http://a:1")


async def test_as_many_ranks_as_were_said_are_addressed(caplog):
    """
    The engine's own if it has so many; else a warning, and those from 0 on.
    """
    metrics = VLLM_METRICS.replace(b'"0"', b'"4"') + VLLM_METRICS.replace(b'"0"', b'"5"')

    two = await discovered(Server(**{"/metrics": metrics}), "http://a:1,kind=vllm,dp-size=2")
    three = await discovered(Server(**{"/metrics": metrics}), "http://a:1,kind=vllm,dp-size=3")

    assert [each.engine_rank for each in two[0].groups] == [4, 5]
    assert [each.engine_rank for each in three[0].groups] == [0, 1, 2]
    assert "dp-size=3 was said, the engine tells of 2 DP rank(s)" in caplog.text


async def test_an_engine_that_has_no_ranks_cannot_have_several():
    """
    Said when it has told what it is.
    """
    server = Server(**{"/v1/models": b'{"data":[{"id":"m","owned_by":"me"}]}'})

    with pytest.raises(StartError, match=r"a:1 is openai, which has no DP ranks.*dp-size=2"):
        await discovered(server, "http://a:1,dp-size=2")


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_an_engine_of_which_only_the_kind_is_known_has_to_answer(kind, caplog):
    """
    It may have several ranks; one that answers without telling them is one group.
    """
    told = f"http://a:1,kind={kind}"
    with pytest.raises(StartError, match=r"a:1 does not answer; with kind=\.\.\. and dp-size"):
        await discovered(Server(), told)
    assert "does not tell" not in caplog.text

    found = await discovered(Server(**{"/nothing": b""}), told)

    assert found[0].groups == (group(Kind(kind)),)
    assert "http://a:1 does not tell how many DP ranks it has: it is one group" in caplog.text


async def test_an_engine_that_takes_its_time_is_waited_for_as_long_as_one_that_refuses():
    """
    A minute: what a question takes is part of it.
    """
    quick, slow = Server(), Server()
    slow.each_s = 1.0
    for server in (quick, slow):
        with pytest.raises(StartError):
            await discovered(server, "http://a:1")
        assert 60 <= server.now_s < 67

    assert quick.num_asked == 121 * 6
    assert slow.num_asked < 11 * 6


async def test_one_group_of_an_engine_of_several_ranks_spreads_them_by_itself(caplog):
    """
    No rank is addressed, and the log says what that means.
    """
    server = Server(**{"/get_server_info": b'{"dp_size":4}'})

    found = await discovered(server, "http://a:1,dp-size=1")

    assert found[0].groups == (group(Kind.SGLANG),)
    assert "tells of 4 DP rank(s): it is ONE group, and spreads" in caplog.text


# One that comes while others serve


async def found(server, told, num_pauses=200):
    """What it is found to be, and what was told meanwhile, each in a row once."""
    heard = []

    async def pause(seconds):
        assert server.now_s < num_pauses * 10
        await server.pause(seconds)

    async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as client:
        discovery = Discovery(client, pause, lambda: server.now_s)
        return await discovery.found(parse_backend(told), heard.append), heard


async def test_a_newcomer_is_asked_until_it_answers_ever_more_slowly():
    """
    However long it is away, and also if all was said of it: its ranks are to be checked.
    """
    for told in ("http://a:1", "http://a:1,kind=llamacpp"):
        server = Server()
        server.later = [{}] * 30 + [{"/props": b'{"default_generation_settings":{}}'}]

        discovered, heard = await found(server, told)

        assert discovered.groups == (group(Kind.LLAMACPP),)
        assert set(heard) == {"http://a:1 does not answer: it is asked until it does"}
        assert 200 < server.now_s < 310


async def test_a_newcomer_that_is_nothing_known_is_asked_on():
    """
    Saying so.
    """
    server = Server(**{"/nothing": b""})
    server.later = [{"/nothing": b""}] * 9 + [{"/props": b'{"default_generation_settings":{}}'}]

    _, heard = await found(server, "http://a:1")

    assert heard[0].startswith("http://a:1 answers, but not as any engine that is known here")


async def test_a_newcomer_that_never_tells_its_ranks_is_one_group_after_a_minute(caplog):
    """
    As at the start.
    """
    server = Server(**{"/nothing": b""})

    discovered, heard = await found(server, "http://a:1,kind=vllm")

    assert discovered.groups == (group(Kind.VLLM),)
    assert set(heard) == {
        "http://a:1 is vllm, and does not tell yet how many DP ranks it has (dp-size=N)"
    }
    assert 60 <= server.now_s <= 71
    assert "it is one group; dp-size=N says otherwise" in caplog.text


async def test_a_newcomer_that_cannot_be_what_was_said_is_told_and_asked_on():
    """
    Its operator may start another engine there.
    """
    models = b'{"data":[{"id":"m","owned_by":"me"}]}'
    server = Server(**{"/v1/models": models})
    server.later = [{"/v1/models": models}] * 2 + [{"/get_server_info": b'{"dp_size":2}'}]

    discovered, heard = await found(server, "http://a:1,dp-size=2")

    assert "is openai, which has no DP ranks" in heard[0]
    assert len(discovered.groups) == 2


EVENTS = "kv-events=5557,kv-replay=tcp://b:5600"


async def test_each_rank_publishes_at_a_port_of_its_own():
    """
    The one that was said is that of rank 0; one rank alone may be any.
    """
    two = await discovered(Server(), f"http://a:1,kind=vllm,dp-size=2,{EVENTS}")
    metrics = VLLM_METRICS.replace(b'"0"', b'"4"')
    fifth = await discovered(Server(**{"/metrics": metrics}), f"http://a:1,kind=vllm,{EVENTS}")

    told = [(each.kv_events, each.kv_replay) for found in (two, fifth) for each in found[0].groups]
    assert told == [
        ("tcp://a:5557", "tcp://b:5600"),
        ("tcp://a:5558", "tcp://b:5601"),
        ("tcp://a:5561", "tcp://b:5604"),
    ]


async def test_a_rank_over_the_last_port_is_refused():
    """
    Before anything is started.
    """
    with pytest.raises(StartError, match="DP rank 1 would be at a port over 65535"):
        await discovered(Server(), "http://a:1,kind=vllm,dp-size=2,kv-events=65535")


async def test_an_engine_found_to_publish_nothing_is_refused_with_its_events():
    """
    What it is was not said.
    """
    server = Server(**{"/v1/models": b'{"data":[{"id":"m","owned_by":"me"}]}'})
    with pytest.raises(StartError, match="openai publishes none, vllm and sglang do"):
        await discovered(server, "http://a:1,kv-events=5557")


async def test_the_events_of_one_group_of_several_ranks_are_not_used(caplog):
    """
    For nobody knows which rank a request goes to.
    """
    server = Server(**{"/get_server_info": b'{"dp_size":4}'})

    found = await discovered(server, f"http://a:1,dp-size=1,{EVENTS}")

    assert found[0].groups == (group(Kind.SGLANG),)
    assert "its KV events are not used" in caplog.text
