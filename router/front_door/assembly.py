"""What a front door decides with, put together as its instance says."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from balancer.controller import Controller
from balancer.cost_model import CostFit
from balancer.ledger import Ledger
from balancer.methods import PREFIX_METHODS, make_policy
from balancer.prefix_index import PrefixIndex
from balancer.slow_start import SlowStart
from router.instance import Instance
from shm.board import Board

if TYPE_CHECKING:
    from router.front_door.otlp import OtlpSink

_NS_PER_S = 1_000_000_000


def make_controller(
    instance: Instance, slot: int, epoch: int, board: Board, costs: CostFit, now_ns: int
) -> Controller:
    """Of the front door in that slot, in that life of it; it notes its charges on the board."""
    rng = random.Random(instance.seed)
    ledger = Ledger(
        slot=slot,
        epoch=epoch,
        num_front_doors=instance.num_front_doors,
        num_groups=instance.num_slots,
        note=partial(board.write, slot),
    )
    return Controller(
        make_policy(instance.method, rng, costs),
        ledger,
        instance.num_slots,
        random.Random(epoch),  # ids must differ between front doors and lives, whatever the seed
        round(instance.max_load_age_s * _NS_PER_S),
        PrefixIndex(instance.num_slots) if instance.method in PREFIX_METHODS else None,
        costs,
        SlowStart(instance.health.slow_start_ns, now_ns),
        keeps_decisions=instance.max_decisions > 0 or instance.otlp_traces_endpoint is not None,
    )


def make_sink(instance: Instance) -> OtlpSink | None:
    """Where its spans go; None: nobody wants any, and the library need not be there."""
    if instance.otlp_traces_endpoint is None:
        return None
    from router.front_door.otlp import OtlpSink

    return OtlpSink(instance.otlp_traces_endpoint, instance.name)
