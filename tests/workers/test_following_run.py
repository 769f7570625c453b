"""A leader and its follower as they are started: two processes, one group, gloo between them."""

import signal

import httpx
import pytest

from tests.workers.ranks_rig import LIMIT_S, Ranks
from tests.workers.test_token_identity import GREEDY, NUM_OUTPUTS, Oracle

PROMPT = list(range(10, 30))
TOGETHER = ("--enable-dp-attention", "--tp-size", "2")


class Pair(Ranks):
    """Rank 0 leads, rank 1 follows."""

    def __init__(self, model, run_dir):
        super().__init__(model, run_dir, num_ranks=1)
        self.processes.append(self._start(1, "--dp-rank", "0", "--tp-rank", "1"))

    def _start(self, rank, *words):
        return super()._start(rank, *TOGETHER, *words)

    def ended(self):
        """The statuses of both."""
        return [process.wait(LIMIT_S) for process in self.processes]


@pytest.fixture(name="pair")
def _pair(tiny_llama, tmp_path):
    pair = Pair(tiny_llama, tmp_path)
    yield pair
    pair.close()


@pytest.mark.slow
def test_a_group_of_two_ranks_answers_and_ends_as_one(pair, model):
    """
    With the whole model's tokens; told to end, the follower stays until its leader has drained.
    """
    url = pair.url(0)
    sampling = {"temperature": 0, "max_new_tokens": NUM_OUTPUTS, "ignore_eos": True}
    asked = {"input_ids": PROMPT, "sampling_params": sampling}
    answer = httpx.post(f"{url}/generate", json=asked).json()
    assert answer["output_ids"] == Oracle(model).outputs(PROMPT, GREEDY)

    long = {"prompt": PROMPT, "max_tokens": 100, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=long) as response:
        lines = response.iter_lines()
        next(lines)
        pair.signal(1, signal.SIGTERM)
        pair.signal(0, signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"

    assert pair.ended() == [0, 0]
    assert "rank 1 follows in group 0" in pair.log(1)
