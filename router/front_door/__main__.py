"""Entry of a front-door process: `python -m router.front_door --run-dir DIR --slot N`."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import uvloop

from router.front_door.assembly import make_sink
from router.front_door.dispatcher import Segments
from router.front_door.garbage import calm_garbage_collection
from router.front_door.listening import listening_socket
from router.front_door.server import FrontDoor
from router.instance import Instance
from router.logs import configure_logging
from shm.board import Board
from shm.group_table import GroupTableReader
from shm.load import LoadReader


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m router.front_door")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--slot", type=int, required=True)
    arguments = parser.parse_args()
    instance = Instance.load(arguments.run_dir)
    configure_logging(instance.log_level)
    uvloop.run(_serve(instance, arguments.slot))


async def _serve(instance: Instance, slot: int) -> None:
    segments = Segments(
        GroupTableReader.attach(instance.name),
        LoadReader.attach(instance.name),
        Board.attach(instance.name, writable=True),
    )
    calm_garbage_collection()
    loop = asyncio.get_running_loop()
    door = FrontDoor(instance, slot, segments, loop, sink=make_sink(instance))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, door.stop)
    await door.run(listening_socket(instance.host, instance.port, shared=True))
    segments.close()


if __name__ == "__main__":
    main()
