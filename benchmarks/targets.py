"""
What load can be sent to: the proxies once they run, and the workers themselves.

Everything is started once for all cases and registered with an ExitStack, which
ends it on every exit path.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import Answer, Case, bodies
from benchmarks.processes import ChildProcess, ProcessError
from benchmarks.proxies import Proxy, free_port
from benchmarks.upstream import answer_body, pieces

DIRECT = "direct"
_START_S = 60.0
_POLL_S = 0.1
_ANSWER_S = 10.0


class WrongAnswer(Exception):
    """A proxy changed an answer on its way from the worker to the client."""


@dataclass(frozen=True)
class Workers:
    """The mock workers: one process, several ports."""

    process: ChildProcess
    ports: tuple[int, ...]

    def set_answer(self, answer: Answer) -> None:
        """Let all of them answer so from now on."""
        status, _ = _exchange(self.ports[0], "PUT", "/answer", answer_body(answer))
        assert status == http.HTTPStatus.OK


@dataclass(frozen=True)
class Target:
    """Something that takes chat completions; process None means the workers themselves."""

    name: str
    ports: tuple[int, ...]
    process: ChildProcess | None

    def cpu_ns(self) -> int:
        """CPU time that the proxy has used so far."""
        return 0 if self.process is None else self.process.cpu_ns()

    def rss_bytes(self) -> int:
        """Memory that the proxy holds now."""
        return 0 if self.process is None else self.process.rss_bytes()

    def check_answer(self, case: Case) -> None:
        """Send one request of case, parsed strictly; raise WrongAnswer unless all bytes arrive."""
        path = "/v1/chat/completions"
        status, body = _exchange(self.ports[0], "POST", path, bodies(case)[0])
        if status != http.HTTPStatus.OK or body != b"".join(pieces(case.answer)):
            raise WrongAnswer(f"status {status}, {len(body)} bytes: {body[:200]!r}")


def start_workers(stack: ExitStack, folder: Path) -> Workers:
    """Start the mock workers and wait until they listen."""
    command = [sys.executable, "-m", "benchmarks.upstream"]
    process = stack.enter_context(ChildProcess(command, folder / "workers.log"))
    _wait(process, lambda: process.log.read_text().endswith("]\n"))
    return Workers(process, tuple(json.loads(process.log.read_text())))


def start_target(
    stack: ExitStack, proxy: Proxy, workers: Workers, case: Case, folder: Path
) -> Target:
    """Start a proxy and wait until it answers a request of case, whose answer is set."""
    port = free_port()
    process = stack.enter_context(proxy.start(port, workers.ports, folder / proxy.name))
    target = Target(proxy.name, (port,), process)
    _wait(process, lambda: _answers(target, case))
    return target


def _answers(target: Target, case: Case) -> bool:
    try:
        target.check_answer(case)
    except (OSError, http.client.HTTPException, WrongAnswer):
        return False
    return True


def _wait(process: ChildProcess, is_ready: Callable[[], bool]) -> None:
    """Poll is_ready, or raise ProcessError when the process ends or takes too long."""
    deadline = time.monotonic() + _START_S
    while not is_ready():
        process.check_running()
        if time.monotonic() > deadline:
            raise ProcessError(f"does not answer after {_START_S:.0f} s:\n{process.log_tail()}")
        time.sleep(_POLL_S)


def _exchange(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
