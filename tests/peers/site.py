"""A front door before real engines, and what is asked of both."""

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.e2e.instance import RunningInstance, eventually
from tests.peers.engines import KINDS, Engine

SITES = {
    "llamacpp": ("llamacpp", "llamacpp"),
    "mixed": ("llamacpp", "vllm"),
    "vllm": ("vllm",),
    "sglang": ("sglang",),
}
"""In an order in which neighbours share engines."""


class Place(NamedTuple):
    """One DP group: a rank of an engine."""

    engine: Engine
    rank: int


class Site:
    """The engines, and `levelhead serve` before them."""

    def __init__(self, engines: list[Engine], door: RunningInstance) -> None:
        self.engines = engines
        self.door = door
        self.places = [Place(engine, r) for engine in engines for r in range(engine.num_ranks)]
        """By dp_rank of ours."""

    def produced(self) -> list[int]:
        """Tokens, by dp_rank of ours, as the engines count them."""
        return [count for engine in self.engines for count in engine.produced()]

    def rested(self) -> None:
        """Return when the engines have nothing to do and all books are zero."""
        for engine in self.engines:
            eventually(engine.is_idle, f"{engine.name} has nothing to do", 20)
        eventually(self.books_are_empty, "all books are zero", 20)

    def books_are_empty(self) -> bool:
        """Whether nothing is in flight."""
        loads = self.door.loads()
        return not any(load["in_flight_tokens"] or load["in_flight_requests"] for load in loads)


class Engines:
    """Those that run: kept from one site to the next, as far as it wants the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Engine] = []

    def wanted(self, names: tuple[str, ...]) -> list[Engine]:
        """Engines of those kinds; others, and what is left of dead ones, are stopped first."""
        for engine in [each for each in self._running if each.has_ended()]:
            self._stop(engine)
        spare, kept = list(self._running), []
        for name in names:
            found = next((engine for engine in spare if engine.name == name), None)
            kept.append(found)
            if found is not None:
                spare.remove(found)
        for engine in spare:
            self._stop(engine)
        return [each or self._start(name) for each, name in zip(kept, names, strict=True)]

    def stop(self) -> None:
        """Stop them all."""
        for engine in list(self._running):
            self._stop(engine)

    def _start(self, name: str) -> Engine:
        engine = KINDS[name](self._folder)
        self._running.append(engine)
        engine.start()
        return engine

    def _stop(self, engine: Engine) -> None:
        self._running.remove(engine)
        engine.stop()


def open_site(stack: ExitStack, engines: list[Engine]) -> Site:
    """Put a front door before them."""
    flags = [word for engine in engines for word in ("--backend", engine.url)]
    return Site(engines, stack.enter_context(RunningInstance(*flags, "--front-doors", "2")))
