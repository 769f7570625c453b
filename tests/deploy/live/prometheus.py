"""
A real Prometheus: found, or unpacked from Debian's package, and run for as long as it is needed.

    on PATH                                 taken
    .prometheus/usr/bin                     taken: what was unpacked before
    else, where `apt-get download` works    Debian's package, unpacked there; nothing is installed
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus"
TESTS = ("levelhead.tests.yaml", "objective.tests.yaml")
FOLDER = Path(os.environ.get("LEVELHEAD_PROMETHEUS", ROOT / ".prometheus"))
_START_LIMIT_S = 30.0
_STOP_LIMIT_S = 15.0
_FETCH_LIMIT_S = 180.0


class NotFound(Exception):
    """There is no Prometheus here, and none was to be had: why."""


def find(name="prometheus", *, fetch=True, folder=FOLDER):
    """Path of that program; fetch: unpack it if it has to be.  Raises NotFound."""
    found = _found(name, folder)
    if found is None and fetch:
        _fetch(folder)
        found = _found(name, folder)
    if found is None:
        raise NotFound(f"there is no `{name}`: install Debian's package prometheus")
    return found


def _found(name, folder):
    return shutil.which(name) or shutil.which(name, path=str(folder / "usr" / "bin"))


def _fetch(folder):
    """Unpack Debian's package into it; no root is needed but where the lists are missing."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NotFound(f"there is no `prometheus`, and without `{tool}` none can be unpacked")
    with tempfile.TemporaryDirectory() as scratch:
        downloaded = _run(scratch, "apt-get", "download", "prometheus")
        if downloaded.returncode and os.geteuid() == 0:
            _run(scratch, "apt-get", "update")
            downloaded = _run(scratch, "apt-get", "download", "prometheus")
        packages = list(Path(scratch).glob("prometheus_*.deb"))
        if not packages:
            why = downloaded.stderr.strip().rpartition("\n")[2]
            raise NotFound(f"`apt-get download prometheus`: {why}; install the package prometheus")
        _run(scratch, "dpkg-deb", "-x", str(packages[0]), str(folder))


def _run(folder, *command):
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=_FETCH_LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise NotFound(f"{' '.join(command)} took over {_FETCH_LIMIT_S:.0f} s") from error


class Prometheus:
    """One that runs, and what it is asked."""

    def __init__(self, url):
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def ask(self, expression):
        """Values of an instant query.  Raises httpx.HTTPStatusError if it is refused."""
        answer = self._client.post("/api/v1/query", data={"query": expression})
        if answer.is_client_error:
            raise ValueError(f"{expression}: {answer.json()['error']}")
        result = answer.raise_for_status().json()["data"]["result"]
        return [float(series["value"][1]) for series in result]

    def alerts(self):
        """(name, instance, group, state) of every alert that is pending or firing."""
        told = self._client.get("/api/v1/alerts").raise_for_status().json()["data"]["alerts"]
        labels = ("alertname", "instance", "group")
        return {
            (*(each["labels"].get(name, "-") for name in labels), each["state"]) for each in told
        }

    def close(self):
        self._client.close()


@contextmanager
def running(targets, folder, period_s=1):
    """A Prometheus that scrapes the targets (host:port, by name) with all our rules."""
    config = folder / "prometheus.json"  # which is YAML
    rules = [str(RULES / name) for name in ("levelhead.rules.yaml", "levelhead.alerts.yaml")]
    period = f"{period_s}s"
    named = [
        {"targets": [address], "labels": {"instance": name}} for name, address in targets.items()
    ]
    jobs = [{"job_name": "levelhead", "static_configs": named}]
    times = {"scrape_interval": period, "evaluation_interval": period}
    told = {"global": times, "rule_files": rules, "scrape_configs": jobs}
    config.write_text(json.dumps(told))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [find(), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
               f"--web.listen-address={address}", "--log.level=warn"]  # fmt: skip
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    prometheus = Prometheus(f"http://{address}")
    try:
        _wait(prometheus, process, folder)
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(prometheus, process, folder):
    deadline = time.monotonic() + _START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{prometheus.url}/-/ready", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"Prometheus did not start:\n{(folder / 'prometheus.log').read_text()}")
