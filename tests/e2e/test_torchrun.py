"""Ranks that torchrun starts: they serve, and leave nothing behind."""

import httpx
import pytest

from router.torchrun import children_of
from shm.process import ProcessId, is_alive
from tests.e2e.instance import RunningInstance, eventually

pytestmark = pytest.mark.slow

SHORT = {"model": "tiny", "prompt": "b", "max_tokens": 4, "ignore_eos": True, "temperature": 0}


def _ranks(instance):
    return [pid for child in children_of(instance.process.pid) for pid in children_of(child)]


def _answer(instance):
    return httpx.post(f"{instance.url}/v1/completions", json=SHORT, timeout=60)


def _are_over(pids):
    return not any(is_alive(ProcessId(pid, 0)) for pid in pids)


def test_ranks_of_torchrun_serve_and_leave_nothing_behind(tiny_llama):
    """
    At the end they drain and exit by themselves, without a stack in the log.
    """
    with RunningInstance(
        *("--model", str(tiny_llama), "--served-model-name", "tiny", "--threads-per-rank", "1"),
        *("--launcher", "torchrun", "--enable-dp-attention", "--dp-size", "2"),
    ) as instance:
        assert _answer(instance).status_code == 200
        everybody = [*children_of(instance.process.pid), *_ranks(instance)]
        assert len(_ranks(instance)) == 2

        assert instance.stop() == 0

        eventually(lambda: _are_over(everybody), "all have ended")
    assert "Traceback" not in "".join(instance.seen())
