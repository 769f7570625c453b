"""What the DP groups of an instance are: workers of ours over a model, or backends."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from balancer.methods import PREFIX_METHODS
from router.backends.backend import BackendGroup
from router.backends.discovery import Discovery
from router.backends.engine_client import Accesses, engine_client
from router.errors import ConfigError
from router.model_source import locate
from router.options import ServeOptions

_log = logging.getLogger("levelhead.serve")
_USUAL_MAX_GROUPS = 64


@dataclass(frozen=True, slots=True)
class GroupSource:
    """Where the groups come from."""

    num_groups: int
    model_name: str
    model_path: Path | None
    """None: no worker is started."""
    backends: tuple[BackendGroup, ...] = ()
    max_groups: int | None = None
    """Slots of an instance whose groups come and go; None: there are these and no others."""

    @property
    def num_slots(self) -> int:
        """What the segments have to have room for."""
        return self.num_groups if self.max_groups is None else self.max_groups


def group_source(options: ServeOptions) -> GroupSource:
    """
    The model's files, fetched if need be; or the groups of backends, found out if need be.

    Raises ConfigError, ModelSourceError or StartError.
    """
    if options.has_backends:
        return asyncio.run(_backends(options))
    model = locate(options.model, options.cache_dir, _log.info)
    return GroupSource(options.dp_size, options.served_model_name or model.name, model.path)


def _uses_prefixes(options: ServeOptions) -> bool:
    return options.load_balance_method in PREFIX_METHODS


async def _backends(options: ServeOptions) -> GroupSource:
    async with engine_client(Accesses(os.environ, options.backends)) as client:
        found = await Discovery(client).groups(options.backends)
    groups = tuple(group for each in found for group in each.groups)
    for dp_rank, group in enumerate(groups):
        rank = "" if group.engine_rank is None else f", its DP rank {group.engine_rank}"
        _log.info("DP group %d is %s at %s%s", dp_rank, group.kind, group.url, rank)
    name = next((each.model for each in found if each.model), "")
    if any(group.kv_events for group in groups) and not _uses_prefixes(options):
        _log.warning(
            "KV events are not read: %s chooses by no prefixes", options.load_balance_method
        )
    if options.tokenizer_path is None:
        _log.info("lengths of prompts are estimated from their bytes: no --tokenizer-path")
    return GroupSource(len(groups), name, None, groups, _max_groups(options, len(groups)))


def _max_groups(options: ServeOptions, num_found: int) -> int:
    """As many as were said, or as usual.  Raises ConfigError if there are more already."""
    if options.max_groups is None:
        return max(_USUAL_MAX_GROUPS, num_found)
    if options.max_groups < num_found:
        allowed = f"there are {num_found} DP groups behind --backend: so many or more"
        raise ConfigError("--max-groups", options.max_groups, allowed)
    return options.max_groups
