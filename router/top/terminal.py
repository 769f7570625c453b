"""
The terminal while `levelhead top` has it: keys one by one, and back as it was.

A key is heard at once and not shown; ctrl-c is a signal as ever, and so are the terminal's end
and a change of its size.  Ctrl-z does nothing: it would leave the shell with our screen.
"""

from __future__ import annotations

import asyncio
import os
import signal
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_QUIT_KEYS = (b"q", b"Q")
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOCAL_FLAGS, _CHARACTERS = 3, 6  # indexes of what tcgetattr returns


@contextmanager
def keys_one_by_one(descriptor: int) -> Iterator[None]:
    """Without echo and line editing, until the end of the block; nothing where it is no tty."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    changed = termios.tcgetattr(descriptor)
    changed[_LOCAL_FLAGS] &= ~(termios.ECHO | termios.ICANON)
    changed[_CHARACTERS][termios.VMIN], changed[_CHARACTERS][termios.VTIME] = 1, 0
    changed[_CHARACTERS][termios.VSUSP] = b"\0"
    termios.tcsetattr(descriptor, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def told_by(descriptor: int, end: Callable[[], None], redraw: Callable[[], None]) -> Iterator[None]:
    """Call `end` for q and what ends a program, `redraw` when the size has changed."""
    loop = asyncio.get_running_loop()

    def on_key() -> None:
        typed = os.read(descriptor, 64)
        if not typed:
            loop.remove_reader(descriptor)  # nobody types any more
        if any(key in typed for key in _QUIT_KEYS):
            end()

    for number in _ENDS:
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGWINCH, redraw)
    is_typed = os.isatty(descriptor)
    if is_typed:
        loop.add_reader(descriptor, on_key)
    try:
        yield
    finally:
        if is_typed:
            loop.remove_reader(descriptor)
        for number in (*_ENDS, signal.SIGWINCH):
            loop.remove_signal_handler(number)
