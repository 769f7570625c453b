"""
How a source of backends stands: what it told last, whether that is still so, and why not.

One line in the log at each change.  While a source is not good, what it told last stands.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from router.backends.backend import Backend

_log = logging.getLogger("levelhead.backends")
Tell = Callable[[Sequence[Backend]], None]


class Standing:
    """Of one source, which tells through it."""

    def __init__(self, name: str, clock_s: Callable[[], float] = time.time) -> None:
        """`clock_s` tells the time of day, which is for people."""
        self.name = name
        self._clock_s = clock_s
        self._key: object = None
        self.told: tuple[Backend, ...] | None = None
        """None: nothing yet."""
        self.changed_s: float | None = None
        """When it told something else than before, last."""
        self.why_bad: str | None = None
        """None: it is good, or has not been looked at."""

    @property
    def is_good(self) -> bool:
        """Whether what it told is what it says now."""
        return self.told is not None and self.why_bad is None

    def good(self, backends: Sequence[Backend], tell: Tell) -> None:
        """It says these; `tell` hears it if that is news."""
        was_bad, self.why_bad, self._key = self.why_bad is not None, None, None
        if self.told != tuple(backends):
            before, self.told = {each.url for each in self.told or ()}, tuple(backends)
            self.changed_s = self._clock_s()
            now = {each.url for each in backends}
            _log.info(
                "%s tells of %d backends: new are %s, gone are %s",
                self.name, len(backends), _names(now - before), _names(before - now),
            )  # fmt: skip
            tell(self.told)
        elif was_bad:
            _log.info("%s is good again, with the same %d backends", self.name, len(backends))

    def bad(self, why: str, key: object = None) -> None:
        """It says nothing that could be used; told once, and again for another `key` or reason."""
        key = why if key is None else key
        if key == self._key:
            return
        self.why_bad, self._key = why, key
        stands = "nothing is known yet" if self.told is None else f"the {len(self.told)} stand"
        _log.warning("%s: %s: %s", self.name, why, stands)


def _names(urls: set[str]) -> str:
    return ", ".join(sorted(urls)) or "none"
