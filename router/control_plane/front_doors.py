"""Asks the front doors for their meters."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson

from router.instance import Instance

_log = logging.getLogger("levelhead.control_plane")
_TIMEOUT_S = 2.0


async def read_meters(instance: Instance) -> list[dict[str, Any] | None]:
    """Meters by slot (see router.front_door.meters); None for one that does not answer."""
    slots = range(instance.num_front_doors)
    return await asyncio.gather(*(_read(instance.meters_socket(slot)) for slot in slots))


async def _read(path: str) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path)
            told = await reader.read()
            writer.close()
            await writer.wait_closed()
        meters: dict[str, Any] = orjson.loads(told)
    except (OSError, orjson.JSONDecodeError) as error:
        _log.debug("no meters from %s: %s", path, error)
        return None
    return meters
