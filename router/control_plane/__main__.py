"""Entry of the control plane: `python -m router.control_plane --run-dir DIR`."""

from __future__ import annotations

import argparse
import asyncio
import socket
import time
from pathlib import Path

import httpx
import uvicorn
import uvloop

from balancer.methods import PREFIX_METHODS
from router.backends.kv_endpoint import why_not
from router.control_plane.app import ControlPlane, build_app
from router.control_plane.backend_health import BackendProbe
from router.control_plane.backend_membership import BackendMembership
from router.control_plane.backend_models import BackendModels
from router.control_plane.collector import Collector
from router.control_plane.figures import Figures
from router.control_plane.health import probe_client
from router.control_plane.kv_events.readers import KvReaders
from router.control_plane.members import Members
from router.control_plane.membership import Membership
from router.control_plane.table import Table
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
    uvloop.run(_serve(instance))


async def _serve(instance: Instance) -> None:
    writer = GroupTableWriter.attach(instance.name)
    reader = GroupTableReader.attach(instance.name)
    known = reader.snapshot()
    reader.close()
    loads, board = LoadReader.attach(instance.name), Board.attach(instance.name)
    async with (
        probe_client() as probes,
        probe_client() as engines,
        _leaders_client(instance) as tokenizing,
        _leaders_client(instance) as totals,
    ):
        collector = _collector(instance, board, engines)
        figures = Figures(loads, board, time.monotonic_ns, collector.beyond if collector else ())
        models = BackendModels(instance.backends, engines)
        found = known.groups if known else ()
        membership = _members(instance, writer, probes, figures, models, found)
        kv_readers = _kv_readers(instance, membership)
        asked = (Tokenizing(tokenizing), TotalsReader(totals))
        listed = models if instance.backends else None
        control = ControlPlane(instance, membership, figures, *asked, listed, kv_readers)
        server = _Server(_config(build_app(control), instance), kv_readers)
        keeping = asyncio.create_task(_keep(membership, collector, models, kv_readers))
        keeping.add_done_callback(lambda _: setattr(server, "should_exit", True))
        await server.serve()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        membership.close()
        if collector is not None:
            collector.close()
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


async def _keep(
    membership: Members,
    collector: Collector | None,
    models: BackendModels,
    kv_readers: KvReaders | None,
) -> None:
    async with asyncio.TaskGroup() as together:
        together.create_task(membership.keep())
        together.create_task(models.keep())
        if collector is not None:
            together.create_task(collector.keep())
        if kv_readers is not None:
            together.create_task(kv_readers.keep())


def _collector(instance: Instance, board: Board, client: httpx.AsyncClient) -> Collector | None:
    """None with workers of ours, who report themselves."""
    if not instance.backends:
        return None
    writer = LoadWriter.attach(instance.name, instance.dp_size, instance.num_front_doors)
    return Collector(instance, board, writer, client, time.monotonic_ns)


def _kv_readers(instance: Instance, membership: Members) -> KvReaders | None:
    """None where nobody uses them, or could: `levelhead serve` has said so where it matters."""
    is_wanted = instance.backends and instance.method in PREFIX_METHODS
    if not is_wanted or why_not(instance.tokenizer_path):
        return None
    import zmq.asyncio  # of an extra, as is what the next imports

    from router.control_plane.kv_events.zmq_reader import zmq_wire

    return KvReaders(lambda: membership.groups, zmq_wire(zmq.asyncio.Context()))


def _members(
    instance: Instance,
    writer: GroupTableWriter,
    probes: httpx.AsyncClient,
    figures: Figures,
    models: BackendModels,
    found: tuple[GroupEntry, ...],
) -> Members:
    clock_ns = time.monotonic_ns
    if not instance.backends:
        return Membership(instance, writer, probes, figures, clock_ns, found)
    table, probe = Table(writer, clock_ns, found), BackendProbe(probes)
    return BackendMembership(instance, table, probe, models, clock_ns, found)


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
