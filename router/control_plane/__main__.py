"""Entry of the control plane: `python -m router.control_plane --run-dir DIR`."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import uvicorn
import uvloop

from balancer.methods import PREFIX_METHODS
from router.backends.engine_client import Accesses, engine_client
from router.backends.kv_endpoint import why_not
from router.backends.sources import sources_of
from router.control_plane.app import ControlPlane, build_app
from router.control_plane.enrolled import Enrolled
from router.control_plane.figures import Figures
from router.control_plane.kv_events.readers import KvReaders
from router.control_plane.members import Members
from router.control_plane.membership import Membership
from router.control_plane.occupation import OccupationClient
from router.control_plane.tokenizing import Tokenizing
from router.control_plane.totals import TotalsReader
from router.instance import Instance
from router.logs import configure_logging
from shm.board import Board
from shm.group_table import GroupEntry, GroupTableReader, GroupTableWriter
from shm.load import LoadReader, LoadWriter


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m router.control_plane")
    parser.add_argument("--run-dir", type=Path, required=True)
    arguments = parser.parse_args()
    instance = Instance.load(arguments.run_dir)
    configure_logging(instance.log_level)
    uvloop.run(_serve(instance, Accesses(os.environ, instance.backends)))


async def _serve(instance: Instance, accesses: Accesses) -> None:
    writer = GroupTableWriter.attach(instance.name)
    reader = GroupTableReader.attach(instance.name)
    known = reader.snapshot()
    reader.close()
    found = known.groups if known else ()
    loads, board = LoadReader.attach(instance.name), Board.attach(instance.name)
    async with (
        engine_client(accesses) as probes,
        engine_client(accesses) as engines,
        _leaders_client(instance) as tokenizing,
        _leaders_client(instance) as totals,
        _leaders_client(instance) as occupation,
    ):
        enrolled = _enrolled(instance, writer, board, (probes, engines), found, accesses)
        beyond = enrolled.collector.beyond if enrolled else {}
        figures = Figures(loads, board, time.monotonic_ns, beyond)
        membership: Members = (
            Membership(instance, writer, probes, figures, time.monotonic_ns, found)
            if enrolled is None
            else enrolled.membership
        )
        kv_readers = _kv_readers(instance, membership)
        asked = (Tokenizing(tokenizing), TotalsReader(totals), enrolled, kv_readers)
        memory = OccupationClient(occupation)
        control = ControlPlane(instance, membership, figures, *asked, memory)
        server = _Server(_config(build_app(control), instance), kv_readers)
        keeping = asyncio.create_task(_keep(enrolled or membership, kv_readers))
        await _answer(server, keeping)
        membership.close()
        if enrolled is not None:
            enrolled.close()
    for segment in (writer, loads, board):
        segment.close()
    if not keeping.cancelled():
        keeping.result()  # membership must not end on its own: say why, and be restarted


class _Server(uvicorn.Server):
    """Lets go of those who follow prefix caches, for whom it would wait for ever."""

    def __init__(self, config: uvicorn.Config, kv_readers: KvReaders | None) -> None:
        super().__init__(config)
        self._kv_readers = kv_readers

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, once every connection has."""
        if self._kv_readers is not None:
            self._kv_readers.close()
        await super().shutdown(sockets)


async def _keep(members: Members | Enrolled, kv_readers: KvReaders | None) -> None:
    async with asyncio.TaskGroup() as together:
        together.create_task(members.keep())
        if kv_readers is not None:
            together.create_task(kv_readers.keep())


async def _answer(server: uvicorn.Server, keeping: asyncio.Task[None]) -> None:
    """Until it is told to end, or nothing is kept any more."""
    keeping.add_done_callback(lambda _: setattr(server, "should_exit", True))
    await server.serve()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


def _kv_readers(instance: Instance, membership: Members) -> KvReaders | None:
    """None where nobody uses them, or could: `levelhead serve` has said so where it matters."""
    is_wanted = instance.has_backends and instance.method in PREFIX_METHODS
    if not is_wanted or why_not(instance.tokenizer_path):
        return None
    import zmq.asyncio  # of an extra, as is what the next imports

    from router.control_plane.kv_events.zmq_reader import zmq_wire

    return KvReaders(lambda: membership.groups, zmq_wire(zmq.asyncio.Context()))


def _enrolled(
    instance: Instance,
    writer: GroupTableWriter,
    board: Board,
    clients: tuple[httpx.AsyncClient, httpx.AsyncClient],
    found: Sequence[GroupEntry],
    accesses: Accesses,
) -> Enrolled | None:
    """None with workers of ours, who report themselves and are as many as they are."""
    if not instance.has_backends:
        return None
    loads = LoadWriter.attach(instance.name, instance.num_slots, instance.num_front_doors)
    segments, sources = (writer, board, loads), sources_of(instance)
    return Enrolled(
        instance, segments, clients, found, sources, time.monotonic_ns, learn=accesses.learn
    )


def _leaders_client(instance: Instance) -> httpx.AsyncClient:
    """For what leaders answer to members of the instance alone; one for each asker."""
    key = {"x-levelhead-instance-key": instance.instance_key}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    return httpx.AsyncClient(trust_env=False, headers=key, limits=limits)


def _config(app: object, instance: Instance) -> uvicorn.Config:
    Path(instance.control_socket).unlink(missing_ok=True)  # a killed one leaves it
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # FastAPI is an ASGI application
        uds=instance.control_socket,
        access_log=False,
        log_level="warning",
        timeout_keep_alive=3600,
        lifespan="off",
    )


if __name__ == "__main__":
    main()
