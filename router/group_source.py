"""What the DP groups of an instance are: workers of ours over a model, or backends."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import httpx

from balancer.methods import PREFIX_METHODS
from router.backends.backend import BackendGroup
from router.backends.discovery import Discovery
from router.model_source import locate
from router.options import ServeOptions

_log = logging.getLogger("levelhead.serve")


@dataclass(frozen=True, slots=True)
class GroupSource:
    """Where the groups come from."""

    num_groups: int
    model_name: str
    model_path: Path | None
    """None: no worker is started."""
    backends: tuple[BackendGroup, ...] = ()


def group_source(options: ServeOptions) -> GroupSource:
    """
    The model's files, fetched if need be; or the groups of backends, found out if need be.

    Raises ConfigError, ModelSourceError or StartError.
    """
    if options.backends:
        return asyncio.run(_backends(options))
    model = locate(options.model, options.cache_dir, _log.info)
    return GroupSource(options.dp_size, options.served_model_name or model.name, model.path)


def _uses_prefixes(options: ServeOptions) -> bool:
    return options.load_balance_method in PREFIX_METHODS


async def _backends(options: ServeOptions) -> GroupSource:
    async with httpx.AsyncClient(trust_env=False) as client:
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
    return GroupSource(len(groups), name, None, groups)
