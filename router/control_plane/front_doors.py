"""Asks the front doors for their meters."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson

from router.instance import Instance

_log = logging.getLogger("levelhead.control_plane")
_TIMEOUT_S = 2.0


async def read_meters(
    instance: Instance, timeout_s: float = _TIMEOUT_S
) -> list[dict[str, Any] | None]:
    """Meters by slot (see router.front_door.meters); None for one that does not answer."""
    paths = map(instance.meters_socket, range(instance.num_front_doors))
    return await asyncio.gather(*(_read(path, timeout_s) for path in paths))


async def _read(path: str, timeout_s: float) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                told = await reader.read()
            finally:  # one that is stopped takes connections, and would be left with each of them
                writer.close()
            await writer.wait_closed()
        meters: dict[str, Any] = orjson.loads(told)
    except (OSError, orjson.JSONDecodeError) as error:
        _log.debug("no meters from %s: %s", path, error)
        return None
    return meters
