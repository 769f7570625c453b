"""
A front door: one process on the public port, and what its connections share.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress

import orjson

from balancer.cost_model import CostFit
from balancer.retry_budget import RetryBudget
from router.front_door.assembly import make_controller
from router.front_door.client import ClientConnection
from router.front_door.decision_log import DecisionLog
from router.front_door.decision_teller import DecisionTeller
from router.front_door.dispatcher import Dispatcher, Segments
from router.front_door.engine_prompts import engine_prompts
from router.front_door.exchange import Client, Exchange
from router.front_door.lobby import Lobby
from router.front_door.message import Request
from router.front_door.meters import Meters
from router.front_door.passive_health import PassiveHealth
from router.front_door.prefix_intake import Whereabouts
from router.front_door.prefixes import Prefixes
from router.front_door.prompt import PromptCounter
from router.front_door.reception import Reception
from router.front_door.request_log import RequestLog
from router.front_door.request_reader import Limits
from router.front_door.services import Services
from router.front_door.settlement import Settlement
from router.front_door.tracing import SpanSink, Tracing
from router.front_door.upstream_pool import UpstreamPool
from router.front_door.wishes import Wishes
from router.instance import Instance
from shm.group_table import GroupEntry

_log = logging.getLogger("levelhead.front_door")
_BACKLOG = 4096
_TICK_S = 0.25
_MAX_IDLE_TICKS = 12  # 3 s: uvicorn and llama.cpp close after 5 s
_TICKS_PER_CHECK = 8  # of how long clients have been silent


class FrontDoor:
    """Accepts clients, answers them, and stops without cutting anybody off."""

    def __init__(
        self,
        instance: Instance,
        slot: int,
        segments: Segments,
        loop: asyncio.AbstractEventLoop,
        clock_s: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        executor: Executor | None = None,
        sink: SpanSink | None = None,
    ) -> None:
        """
        `clock_ns` is the one of the groups' samples.

        `executor` counts long prompts beside the loop: one thread unless given.  `sink`: gets
        spans of dispatches, and is closed at the end.
        """
        self._instance, self._slot = instance, slot
        self._epoch = segments.next_epoch(slot, time.time_ns())
        self._segments = segments
        self.clock_s = clock_s
        self.limits = _limits(instance)
        self._connections: set[ClientConnection] = set()
        self._stopping = asyncio.Event()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self.meters = Meters(instance.num_slots)
        self._decisions = DecisionLog(instance.max_decisions)
        self._counter = PromptCounter()
        max_idle = _MAX_IDLE_TICKS if instance.has_backends else None
        self._pool = UpstreamPool(loop, max_idle_ticks=max_idle)
        self._costs = CostFit()
        self._passive_health = self._watch(clock_ns)
        self.dispatcher = self._dispatcher(clock_ns)
        self.prefixes = self._prefixes()
        self.settlement = self._questions()
        self._sink = sink
        self._services = self._shared(executor or ThreadPoolExecutor(1, "tokenize"))
        self._lobby = Lobby.wanted(instance, self.dispatcher, self.meters, loop)
        self._reception = Reception(instance, self._services, self._lobby)

    def _watch(self, clock_ns: Callable[[], int]) -> PassiveHealth:
        chance = random.Random(self._epoch)  # cool-downs must differ between front doors
        return PassiveHealth(self._instance.health, self.meters, chance, clock_ns)

    def _prefixes(self) -> Prefixes:
        tellers = Whereabouts(self._instance.control_socket, self._instance.instance_key)
        return Prefixes(self._pool, self.dispatcher.controller, self._counter, tellers)

    def _dispatcher(self, clock_ns: Callable[[], int]) -> Dispatcher:
        board = self._segments.board
        return Dispatcher(
            make_controller(
                self._instance, self._slot, self._epoch, board, self._costs, clock_ns()
            ),
            self._segments,
            self._slot,
            self.meters,
            clock_ns,
            self._on_table,
            self._pool.lose,
            self._pool.spare,
            rows_read=None if self._instance.in_flight_board else (),
            passive_health=self._passive_health,
            decisions=self._decisions,
        )

    def _questions(self) -> Settlement:
        ledger, outcomes = self.dispatcher.controller.ledger, self.meters.settlements
        return Settlement(
            self._pool,
            f"{self._slot}/{self._epoch}",
            ledger.epoch,
            outcomes,
            instance_key=self._instance.instance_key,
        )

    def _shared(self, executor: Executor) -> Services:
        return Services(
            dispatcher=self.dispatcher,
            counter=self._counter,
            engine_prompts=engine_prompts(self._instance),
            meters=self.meters,
            pool=self._pool,
            settlement=self.settlement,
            passive_health=self._passive_health,
            wishes=Wishes(self.dispatcher.newest_ranks, self._instance.method),
            executor=executor,
            clock_s=self.clock_s,
            slot=self._slot,
            epoch=self._epoch,
            retry_budget=RetryBudget(self._instance.health.retry_budget_percent),
            max_retries=self._instance.retry_max_retries,
            request_log=RequestLog.opened(self._instance.request_log),
            tracing=self._tracing(),
            instance_key=self._instance.instance_key,
        )

    def _tracing(self) -> Tracing | None:
        if self._sink is None:
            return None
        return Tracing(self._sink, self._slot, self._instance.method, self.clock_s, time.time_ns)

    def _on_table(self, groups: tuple[GroupEntry, ...]) -> None:
        if self._lobby is not None:
            self._lobby.observe_groups(groups)
        self.prefixes.follow(groups)
        folders = {entry.tokenizer_dir for entry in groups if entry.epoch}
        if len(folders) == 1:
            self._counter.use_tokenizer(folders.pop())

    # What a connection asks

    @property
    def is_stopping(self) -> bool:
        """Whether connections should close after the answer at hand."""
        return self._stopping.is_set()

    def opened(self, connection: ClientConnection) -> None:
        """A client connected."""
        self._connections.add(connection)
        self._nobody.clear()
        self.meters.open_connections += 1

    def closed(self, connection: ClientConnection) -> None:
        """A client's connection is gone."""
        self._connections.discard(connection)
        self.meters.open_connections -= 1
        if not self._connections:
            self._nobody.set()

    def exchange(self, client: Client, request: Request) -> Exchange:
        """The exchange that answers the request."""
        return self._reception.exchange(client, request)

    # Life

    async def run(self, listening: socket.socket) -> None:
        """Serve on the socket until stop() is called, then drain."""
        loop = asyncio.get_running_loop()
        self.dispatcher.refresh()
        server = await loop.create_server(
            lambda: ClientConnection(self), sock=listening, backlog=_BACKLOG
        )
        meters = await asyncio.start_unix_server(
            self._tell_meters, self._instance.meters_socket(self._slot)
        )
        teller = DecisionTeller(self._decisions, self._slot, self._instance.method)
        decisions = await asyncio.start_unix_server(
            teller.tell, self._instance.decisions_socket(self._slot)
        )
        _log.info("front door %d listens on %s", self._slot, listening.getsockname()[:2])
        async with asyncio.TaskGroup() as beside:
            ticking = beside.create_task(self._tick_on())
            await self._stopping.wait()
            server.close()
            await self._drain()
            ticking.cancel()
        self.dispatcher.tick()  # what stays on the board are the books as they are now
        meters.close()
        decisions.close()
        self.prefixes.stop()
        await self.settlement.stop()
        self._pool.close()
        self._services.executor.shutdown(cancel_futures=True)
        if self._services.request_log is not None:
            self._services.request_log.close()
        if self._sink is not None:
            await asyncio.to_thread(self._sink.close)

    def stop(self) -> None:
        """Accept nobody any more, and finish what is under way."""
        self._stopping.set()

    async def _tick_on(self) -> None:
        """What happens by time alone, until cancelled."""
        for number in itertools.count(1):
            await asyncio.sleep(_TICK_S)
            self.tick()
            if number % _TICKS_PER_CHECK == 0:
                self.check_time()

    def tick(self) -> None:
        """What must happen a few times a second without traffic too."""
        self.dispatcher.tick()
        self._pool.tick()
        if self._services.request_log is not None:
            self._services.request_log.flush()

    def check_time(self) -> None:
        """Close connections that are silent for too long; let expectations age, and costs fit."""
        self._costs.refit()
        if self.prefixes.are_wanted:
            self.dispatcher.refresh()  # without traffic too: follow the groups that are ready now
            self.prefixes.age()
        now_s = self.clock_s()
        for connection in list(self._connections):
            connection.check_time(now_s)

    async def _drain(self) -> None:
        if self._lobby is not None:
            self._lobby.close()
        for connection in list(self._connections):
            connection.stop()
        try:
            async with asyncio.timeout(self._instance.drain_timeout_s):
                await self._nobody.wait()
        except TimeoutError:
            _log.warning("drain limit reached: %d connections are cut", len(self._connections))
        for connection in list(self._connections):
            connection.abort()

    async def _tell_meters(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer whoever connects to the meters' socket with one JSON object."""
        self.dispatcher.refresh()
        self.prefixes.measure(self.meters)
        self.meters.note_costs(self._costs)
        controller = self.dispatcher.controller
        self.meters.slow_start_factors = controller.slow_start.factors()
        self.meters.open_settlements = self.settlement.num_open
        self.meters.cpu_s = time.process_time()
        figures = self.meters.as_dict() | {
            "slot": self._slot,
            "epoch": self._epoch,
            "method": controller.policy.name,
            "book": [list(book) for book in controller.books()],
            "bytes_per_token": self._counter.estimate.bytes_per_token,
        }
        writer.write(orjson.dumps(figures, option=orjson.OPT_NON_STR_KEYS))
        with suppress(ConnectionError):  # whoever asked has not waited
            await writer.drain()
            writer.close()
            await writer.wait_closed()


def _limits(instance: Instance) -> Limits:
    return Limits(
        instance.max_request_bytes,
        instance.max_header_bytes,
        instance.keep_alive_s,
        instance.request_timeout_s,
    )
