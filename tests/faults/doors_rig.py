"""
Real front-door processes over stand-in groups: an instance whose groups do as the test says.

Each front door has a port of its own here, so that the test knows whom it asks; they share the
segments as those of one instance do.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.front_door.listening import listening_socket
from router.instance import Instance
from router.shared_memory import SharedMemory
from shm.group_table import GroupEntry, GroupState, GroupTableWriter
from shm.load import LoadReport, LoadWriter
from tests.faults.chaos.client import Ask, Connection
from tests.faults.chaos.reading import End
from tests.faults.stand_in_group import EPOCH, StandInGroup

NUM_DOORS = NUM_GROUPS = 4
LIMIT_S = 60.0
_PATH = "/v1/completions"


class DoorsRig:
    """An async context manager: four front doors, four groups, and the test as publisher."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        """`changes` to the instance."""
        self._folder, self._changes = folder, changes
        self._arrived = asyncio.Condition()
        self.groups = [StandInGroup(n, NUM_DOORS, self._arrived) for n in range(NUM_GROUPS)]
        self.late: set[int] = set()
        """Groups whose reports do not come for now."""
        self._reports: dict[int, LoadReport] = {}
        self._instances: list[Instance] = []
        self._exits = AsyncExitStack()
        self._idle: list[list[Connection]] = [[] for _ in range(NUM_DOORS)]

    async def __aenter__(self) -> DoorsRig:
        for group in self.groups:
            await group.start()
            self._exits.callback(group.stop)
        name, epoch = f"rig.{os.getpid()}.{time.monotonic_ns()}", time.time_ns()
        self._exits.enter_context(SharedMemory.create(name, epoch, NUM_GROUPS, NUM_DOORS))
        self._writer = LoadWriter.attach(name, NUM_GROUPS, NUM_DOORS)
        self._exits.callback(self._writer.close)
        self._publish_table(name)
        self.publish()
        for slot in range(NUM_DOORS):
            self._start_door(name, epoch, slot)
        for slot in range(NUM_DOORS):
            await self._until_up(slot)
        return self

    async def __aexit__(self, *_: object) -> None:
        for idle in self._idle:
            for connection in idle:
                connection.close()
        await self._exits.aclose()

    # The publisher

    def publish(self) -> None:
        """A new report of every group that is not late; the others' last one again."""
        now_ns = time.monotonic_ns()
        for group in self.groups:
            if group.dp_rank not in self.late:
                self._reports[group.dp_rank] = group.report(now_ns)
        self._writer.publish(self._reports.values(), now_ns)

    async def keep_publishing(self, period_s: float) -> None:
        """As a publisher does, until cancelled."""
        while True:
            self.publish()
            await asyncio.sleep(period_s)

    # The clients

    async def ask(self, slot: int, prompt_bytes: int) -> None:
        """One request through that front door, over a connection that is kept."""
        idle = self._idle[slot]
        connection = idle.pop() if idle else self._connection(slot)
        body = json.dumps({"prompt": "x" * prompt_bytes}).encode()
        reading = await connection.ask(Ask(0, _PATH, body, False), LIMIT_S)
        assert (reading.end, reading.status) == (End.WHOLE, 200), reading
        idle.append(connection)

    async def connect(self, per_door: int) -> None:
        """Open that many connections to each front door, with a first request on each."""
        asking = [
            asyncio.create_task(self.ask(slot, 4))
            for slot in range(NUM_DOORS)
            for _ in range(per_door)
        ]
        await self.until_held(len(asking))
        self.end_all()
        await asyncio.gather(*asking)

    # The groups

    async def until_held(self, num_requests: int) -> None:
        """Wait until the groups hold that many."""
        async with asyncio.timeout(LIMIT_S), self._arrived:
            await self._arrived.wait_for(lambda: sum(self.requests()) >= num_requests)

    def requests(self) -> list[int]:
        """Open requests by group."""
        return [len(group.held) for group in self.groups]

    def end_all(self) -> None:
        """Answer everybody."""
        for group in self.groups:
            for dp_balance_id in list(group.held):
                group.end(dp_balance_id)

    def imbalance(self) -> float:
        """Largest over mean of what the groups truly hold, in tokens."""
        tokens = [group.holding_tokens for group in self.groups]
        return max(tokens) * len(tokens) / sum(tokens)

    # The front doors

    async def meters(self) -> list[dict[str, Any]]:
        """What each front door counts."""
        return [await self._meters(slot) for slot in range(NUM_DOORS)]

    def log(self, slot: int) -> str:
        """What that front door said."""
        return (self._door_folder(slot) / "log").read_text()

    def _door_folder(self, slot: int) -> Path:
        return self._folder / f"door-{slot}"

    def _publish_table(self, name: str) -> None:
        entries = [
            GroupEntry(group.dp_rank, GroupState.READY, EPOCH, "127.0.0.1", group.port, "m", 8192)
            for group in self.groups
        ]
        table = GroupTableWriter.attach(name)
        table.publish(entries, time.monotonic_ns())
        table.close()

    def _start_door(self, name: str, epoch: int, slot: int) -> None:
        folder = self._door_folder(slot)
        folder.mkdir()
        with listening_socket("127.0.0.1", 0, shared=False) as probe:
            port = probe.getsockname()[1]
        instance = Instance(
            name=name,
            epoch=epoch,
            run_dir=str(folder),
            host="127.0.0.1",
            port=port,
            dp_size=NUM_GROUPS,
            num_front_doors=NUM_DOORS,
            method="minimum_tokens",
        )
        instance = replace(instance, **self._changes)
        instance.save()
        self._instances.append(instance)
        command = ["-m", "router.front_door", "--run-dir", str(folder), "--slot", str(slot)]
        log = self._exits.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
        self._exits.callback(_end, process)

    def _connection(self, slot: int) -> Connection:
        return Connection("127.0.0.1", self._instances[slot].port, time.monotonic)

    async def _until_up(self, slot: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    await self._meters(slot)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    return

    async def _meters(self, slot: int) -> dict[str, Any]:
        path = self._instances[slot].meters_socket(slot)
        reader, writer = await asyncio.open_unix_connection(path)
        told: dict[str, Any] = json.loads(await reader.read())
        writer.close()
        await writer.wait_closed()
        return told


def _end(process: subprocess.Popen[bytes]) -> None:
    """At once: how a front door stops is not what this is for."""
    process.kill()
    process.wait()


def total(lists: Sequence[Sequence[int]]) -> list[int]:
    """Sums by position."""
    return [sum(values) for values in zip(*lists, strict=True)]
