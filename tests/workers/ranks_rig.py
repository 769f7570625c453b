"""
Real ranks: processes, gloo, HTTP, and the load segment they publish in.

Processes take their time, so tests with them wait, with a limit, for what the
segment says; what they assert does not depend on how long that takes.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

from shm import load
from shm.load import LoadReader

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
EPOCH = 4321


def wait_for(what, probe):
    """Return probe's first true result."""
    deadline = time.monotonic() + LIMIT_S
    while not (result := probe()):
        assert time.monotonic() < deadline, f"no {what} within {LIMIT_S} s"
        time.sleep(0.01)
    return result


def start(*flags, stderr=subprocess.PIPE):
    command = [sys.executable, "-m", "workers", *flags]
    return subprocess.Popen(command, cwd=ROOT, stderr=stderr, text=True)


def read_json(path):
    return json.loads(path.read_text()) if path.exists() else None


class Ranks:
    """Some groups of a tiny model, and a reader of their load segment."""

    def __init__(self, model, run_dir, num_ranks, **flags):
        self.run_dir = run_dir
        self.instance = f"test_{uuid4().hex[:12]}"
        self.segment = load.create(self.instance, num_ranks, 2, EPOCH)
        self.reader = LoadReader.attach(self.instance)
        self._model = model
        self._num_ranks = num_ranks
        self._flags = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
        self.processes = [self._start(0)]
        if num_ranks > 1:  # rank 0 publishes, however unevenly the machine serves them
            wait_for("publisher", self.term)
        self.processes += [self._start(rank) for rank in range(1, num_ranks)]

    def _start(self, rank, *words):
        """words: flags more, or again, and then the last counts."""
        flags = {
            "--instance": self.instance, "--instance-epoch": EPOCH, "--run-dir": self.run_dir,
            "--dp-rank": rank, "--dp-size": self._num_ranks, "--num-front-doors": 2,
            "--model": self._model, "--served-model-name": "tiny", "--dtype": "float32",
            "--heartbeat-s": 0.05,
        } | self._flags  # fmt: skip
        with self._log(rank).open("a") as log:
            pairs = (str(part) for flag in flags.items() for part in flag)
            return start(*pairs, *words, stderr=log)

    def _log(self, rank):
        return self.run_dir / f"log-{rank}"

    def signal(self, rank, number):
        self.processes[rank].send_signal(number)

    def kill(self, rank):
        """Kill a rank and wait for its end."""
        self.processes[rank].kill()
        self.processes[rank].wait(LIMIT_S)

    def restart(self, rank):
        """Start the next life of a rank that has ended."""
        self.processes[rank] = self._start(rank)

    def log(self, rank):
        """What a rank has written, in all its lives."""
        return self._log(rank).read_text()

    def card(self, rank):
        return read_json(self.run_dir / f"group-{rank}.json")

    def term(self):
        return read_json(self.run_dir / "publisher.json")

    def url(self, rank):
        return "http://{host}:{port}".format(**wait_for("card", lambda: self.card(rank)))

    def report(self, rank):
        snapshot = self.reader.snapshot()
        reports = snapshot.reports if snapshot else ()
        return next((r for r in reports if r.dp_rank == rank), None)

    def wait_for_report(self, rank, what, condition):
        """Return the rank's first report for which condition holds."""

        def probe():
            report = self.report(rank)
            return report if report is not None and condition(report) else None

        return wait_for(what, probe)

    def wait_for_fresh_reports(self, *ranks):
        """Wait for a report of each that was sampled from now on."""
        now_ns = time.monotonic_ns()
        for rank in ranks:
            self.wait_for_report(rank, f"report of {rank}", lambda r: r.sampled_ns > now_ns)

    def close(self):
        for rank in range(len(self.processes)):
            self.kill(rank)
        self.reader.close()
        self.segment.close()
        self.segment.unlink()
