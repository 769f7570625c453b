"""How long to wait before a process that has ended is started again."""

from __future__ import annotations

from typing import NamedTuple


class Life(NamedTuple):
    """How one life of a process went."""

    returncode: int
    steady_s: float | None
    """From its first good answer to its end; None if it was never ready."""


class Pauses(NamedTuple):
    """
    Each pause is twice as long as the one before, up to the longest.

    They begin anew after a steady life.  Loading is no part of it: a rank that
    loads for a minute and dies at its first request would else be loaded for ever.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    steady_s: float = 10.0

    def after(self, pause_s: float | None, life: Life) -> float | None:
        """
        The pause after a life that `pause_s` came before; None: no pause.

        There is none for a process that was ready and ended with status 0: it was
        asked to.  One that says so before it was ever ready would spin.
        """
        was_ready = life.steady_s is not None
        if was_ready and life.returncode == 0:
            return None
        if pause_s is None or (life.steady_s is not None and life.steady_s > self.steady_s):
            return self.first_s
        return min(2 * pause_s, self.longest_s)
