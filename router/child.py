"""
One child process: started, watched, stopped.

A child lives in a session of its own, so that Ctrl-C in a terminal reaches the
root alone, which then stops everybody in order.  On Linux the kernel kills a
child whose root died (PR_SET_PDEATHSIG): nothing outlives a SIGKILLed root.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

_PR_SET_PDEATHSIG = 1


class Child:
    """A running process and what it is for."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process

    def __repr__(self) -> str:
        return f"<Child {self.name} pid {self._process.pid} returncode {self.returncode}>"

    @classmethod
    async def start(cls, name: str, arguments: Sequence[str], environment: dict[str, str]) -> Self:
        """Run `python -m ARGUMENTS`; its output goes where the root's goes."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            env=os.environ | environment,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        return cls(name, process)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, minus the signal's number if one ended it; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end and return its status."""
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, and end it if it has not after grace_s."""
        self._ask_to_end()
        await self.ended_within(grace_s)

    async def ended_within(self, grace_s: float) -> None:
        """Wait for its end, and end it if it has not after grace_s."""
        try:
            async with asyncio.timeout(grace_s):
                await self.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self.wait()

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _ask_to_end(self) -> None:
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        """
        Not with the process object's own method: that looks whether the child has ended,
        and if so takes its status away from who waits for it.
        """
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def describe_end(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"exited with status {returncode}"
