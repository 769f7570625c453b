"""
Puts one rank together and runs it: model, load reports, step loop, HTTP server.

    open the model ─► save the tokenizer ─► load weights ─► step loop ─► HTTP server ─► card
      ─► load reports

No rank waits for another: each loads, serves, reports and ends for itself.  Where ranks
compute together (workers.lockstep), they meet before the step loop, and each step is all of
theirs.  The tokenizer is there before any card, because each rank saves it, and a save of
the same replaces the same.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable

import torch
import uvloop

from shm.load import LoadReport
from shm.process import this_process
from workers.card import Card, PostedCard, State
from workers.config import WorkerConfig
from workers.engine.acceptance import AcceptedCounters, ChargeDesk
from workers.engine.engine import Engine, Ports
from workers.engine.inbox import Inbox
from workers.engine.meter import LoadMeter
from workers.engine.occupation import Occupation
from workers.engine.prefix_cache import PrefixCache
from workers.engine.radix_cache import RadixCache
from workers.engine.scheduler import Scheduler
from workers.engine.watchdog import Watchdog
from workers.loading import Loaded, load, tokenizer_dir
from workers.parts import make_cache, make_scheduler, memory_of
from workers.ranks.thread import OnFatal
from workers.server.app import Service, build_app
from workers.server.client import EngineClient
from workers.server.drain import STEP_LIMIT_S, Drain
from workers.server.intake import Intake, ServedModel
from workers.server.occupation import OccupationDesk, Surroundings
from workers.server.prefix_feed import Cache, CacheState, PrefixFeed
from workers.server.serving import Calls, LeaderServer, SignalMemory, bind

logger = logging.getLogger("levelhead.workers")


def run(
    config: WorkerConfig,
    on_loaded: Callable[[], None],
    on_fatal: OnFatal,
) -> None:
    """
    Serve until a signal comes.  Signals are the caller's until on_loaded, and are
    listened to from before that on, so none falls in between.

    Raises InvalidConfig, ModelError or SegmentError for what cannot work.
    """
    torch.set_num_threads(1)  # the step loop's thread has its own; see ModelRunner.warm_up
    loaded = load(config, on_fatal)
    gc.collect()
    gc.freeze()
    signals = SignalMemory()
    on_loaded()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(loaded, signals, on_fatal))


async def _serve(loaded: Loaded, signals: SignalMemory, on_fatal: OnFatal) -> None:
    config, inbox = loaded.config, Inbox()
    client = EngineClient(inbox, asyncio.get_running_loop())
    watchdog = Watchdog(config.watchdog_timeout_s, time.monotonic)

    def report(report: LoadReport) -> None:
        watchdog.note(report)
        loaded.reports.put(loaded.seen_as(report))

    def is_ready() -> bool:
        return watchdog.is_well() and not inbox.is_closed

    scheduler = make_scheduler(config, loaded.pool, make_cache(config))
    engine = _engine(loaded, inbox, Ports(client.deliver, report, on_fatal), scheduler)
    drain = Drain(config.drain_timeout_s, time.monotonic)
    feed = _prefix_feed(loaded, scheduler.cache, client, is_ready)
    listener = bind(config.host)
    card = _card(loaded, listener.getsockname()[1])
    posted = PostedCard(card, config.run_dir)
    app = build_app(_service(loaded, client, drain, is_ready, scheduler, feed, posted))

    def announce() -> None:
        posted.post()
        loaded.reports.start()
        logger.info("ready: group %d on %s:%d", card.dp_rank, card.host, card.port)

    def announce_drain() -> None:
        posted.post(State.DRAINING)
        logger.info("draining: group %d, for at most %g s", card.dp_rank, config.drain_timeout_s)

    engine.start()
    try:
        calls = Calls(announce, announce_drain, engine.stop)
        server = LeaderServer(app, calls, drain, signals)
        await server.serve([listener])
    finally:
        posted.remove()
        engine.stop()
        await asyncio.to_thread(engine.join, _end_limit_s(config))
        logger.info("stopped: group %d", card.dp_rank)


def _occupation(
    loaded: Loaded, client: EngineClient, scheduler: Scheduler, posted: PostedCard
) -> OccupationDesk:
    occupation = Occupation(scheduler, memory_of(loaded.config, loaded.runner))
    around = Surroundings(posted.post, loaded.config.drain_timeout_s)
    return OccupationDesk(occupation, client, around)


def _end_limit_s(config: WorkerConfig) -> float:
    """For the step under way; with others, for all that they still have to drain."""
    return STEP_LIMIT_S + (config.drain_timeout_s if config.enable_dp_attention else 0.0)


def _prefix_feed(
    loaded: Loaded, cache: PrefixCache, client: EngineClient, is_ready: Callable[[], bool]
) -> PrefixFeed | None:
    """What tells front doors of the cache; None if it keeps nothing."""
    if not isinstance(cache, RadixCache):
        return None
    journal, digests = cache.journal, cache.digests

    def look(tell: Callable[[CacheState], None]) -> None:
        client.look(lambda: CacheState(journal.read(), digests()), tell)

    epoch, page_size = loaded.group.epoch, loaded.config.page_size
    return PrefixFeed(Cache(epoch, page_size, journal, look, is_ready))


def _service(
    loaded: Loaded,
    client: EngineClient,
    drain: Drain,
    is_ready: Callable[[], bool],
    scheduler: Scheduler,
    feed: PrefixFeed | None,
    posted: PostedCard,
) -> Service:
    config = loaded.config
    model = ServedModel(
        config.served_model_name,
        loaded.max_model_len,
        config.dp_rank,
        scheduler.limits.max_requests,
    )
    return Service(
        Intake(model, loaded.codec, client.next_id, lambda i: i * config.dp_size + config.dp_rank),
        client,
        ChargeDesk(client.settle, time.monotonic),
        drain,
        loaded.group.epoch,
        config.num_front_doors,
        config.max_request_bytes,
        is_ready,
        lambda: scheduler.totals,
        config.instance_key,
        feed,
        occupation=_occupation(loaded, client, scheduler, posted),
        barrier=None if loaded.barrier is None else loaded.barrier.read,
    )


def _engine(loaded: Loaded, inbox: Inbox, ports: Ports, scheduler: Scheduler) -> Engine:
    config = loaded.config
    return Engine(
        inbox,
        scheduler,
        loaded.runner,
        AcceptedCounters(config.num_front_doors),
        LoadMeter(loaded.group, time.monotonic_ns),
        ports,
        config.heartbeat_s,
    )


def _card(loaded: Loaded, port: int) -> Card:
    config, process = loaded.config, this_process()
    return Card(
        dp_rank=loaded.group.dp_rank,
        epoch=loaded.group.epoch,
        host=config.host,
        port=port,
        pid=process.pid,
        start_ticks=process.start_ticks,
        model=config.served_model_name,
        max_model_len=loaded.max_model_len,
        page_size=config.page_size,
        kv_capacity_tokens=loaded.pool.capacity_tokens,
        tokenizer_dir=str(tokenizer_dir(config)),
    )
