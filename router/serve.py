"""
`levelhead serve`: the root process.

It makes what the others share (folder, segments, the public port), starts them
in order, keeps them running, and leaves nothing behind.  It reads no request
and no figure.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from router.descriptors import raise_descriptor_limit
from router.errors import ConfigError, StartError
from router.front_door.listening import listening_socket
from router.front_door.request_log import open_request_log
from router.group_source import GroupSource, group_source
from router.instance import Instance
from router.logs import configure_logging
from router.options import ServeOptions
from router.run_folder import make_run_folder, remove_run_folder, sweep_run_folders
from router.shared_memory import SharedMemory
from router.supervisor import Supervisor
from router.unit import Unit
from router.upkeep import Kept
from shm.board import Board
from shm.group_table import GroupEntry, GroupState, GroupTableReader
from shm.process import this_process

_log = logging.getLogger("levelhead.serve")
_LOOK_PERIOD_S = 0.1
_BACKENDS_LIMIT_S = 10.0
_TABLE_LIMIT_S = 60.0


def serve(options: ServeOptions) -> None:
    """
    Run until SIGINT or SIGTERM.

    Raises RouterError if it cannot start; whatever was made by then is gone.
    """
    configure_logging(options.log_level)
    _log.debug("a process may have %d files open", raise_descriptor_limit())
    if options.request_log is not None:
        os.close(open_request_log(options.request_log))  # refuse it now, not in each front door
    reserved = reserve_port(options.host, options.port)
    with reserved:
        source = group_source(options)
        port = reserved.getsockname()[1]
        name, epoch = options.instance or f"port{port}", time.time_ns()
        with SharedMemory.create(name, epoch, source.num_slots, options.front_doors):
            folder = make_run_folder(name, os.environ)
            for left in sweep_run_folders(folder):
                _log.info("removed %s, left by an instance that was killed", left)
            try:
                instance = _instance(options, name, epoch, folder, port, source)
                instance.save()
                asyncio.run(_run(instance, options, source))
            finally:
                remove_run_folder(folder)


def reserve_port(host: str, port: int) -> socket.socket:
    """
    Bind the public port without listening, so that nobody else takes it.

    Front doors share it (SO_REUSEPORT), so a bind by them would succeed beside
    another instance of ours: hence the first bind here, which does not share.
    Raises ConfigError if it is in use or not this machine's.
    """
    try:
        with listening_socket(host, port, shared=False) as probe:
            port = probe.getsockname()[1]
        return listening_socket(host, port, shared=True)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            "--host", host, f"it must be an address of this machine ({error})"
        ) from error
    except OSError as error:
        flag, value = ("--port", port) if error.errno == errno.EADDRINUSE else ("--host", host)
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(flag, value, f"cannot listen on {host}:{port}: {reason}") from error


def _instance(
    options: ServeOptions, name: str, epoch: int, folder: Path, port: int, source: GroupSource
) -> Instance:
    root = this_process()
    instance = Instance(
        name=name,
        epoch=epoch,
        run_dir=str(folder),
        host=options.host,
        port=port,
        dp_size=source.num_groups,
        ranks_are_a_set=options.ranks_are_a_set,
        num_front_doors=options.front_doors,
        method=options.load_balance_method,
        max_load_age_s=options.max_load_age_s,
        in_flight_board=options.in_flight_board,
        admission=options.admission,
        prefill_align=options.prefill_align,
        max_hold_ms=options.max_hold_ms,
        max_waiting_requests=options.max_waiting_requests,
        max_restart_wait_s=options.max_restart_wait_s,
        health=options.health,
        served_model_name=source.model_name,
        api_key=options.api_key,
        admin_api_key=options.admin_api_key,
        instance_key=secrets.token_hex(32),
        max_request_bytes=options.max_request_bytes,
        retry_max_retries=options.retry_max_retries,
        drain_timeout_s=options.drain_timeout_s,
        request_log=_absolute(options.request_log),
        root_pid=root.pid,
        root_start_ticks=root.start_ticks,
        seed=options.seed,
        log_level=options.log_level,
    )
    return _with_backends(instance, options, source)


def _with_backends(instance: Instance, options: ServeOptions, source: GroupSource) -> Instance:
    """The instance with what it is told of backends, if its groups are such."""
    return replace(
        instance,
        backends=source.backends,
        tokenizer_path=_absolute(options.tokenizer_path),
        backends_file=_absolute(options.backends_file),
        backend_dns=options.backend_dns,
        backend_kubernetes=options.backend_kubernetes,
        kubernetes_api=options.kubernetes_api,
        kubernetes_token_file=_absolute(options.kubernetes_token_file),
        kubernetes_ca_file=_absolute(options.kubernetes_ca_file),
        max_groups=source.max_groups,
    )


def _absolute(path: str | Path | None) -> str | None:
    """The same file from any folder."""
    return None if path is None else str(Path(path).absolute())


async def _run(instance: Instance, options: ServeOptions, source: GroupSource) -> None:
    stop = asyncio.Event()
    board = Board.attach(instance.name, writable=True)
    supervisor = Supervisor(instance, options, source.model_path, os.environ, board.reclaim)

    def on_signal() -> None:
        if stop.is_set():
            _log.warning("told twice: requests under way are cut")
            supervisor.kill()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        await until_told(_start(supervisor, instance), stop, supervisor.failed())
    finally:
        _log.info("stopping")
        await supervisor.stop()
        board.close()


async def until_told(
    start: Coroutine[None, None, None],
    stop: asyncio.Event,
    failed: Coroutine[None, None, None],
) -> None:
    """Start, and run until `stop` is set; raises what `start` or `failed` raises."""
    starting, failing = asyncio.create_task(start), asyncio.create_task(failed)
    stopping = asyncio.create_task(stop.wait())
    tasks = (starting, failing, stopping)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await asyncio.wait((failing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            await failing
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _start(supervisor: Supervisor, instance: Instance) -> None:
    """Control plane, ranks, then the doors that clients knock at."""
    what = "backends" if instance.has_backends else instance.served_model_name
    _log.info("starting %d DP groups of %s", instance.dp_size, what)
    everybody: list[Kept] = [supervisor.control_plane, *supervisor.ranks]
    doors = supervisor.front_doors
    for kept in everybody:
        await kept.start()
    await _come_up(supervisor, [supervisor.control_plane], _table(instance))
    if instance.has_backends:
        await _some_ready(instance)
    else:
        await _come_up(supervisor, supervisor.ranks, _all_ready(instance))
    for unit in doors:
        await unit.start()
    await _come_up(supervisor, doors, _all_listen(doors))
    greeting = banner(instance, _groups(instance))
    print(greeting, file=sys.stdout, flush=True)  # noqa: T201  for people, not a log line


async def _come_up(
    supervisor: Supervisor, starting: Sequence[Kept], ready: Awaitable[None]
) -> None:
    """Wait until those are ready, and keep them from then on."""
    await supervisor.started(starting, ready)
    for kept in starting:
        supervisor.keep(kept)


async def _table(instance: Instance) -> None:
    """The control plane's first sign of life: it has told what it knows of the groups."""
    with closing(GroupTableReader.attach(instance.name)) as reader:
        try:
            async with asyncio.timeout(_TABLE_LIMIT_S):
                while reader.snapshot() is None:  # noqa: ASYNC110  another process's state
                    await asyncio.sleep(_LOOK_PERIOD_S)
        except TimeoutError:
            raise StartError(
                f"the control plane has published no table in {_TABLE_LIMIT_S:g} s"
            ) from None


async def _all_ready(instance: Instance) -> None:
    with closing(GroupTableReader.attach(instance.name)) as reader:
        while True:
            table = reader.snapshot()
            if table and all(group.state is GroupState.READY for group in table.groups):
                return
            await asyncio.sleep(_LOOK_PERIOD_S)


async def _some_ready(instance: Instance) -> None:
    """Backends are not ours to wait for: whoever is not ready after a moment comes later."""
    try:
        async with asyncio.timeout(_BACKENDS_LIMIT_S):
            await _all_ready(instance)
    except TimeoutError:
        _log.warning("not all backends are ready; those that are not serve once they answer well")


async def _all_listen(front_doors: list[Unit]) -> None:
    """By each one's own socket: at the shared port any of them answers for all."""
    for unit in front_doors:
        while not await unit.answers():  # noqa: ASYNC110  another process's state
            await asyncio.sleep(_LOOK_PERIOD_S)


def _groups(instance: Instance) -> tuple[GroupEntry, ...]:
    """Those that there are by now: with sources, nobody knew at the start."""
    with closing(GroupTableReader.attach(instance.name)) as reader:
        table = reader.snapshot()
    return table.groups if table else ()


def banner(instance: Instance, groups: Sequence[GroupEntry]) -> str:
    """Where to send requests, with one line to paste."""
    listed = (name for group in groups for name in (group.model, *group.models) if name)
    model = instance.served_model_name or next(listed, "MODEL")
    url = f"http://{instance.host}:{instance.port}"
    key = " -H 'Authorization: Bearer $LEVELHEAD_API_KEY'" if instance.api_key else ""
    key = key.replace("'", '"')
    request = (
        f'{{"model": "{model}", "stream": true, "max_tokens": 64, '
        '"messages": [{"role": "user", "content": "What is a spirit level?"}]}'
    )
    return (
        f"\nlevelhead is ready: {url}/v1  ({len(groups)} DP groups, {instance.method})\n\n"
        f"  curl -iN {url}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n"
        f"    -d '{request}'\n\n"
        f"  loads {url}/v1/loads   metrics {url}/metrics   docs {url}/docs\n"
    )
