"""`levelhead top` in a real terminal of 80x24: what it writes, and how it leaves the terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

_LIMIT_S = 60.0
_STYLE, _COMMAND = re.compile(r"\x1b\[[0-9;]*m"), re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
SCREEN_ON, SCREEN_OFF, CURSOR_ON = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


def _take_terminal():
    """So that ctrl-c, and a change of size, are signals to the program."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """Runs `levelhead top FLAGS`; a context manager that ends it."""

    def __init__(self, *flags, width=80, height=24):
        self._ours, self._theirs = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(self._theirs)
        self.written = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router.cli", "top", *flags],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=os.environ | {"TERM": "xterm-256color", "PYTHONUTF8": "1"},
            preexec_fn=_take_terminal,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def modes(self):
        """How the terminal is set."""
        return termios.tcgetattr(self._theirs)

    def resize(self, width, height):
        """As when a person drags the window's corner."""
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, size)

    def press(self, keys):
        """Type."""
        os.write(self._ours, keys)

    def forget(self):
        """What is written from now on counts."""
        self._read(0)
        self.written = ""

    def eventually(self, pattern):
        """Wait until what a person reads has that; the match."""
        deadline = time.monotonic() + _LIMIT_S
        while not (found := re.search(pattern, self._read_by_people())):
            assert time.monotonic() < deadline, f"not shown: {pattern}\n{self.written[-3000:]}"
            self._read(0.1)
        return found

    def _read_by_people(self):
        return _COMMAND.sub("\n", _STYLE.sub("", self.written))

    def ended(self):
        """Wait for its end; its status."""
        deadline = time.monotonic() + _LIMIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it has not ended"
            self._read(0.05)
        self._read(0)
        return self.process.returncode

    def _read(self, wait_s):
        while select.select([self._ours], [], [], wait_s)[0]:
            self.written += os.read(self._ours, 1 << 16).decode(errors="replace")
            wait_s = 0
