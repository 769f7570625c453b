"""The source that is a name: what is made of a resolver's answers."""

import asyncio
import logging
import subprocess
import sys
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from dns.asyncresolver import Resolver

from router.backends.backend import Backend, Kind
from router.backends.dns_source import DnsSource
from router.backends.resolving import Place, Unresolved, addresses, services
from router.errors import ConfigError
from router.options import parse_serve
from tests.router.fakes import soon, until

pytestmark = pytest.mark.anyio
ONE, TWO = Place("10.0.0.1", 80), Place("10.0.0.2", 80)
A, B = Backend("10.0.0.1", 80), Backend("10.0.0.2", 80)


class Answers:
    """A resolver that answers in this order, and what its source has told."""

    def __init__(self, *answers, text="engines:80"):
        self._answers = list(answers)
        self._num_answers = len(answers)
        self.told = []
        self.pauses = []
        self.source = DnsSource(text, self._sleep, self._resolve)

    async def _resolve(self):
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _sleep(self, pause_s):
        self.pauses.append(pause_s)
        await asyncio.sleep(0)
        if not self._answers:
            await asyncio.Event().wait()

    async def all_given(self):
        keeping = asyncio.create_task(self.source.keep(self.told.append))
        await until(lambda: len(self.pauses) == self._num_answers)  # the last one was told, too
        keeping.cancel()
        return self.told


async def test_each_address_is_a_backend_with_the_settings_of_the_name():
    """
    Told when the answer changes, and not before.
    """
    text = "engines:80,kind=vllm,dp-size=2,weight=3,every=30"
    answers = Answers([ONE], [ONE], [ONE, TWO], [TWO], text=text)

    one, two = (Backend(host, 80, Kind.VLLM, 2, 3.0) for host in ("10.0.0.1", "10.0.0.2"))
    assert await answers.all_given() == [(one,), (one, two), (two,)]
    assert set(answers.pauses) == {30.0}


async def test_what_stood_stands_while_the_resolver_gives_no_answer(caplog):
    """
    However long; the log has a line when that begins and one when it is over.
    """
    caplog.set_level(logging.INFO, "levelhead.backends")
    failures = [Unresolved("try again"), Unresolved("timed out")] * 5
    answers = Answers([ONE], *failures, [ONE])

    assert await answers.all_given() == [(A,)]
    assert [message.partition(": ")[2] for message in caplog.messages[1:2]] == [
        "try again: the 1 stand"
    ]
    assert caplog.messages[2:] == [
        "--backend-dns engines:80 is good again, with the same 1 backends"
    ]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([[ONE], [], [], [ONE]], [(A,)]),
        ([[ONE], [], [], []], [(A,), ()]),
        ([[ONE], [], [], [], [], [TWO]], [(A,), (), (B,)]),
        ([[ONE], [], [], Unresolved("x"), [], []], [(A,)]),
        ([[], [], []], [()]),
    ],
)
async def test_that_there_is_none_is_believed_the_third_time_in_a_row(answers, told):
    """
    Records go for a moment when they are replaced.
    """
    assert await Answers(*answers).all_given() == told


async def test_an_answer_that_is_long_in_coming_is_waited_for(caplog):
    """
    Another question would wait behind it; the log says so meanwhile.
    """
    answer, told = asyncio.Event(), []

    async def resolve():
        await answer.wait()
        return [ONE]

    source = DnsSource("engines:80", asyncio.sleep, resolve, patience_s=0.0)
    asking = asyncio.create_task(source.ask(told.append))
    await until(lambda: caplog.messages)
    assert "no answer for 0 s: nothing is known yet" in caplog.text
    answer.set()
    await soon(asking)

    assert told == [(A,)]


async def test_a_source_that_is_told_to_end_leaves_no_question_behind():
    """
    The task of the question ends with it.
    """
    ended = asyncio.Event()

    async def resolve():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    asking = asyncio.create_task(DnsSource("a:80", asyncio.sleep, resolve).ask(list))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()

    await soon(ended.wait())


async def test_the_system_resolves_names_and_addresses():
    """
    A family can be asked for; a port goes with each address.
    """
    assert Place("127.0.0.1", 81) in await soon(addresses("localhost", 81))
    assert await soon(addresses("127.0.0.1", 81)) == [Place("127.0.0.1", 81)]
    assert await soon(addresses("localhost", 81, "ipv4")) == [Place("127.0.0.1", 81)]


class _NameServer(asyncio.DatagramProtocol):
    def __init__(self, records, rcode):
        self._records = records
        self._rcode = rcode

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, data, peer):
        answer = dns.message.make_response(dns.message.from_wire(data))
        answer.flags |= dns.flags.RA
        answer.set_rcode(self._rcode)
        if self._records:
            name = answer.question[0].name
            answer.answer = [dns.rrset.from_text(name, 1, "IN", "SRV", *self._records)]
        self._transport.sendto(answer.to_wire(), peer)


@asynccontextmanager
async def asked(*records, rcode=dns.rcode.NOERROR):
    """A resolver whose name server answers every question with these SRV records."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _NameServer(records, rcode), ("127.0.0.1", 0)
    )
    resolver = Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], transport.get_extra_info("sockname")[1]
    resolver.lifetime = resolver.timeout = 1.0
    try:
        yield resolver
    finally:
        transport.close()


@pytest.mark.parametrize(
    ("records", "places"),
    [
        (["0 1 8000 127.0.0.1."], [Place("127.0.0.1", 8000)]),
        (
            ["5 1 8001 localhost.", "5 9 8000 localhost.", "6 1 9 localhost."],
            [Place("127.0.0.1", 8000), Place("127.0.0.1", 8001)],
        ),
        (["0 0 0 ."], []),
        ([], []),
    ],
)
async def test_srv_records_tell_ports_of_the_first_priority(records, places):
    """
    Over the wire, from a name server; "." says that the service is not there.
    """
    async with asked(*records) as resolver:
        assert await soon(services("_http._tcp.engines.", "ipv4", resolver)) == places


async def test_a_name_that_is_not_there_is_an_answer_and_a_failing_server_is_none():
    """
    The first is believed in the end, the second never.
    """
    async with asked(rcode=dns.rcode.NXDOMAIN) as resolver:
        assert await soon(services("_http._tcp.engines.", "any", resolver)) == []
    async with asked(rcode=dns.rcode.SERVFAIL) as resolver:
        with pytest.raises(Unresolved, match=r"^_http\._tcp\.engines\.: "):
            await soon(services("_http._tcp.engines.", "any", resolver))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engines", "'engines': allowed are NAME:PORT, and _SERVICE._PROTO.NAME without port"),
        ("http://engines:80", "'http://engines:80': allowed are NAME:PORT"),
        ("engines:", "'engines:': allowed are NAME:PORT"),
        ("engines:0", "allowed are ports 1 to 65535"),
        ("a b:80", "'a b:80': allowed are NAME:PORT"),
        ("engines:80,kind=tgi", "kind=tgi: allowed are auto, vllm"),
        ("engines:80,ca-file=/x", "'ca-file=/x': allowed after the name are kind=..., dp-size="),
        ("engines:80,family=4", "family=4: allowed are any, ipv4, ipv6"),
        ("engines:80,every=0.1", "every=0.1: allowed are seconds, 1 to 3600"),
        ("engines:80,every=nan", "every=nan: allowed are seconds, 1 to 3600"),
        ("engines:80,api-key-env=NO", "api-key-env=NO: the environment has no NO"),
    ],
)
def test_a_bad_name_is_refused_with_what_is_allowed(text, said):
    """
    At the start.
    """
    with pytest.raises(ConfigError, match="--backend-dns") as refused:
        parse_serve(["--backend-dns", text], {})

    assert said in str(refused.value)


def test_a_name_is_told_once_and_refuses_flags_of_our_workers():
    """
    As the others do.
    """
    with pytest.raises(ConfigError, match="--backend-dns a:1: is told twice"):
        parse_serve(["--backend-dns", "a:1", "--backend-dns", "a:1"], {})
    with pytest.raises(ConfigError, match="--dp-size 3: is for workers of ours"):
        parse_serve(["--backend-dns", "a:1", "--dp-size", "3"], {})

    assert parse_serve(["--backend-dns", "_http._tcp.a"], {}).backend_dns == ("_http._tcp.a",)


def test_srv_records_without_their_reader_are_refused_and_addresses_are_not():
    """
    With the command that mends it.
    """
    code = (
        "import sys; sys.modules['dns'] = None\n"
        "from router.backends.dns_source import parse_dns\n"
        "print(parse_dns('a:1').name)\n"
        "try: parse_dns('_http._tcp.a')\n"
        "except ValueError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout == (
        "a\n'_http._tcp.a': SRV records need a package that is not there: pip install "
        "'levelhead[dns]'; NAME:PORT needs none\n"
    )
