"""Tasks that come and go: one for each key, ended when its key goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

Work = Callable[[], Coroutine[Any, Any, None]]


class KeyedTasks:
    """Runs what was started while `keep` does; a task that fails ends `keep` with its error."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, Work] = {}
        """Started before anything runs."""
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._waiting or key in self._tasks

    @property
    def keys(self) -> set[Hashable]:
        """Of all that runs, or will."""
        return self._waiting.keys() | self._tasks.keys()

    def start(self, key: Hashable, work: Work) -> None:
        """Begin that; there is nothing under that key."""
        assert key not in self
        if self._group is None:
            self._waiting[key] = work
            return
        task = self._tasks[key] = self._group.create_task(work())
        task.add_done_callback(lambda _: self._ended(key, task))

    def stop(self, key: Hashable) -> None:
        """End it, wherever it is; nothing if there is none."""
        self._waiting.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    async def keep(self) -> None:
        """Run them, for ever; ends all of them when it is cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            waiting, self._waiting = self._waiting, {}
            for key, work in waiting.items():
                self.start(key, work)
            await asyncio.Event().wait()

    def _ended(self, key: Hashable, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
