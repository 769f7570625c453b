"""What the inference exchanges of one front door share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple

from balancer.retry_budget import RetryBudget
from router.front_door.dispatcher import Dispatcher
from router.front_door.engine_prompts import EnginePrompts
from router.front_door.meters import Meters
from router.front_door.passive_health import PassiveHealth
from router.front_door.prompt import PromptCounter
from router.front_door.request_log import RequestLog
from router.front_door.settlement import Settlement
from router.front_door.tracing import Tracing
from router.front_door.upstream_pool import UpstreamPool
from router.front_door.wishes import Wishes


class Services(NamedTuple):
    """Handed to every exchange; none of them owns any of it."""

    dispatcher: Dispatcher
    counter: PromptCounter
    engine_prompts: EnginePrompts | None
    """What backends' tokenizer says of prompts; None: there is none, they are estimated."""
    meters: Meters
    pool: UpstreamPool
    settlement: Settlement
    passive_health: PassiveHealth
    wishes: Wishes
    executor: Executor
    clock_s: Callable[[], float]
    slot: int
    epoch: int
    retry_budget: RetryBudget
    max_retries: int
    """Groups that a request may be sent to after the first."""
    request_log: RequestLog | None
    """None: nobody asked for one."""
    tracing: Tracing | None
    """None: no spans are wanted."""
    instance_key: str
    """What leaders want to see before they answer."""
