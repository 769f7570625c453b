"""
The proxies under comparison: how each is found, started, and kept comparable.

All balance round robin (their cheapest policy), keep connections to the
workers open, log warnings only, and bind 127.0.0.1.  What is not installed is
left out with its reason; nothing here installs anything.

    direct         no proxy: the load goes to the workers' own ports
    nginx          one worker process, access log off, no response buffering
    sglang-router  Rust, one thread a core
    vllm-router    Rust, one thread a core
    levelhead      one front door
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.processes import ChildProcess, ProcessError

_VERSION_S = 60.0
_READY_S = 20.0


class ProxyMissing(Exception):
    """A proxy cannot be started here; the message says why and what would help."""


class Proxy(ABC):
    """One server under comparison."""

    name: str

    @abstractmethod
    def version(self) -> str:
        """The installed version, or ProxyMissing."""

    @abstractmethod
    def command(self, port: int, worker_ports: Sequence[int], folder: Path) -> list[str]:
        """The command that serves port; folder is private to this proxy."""

    def start(self, port: int, worker_ports: Sequence[int], folder: Path) -> ChildProcess:
        """Start it; the caller waits until it answers, and stops it."""
        folder.mkdir()
        return ChildProcess(self.command(port, worker_ports, folder), folder / "log")


class Nginx(Proxy):
    """A plain reverse proxy, as the C yardstick."""

    name = "nginx"

    def __init__(self, binary: str) -> None:
        self._binary = binary

    def version(self) -> str:
        """Ask the binary."""
        path = shutil.which(self._binary, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if path is None:
            raise ProxyMissing(f"no {self._binary} (Debian: nginx-light, or --nginx PATH)")
        self._binary = path
        text = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=_VERSION_S)
        return text.stderr.strip().rpartition("/")[2]

    def command(self, port: int, worker_ports: Sequence[int], folder: Path) -> list[str]:
        """Write a configuration file and name it."""
        config = folder / "nginx.conf"
        config.write_text(_nginx_config(port, worker_ports, folder))
        return [self._binary, "-p", str(folder), "-e", "stderr", "-c", str(config)]


def _nginx_config(port: int, worker_ports: Sequence[int], folder: Path) -> str:
    servers = " ".join(f"server 127.0.0.1:{worker};" for worker in worker_ports)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp_paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    return f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_body_buffer_size 128k;
    {temp_paths}
    upstream workers {{
        {servers}
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://workers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


class RustRouter(Proxy):
    """What sglang-router and vllm-router, of one ancestry, have in common."""

    module: str
    log_level: str

    def __init__(self, venv: Path | None) -> None:
        self._python = "python" if venv is None else str(venv / "bin" / "python")

    def version(self) -> str:
        """Ask the venv's package metadata."""
        script = f"from importlib.metadata import version; print(version({self.name!r}))"
        hint = f"pip install {self.name} in a venv, then --peers-venv DIR"
        try:
            done = subprocess.run(
                [self._python, "-c", script], capture_output=True, text=True, timeout=_VERSION_S
            )
        except OSError as error:
            raise ProxyMissing(f"{error} ({hint})") from None
        if done.returncode:
            raise ProxyMissing(f"not installed for {self._python} ({hint})")
        return done.stdout.strip()

    def command(self, port: int, worker_ports: Sequence[int], folder: Path) -> list[str]:
        """Call its launcher module."""
        urls = [f"http://127.0.0.1:{worker}" for worker in worker_ports]
        return [
            *(self._python, "-m", self.module),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--worker-urls", *urls),
            *("--policy", "round_robin", "--log-level", self.log_level),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
        ]


class SglangRouter(RustRouter):
    """SGLang's model gateway."""

    name = "sglang-router"
    module = "sglang_router.launch_router"
    log_level = "warn"


class VllmRouter(RustRouter):
    """vLLM's router."""

    name = "vllm-router"
    module = "vllm_router.launch_router"
    log_level = "warning"


class Levelhead(Proxy):
    """One front door of this project, with the default method on live load reports."""

    name = "levelhead"

    def version(self) -> str:
        """Of the installed package."""
        return version(self.name)

    def command(self, port: int, worker_ports: Sequence[int], folder: Path) -> list[str]:
        """The front door alone, as `levelhead serve` starts it."""
        return [sys.executable, "-m", "router.front_door", "--run-dir", str(folder), "--slot", "0"]

    def start(self, port: int, worker_ports: Sequence[int], folder: Path) -> ChildProcess:
        """Start the engine's stand-in, whose cost is not the front door's, then the front door."""
        folder.mkdir()
        stand_in = [sys.executable, "-m", "benchmarks.stand_in", "--run-dir", str(folder)]
        stand_in += ["--port", str(port), "--upstream-ports", *map(str, worker_ports)]
        engine = ChildProcess(stand_in, folder / "stand-in.log")
        try:
            _await_ready(engine)
            return _FrontDoor(self.command(port, worker_ports, folder), folder / "log", engine)
        except BaseException:
            engine.stop()
            raise


class _FrontDoor(ChildProcess):
    """A front door that takes its engine's stand-in along when it is stopped."""

    def __init__(self, command: Sequence[str], log: Path, engine: ChildProcess) -> None:
        super().__init__(command, log)
        self._engine = engine

    def stop(self) -> None:
        """End both."""
        super().stop()
        self._engine.stop()


def _await_ready(engine: ChildProcess) -> None:
    deadline_s = time.monotonic() + _READY_S
    while "ready" not in engine.log_tail():
        engine.check_running()
        if time.monotonic() > deadline_s:
            raise ProcessError(f"the engine's stand-in was not ready in {_READY_S:.0f} s")
        time.sleep(0.02)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def all_proxies(nginx: str, peers_venv: Path | None) -> dict[str, Proxy]:
    """Every proxy by name; none is looked for before its version is asked."""
    proxies = (Nginx(nginx), SglangRouter(peers_venv), VllmRouter(peers_venv), Levelhead())
    return {proxy.name: proxy for proxy in proxies}
