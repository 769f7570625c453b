"""`levelhead top`: looks at an instance again and again, and shows what it tells."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

import orjson
from rich.console import Console, Group

from router.errors import ConfigError, KeyRefused, NoPicture
from router.top.bars import FINE, PLAIN, Glyphs
from router.top.frame import frame
from router.top.options import TopOptions
from router.top.picture import Album, Picture, as_json
from router.top.source import Source, source_of
from router.top.terminal import keys_one_by_one, told_by


def top_command(options: TopOptions, environment: Mapping[str, str], out: TextIO) -> None:
    """Raises RouterError if there is nothing to look at, or no terminal to show it on."""
    console = Console(file=out, highlight=False, soft_wrap=False)
    source = source_of(options, environment)
    if options.is_once:
        picture = asyncio.run(_look_twice(source, options.interval_s))
        out.write(_as_text(picture, options, console))
        return
    if not console.is_terminal:
        raise ConfigError("--once", "not given", "needed where the output is no terminal")
    asyncio.run(_watch(source, console, options.interval_s))


async def _look_twice(source: Source, interval_s: float) -> Picture:
    album = Album()
    try:
        album.take(await source.look())
        await asyncio.sleep(interval_s)
        album.take(await source.look())
    finally:
        await source.close()
    picture = album.picture(time.monotonic())
    assert picture is not None
    return picture


def _as_text(picture: Picture, options: TopOptions, console: Console) -> str:
    if options.as_json:
        told = as_json(picture)
        return orjson.dumps(told, option=orjson.OPT_NON_STR_KEYS).decode() + "\n"
    with console.capture() as captured:
        for line in frame(picture, glyphs_of(console), console.width):
            console.print(line, no_wrap=True, crop=True)
    return captured.get()


def glyphs_of(console: Console) -> Glyphs:
    """What its encoding has."""
    return PLAIN if console.options.ascii_only else FINE


async def _watch(source: Source, console: Console, interval_s: float) -> None:
    """
    Until it is told to end.  The first look must come about; later ones may fail.

    The terminal is ours only while a signal is a call: whatever ends this leaves it as it was.
    """
    album, keys = Album(), sys.stdin.fileno()
    album.take(await source.look())
    over, changed = asyncio.Event(), asyncio.Event()
    with told_by(keys, over.set, changed.set), keys_one_by_one(keys), console.screen():
        looking = asyncio.create_task(_keep_looking(source, album, interval_s, changed.set))
        showing = asyncio.create_task(_keep_showing(album, console, changed))
        ending = asyncio.create_task(over.wait())
        tasks = (looking, showing, ending)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await source.close()
    for task in (looking, showing):
        if not task.cancelled():
            task.result()  # why it ended by itself


async def _keep_looking(
    source: Source, album: Album, interval_s: float, changed: Callable[[], None]
) -> None:
    """Raises KeyRefused alone: whatever else is wrong may be right the next time."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            album.take(await source.look())
        except KeyRefused:
            raise
        except NoPicture as error:
            album.miss(str(error))
        changed()


async def _keep_showing(album: Album, console: Console, changed: asyncio.Event) -> None:
    while True:
        picture = album.picture(time.monotonic())
        if picture is not None:
            width, height = console.size
            lines = frame(picture, glyphs_of(console), width, height)
            console.update_screen(Group(*lines))
        await changed.wait()
        changed.clear()
