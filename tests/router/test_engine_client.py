"""How engines are asked: over TLS, with a key, each in its own way."""

import logging

import orjson
import pytest

from router.backends.backend import BackendGroup, Kind, backend_of, parse_backend
from router.backends.discovery import Discovery
from router.backends.engine_client import Accesses, engine_client
from router.backends.inquiry import NoAnswer, inquire
from router.control_plane.backend_health import BackendProbe
from router.control_plane.health import Health
from shm.group_table import GroupEntry, GroupState
from tests.router.certified import Authority
from tests.router.fakes import soon
from tests.router.groups import FakeGroup

pytestmark = pytest.mark.anyio
LIMIT_S = 5.0


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def ok(received):
    received.answer()


def guarded(key):
    """What an engine answers that wants that key for all but its health."""

    def respond(received):
        if received.header(b"authorization") != [b"Bearer " + key]:
            received.answer(b"{}", status=b"401 Unauthorized")
        else:
            received.answer(orjson.dumps({"data": [{"id": "m", "owned_by": "llamacpp"}]}))

    return respond


async def test_an_engine_that_wants_a_key_is_found_out_with_it(authority):
    """
    Over TLS, by the name that its certificate has.
    """
    async with authority.engine(guarded(b"sk-1")) as engine:
        backend = parse_backend(
            f"https://localhost:{engine.port},ca-file={authority.file},api-key-env=KEY"
        )
        async with engine_client(Accesses({"KEY": "sk-1"}, [backend])) as client:
            [found] = await soon(Discovery(client).groups([backend]))

    assert found.groups == (
        BackendGroup(
            "localhost", engine.port, Kind.LLAMACPP, tls=authority.file, api_key_env="KEY"
        ),
    )
    assert found.model == "m"


async def test_a_key_goes_to_the_engine_whose_it_is_and_to_nobody_else():
    """
    Nor does an engine that wants none get another's.
    """
    async with FakeGroup.listening(ok) as one, FakeGroup.listening(ok) as two:
        backends = [backend_of(f"http://127.0.0.1:{one.port}", {"api-key-env": "KEY"})]
        async with engine_client(Accesses({"KEY": "sk-1"}, backends)) as client:
            for engine in (one, two):
                await soon(inquire(client, f"http://127.0.0.1:{engine.port}/metrics", LIMIT_S))

    keys = [engine.received[0].header(b"authorization") for engine in (one, two)]
    assert keys == [[b"Bearer sk-1"], []]


async def test_an_engine_that_is_learnt_later_is_asked_in_its_own_way_from_then_on(authority):
    """
    Backends come while the instance runs.
    """
    async with authority.engine(ok) as engine:
        backend = parse_backend(f"https://localhost:{engine.port},ca-file={authority.file}")
        accesses = Accesses({})
        async with engine_client(accesses) as client:
            with pytest.raises(NoAnswer, match="certificate verify failed"):
                await soon(inquire(client, backend.url, LIMIT_S))
            accesses.learn([backend])

            assert (await soon(inquire(client, backend.url, LIMIT_S))).is_good


async def test_authorities_are_read_again_when_their_file_has_changed(authority, tmp_path):
    """
    Certificates are replaced while a front door runs for months.
    """
    (tmp_path / "later").mkdir()
    later = Authority(tmp_path / "later")
    async with later.engine(ok) as engine:
        backend = parse_backend(f"https://localhost:{engine.port},ca-file={authority.file}")
        async with engine_client(Accesses({}, [backend])) as client:
            with pytest.raises(NoAnswer, match="certificate verify failed"):
                await soon(inquire(client, backend.url, LIMIT_S))
            authority.replace(later)

            assert (await soon(inquire(client, backend.url, LIMIT_S))).is_good


async def test_why_tls_does_not_come_about_is_told_once_and_that_it_does_again(
    authority, tmp_path, caplog
):
    """
    An engine is asked several times a second.
    """
    caplog.set_level(logging.INFO, "levelhead.backends")
    (tmp_path / "later").mkdir()
    later = Authority(tmp_path / "later")
    async with later.engine(ok) as engine:
        backend = parse_backend(f"https://localhost:{engine.port},ca-file={authority.file}")
        async with engine_client(Accesses({}, [backend])) as client:
            for _ in range(3):
                with pytest.raises(NoAnswer):
                    await soon(inquire(client, backend.url, LIMIT_S))
            authority.replace(later)
            for _ in range(2):
                await soon(inquire(client, backend.url, LIMIT_S))

    first, second = caplog.messages
    assert first.startswith(f"{backend.url} cannot be reached, TLS does not come about: ")
    assert "certificate verify failed" in first
    assert second == f"{backend.url}: TLS comes about again"


async def test_a_connection_that_is_refused_is_no_matter_of_tls(caplog):
    """
    The probe tells of it.
    """
    backend = parse_backend("https://localhost:1")
    async with engine_client(Accesses({}, [backend])) as client:
        with pytest.raises(NoAnswer):
            await soon(inquire(client, backend.url, LIMIT_S))

    assert caplog.messages == []


@pytest.mark.parametrize(("is_known", "health"), [(True, Health.WELL), (False, Health.UNWELL)])
async def test_an_engine_behind_tls_is_probed_there(authority, is_known, health):
    """
    One whose certificate is not good is as good as gone.
    """
    async with authority.engine(ok) as engine:
        backend = parse_backend(f"https://localhost:{engine.port},ca-file={authority.file}")
        tls = authority.file if is_known else "system"
        row = GroupEntry(0, GroupState.READY, 1, "localhost", engine.port, engine="vllm", tls=tls)
        async with engine_client(Accesses({}, [backend] if is_known else [])) as client:
            assert await soon(BackendProbe(client).ask(row)) is health
