"""
What the dashboard is looked at with: instances that have all there is to see, and their clients.

    plain      emulated ranks, each stepping alone, that requests wait for (--admission late)
    barrier    ranks of a tiny model with DP attention, which step together
    backends   a front door before the two others
"""

import random
import threading
import time
from contextlib import ExitStack, contextmanager

import httpx

from tests.e2e.instance import RunningInstance

_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_STEP_COST = "20,0.0005,0.3,0.01"
_MANY, _FEW = 16, 2  # clients
_SHARED, _LONGEST = 256, 600
_PAUSE_S = 0.05


def _plain(model):
    return RunningInstance(
        *("--model", str(model), "--dp-size", "2", "--device", "emulated"),
        *("--emulated-engine", "independent", "--emulated-step-cost", _STEP_COST),
        *("--max-model-len", "20000", "--max-total-tokens", "40000", "--admission", "late"),
    )


def _barrier(model):
    return RunningInstance(
        *("--model", str(model), "--dp-size", "2", "--enable-dp-attention"),
        *("--threads-per-rank", "1"),
        environment=_ONE_THREAD,
    )


def _backends(*before):
    return RunningInstance(*(flag for each in before for flag in ("--backend", each.url)))


class Clients:
    """Threads that send streams to an instance, one after the other, until they are stopped."""

    def __init__(self, instance, seed, num_clients):
        self.num_answers = 0
        self.errors = []
        self._url = f"{instance.url}/v1/completions"
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(random.Random(seed * 100 + n),), daemon=True)
            for n in range(num_clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self):
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)

    def _send(self, rng):
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not self._stopped.is_set():
                try:
                    with client.stream("POST", self._url, json=_body(rng)) as answer:
                        for _ in answer.iter_raw():
                            if self._stopped.is_set():
                                return
                    self.num_answers += answer.is_success
                except httpx.HTTPError as error:
                    self.errors.append(repr(error))
                time.sleep(_PAUSE_S)


def _body(rng):
    """Half of the prompts have their beginning in common."""
    shared = [17 + n % 200 for n in range(_SHARED)] if rng.random() < 0.5 else []
    own = [17 + rng.randrange(200) for _ in range(rng.randrange(20, _LONGEST))]
    return {
        "prompt": shared + own,
        "max_tokens": rng.randrange(20, 120),
        "ignore_eos": True,
        "stream": True,
    }


@contextmanager
def set_up(model):
    """The three by name, under load; they and their clients are stopped in the end."""
    with ExitStack() as stack:
        plain = stack.enter_context(_plain(model))
        barrier = stack.enter_context(_barrier(model))
        backends = stack.enter_context(_backends(plain, barrier))
        instances = {"plain": plain, "barrier": barrier, "backends": backends}
        for seed, instance in enumerate(instances.values()):
            stack.callback(Clients(instance, seed, _MANY if instance is plain else _FEW).stop)
        yield instances
