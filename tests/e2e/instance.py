"""A running `levelhead serve`, as a user starts it, and what a test asks of it."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

START_LIMIT_S = 120.0
STOP_LIMIT_S = 30.0
WAIT_LIMIT_S = 60.0
_READY = re.compile(r"levelhead is ready: (http://\S+)/v1")


class RunningInstance:
    """Started with `levelhead serve --port 0 FLAGS`; a context manager that stops it."""

    def __init__(self, *flags: str, environment: dict[str, str] | None = None) -> None:
        self.output: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router.cli", "serve", "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | (environment or {}),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._wait_for_url()
        self.name = f"port{self.url.rpartition(':')[2]}"

    def __enter__(self) -> "RunningInstance":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                self.process.kill()
                raise AssertionError("it did not become ready:\n" + "".join(self.output))
            self.output.append(line)
            if found := _READY.search(line):
                return found[1]

    def stop(self) -> int:
        """SIGTERM, then its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_LIMIT_S)
        self._reader.join(STOP_LIMIT_S)
        self.seen()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def seen(self) -> list[str]:
        """What it has logged so far."""
        while not self._lines.empty():
            self.output.append(self._lines.get() or "")
        return self.output

    def children(self) -> dict[str, int]:
        """Pids of its processes by the module that they run and, for ranks, their dp_rank."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
                words = (path.parent / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if int(fields[1]) == self.process.pid and "-m" in words:
                module = words[words.index("-m") + 1]
                if module == "workers":
                    module += words[words.index("--dp-rank") + 1]
                found[module] = int(path.parent.name)
        return found

    def segments(self) -> list[str]:
        """Names of its segments that exist."""
        return sorted(path.name for path in Path("/dev/shm").glob(f"levelhead-{self.name}-*"))

    def loads(self) -> list[dict]:
        """`/v1/loads`, by group."""
        return httpx.get(f"{self.url}/v1/loads").raise_for_status().json()["loads"]

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples whose labels include those given."""
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and all(
                f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()
            ):
                total += float(found[2])
        return total


def eventually(condition, what: str, limit_s: float = WAIT_LIMIT_S):
    """Return condition()'s first true value; fail after limit_s, saying what was awaited."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not in {limit_s} s: {what}"
        time.sleep(0.02)
    return value


def events(response: httpx.Response):
    """JSON objects of a server-sent event stream, up to [DONE]."""
    for line in response.iter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
