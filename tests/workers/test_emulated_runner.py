import queue

import pytest

from shm.load import LoadReport
from tests.workers.fakes import StepClock, make_report, make_request
from tests.workers.tiny import write_tiny_llama
from workers.emulation.decode_pool import of_decode_pool
from workers.emulation.runner import EmulatedRunner, sentence_tokens
from workers.emulation.step_cost import StepShare
from workers.engine.acceptance import AcceptedCounters
from workers.engine.engine import Engine, Ports
from workers.engine.inbox import Inbox, Submit
from workers.engine.meter import GroupId, LoadMeter
from workers.engine.pages import PagePool
from workers.engine.radix_cache import RadixCache
from workers.engine.request import FinishReason
from workers.engine.scheduler import Limits, Scheduler
from workers.model.checkpoint import open_checkpoint
from workers.model.sampling_params import SamplingParams

PAGE_SIZE = 16
TOKENS = (5, 6, 7)


class HeardPace:
    """A pace without time that remembers what it was told."""

    def __init__(self):
        self.told = []

    def wait(self, share):
        self.told.append(share)

    def rest(self):
        self.told.append("rest")

    def stop(self):
        self.told.append("stop")


class Bench:
    """An engine with an emulated runner, whose rounds the test calls."""

    def __init__(self, max_step_tokens=1 << 20, num_pages=1024):
        self.pace, self.inbox, self.outputs = HeardPace(), Inbox(), []
        scheduler = Scheduler(
            Limits(8, 8, max_step_tokens), PagePool(num_pages, PAGE_SIZE), RadixCache(PAGE_SIZE)
        )
        fatal = queue.Queue()
        self.engine = Engine(
            self.inbox,
            scheduler,
            EmulatedRunner(self.pace, TOKENS),
            AcceptedCounters(1),
            LoadMeter(GroupId(0, 1), StepClock()),
            Ports(self.outputs.extend, lambda report: None, fatal.put),
            heartbeat_s=60.0,
        )

    def run(self, *requests):
        """To the end of all of them."""
        self.inbox.put(*map(Submit, requests))
        while not self.engine.step(0.0):
            pass
        return self.outputs


def test_tokens_are_those_of_the_sentence_until_the_request_has_enough():
    """
    Equal prompts have equal outputs.
    """
    outputs = Bench().run(make_request(1, range(40), 5), make_request(2, range(40), 5))

    for request_id in (1, 2):
        mine = [output for output in outputs if output.request_id == request_id]
        assert [output.token_id for output in mine] == [5, 6, 7, 5, 6]
        assert mine[-1].finish_reason is FinishReason.LENGTH


def test_a_step_is_told_by_what_it_reads_and_computes():
    """
    A prompt in two chunks, then a decode; the second request finds two pages cached.
    """
    bench = Bench(max_step_tokens=30)
    bench.run(make_request(1, range(40), 2))
    bench.run(make_request(2, range(35), 1))

    assert bench.pace.told == [
        StepShare(30, 1, 30),
        StepShare(40, 1, 10),
        StepShare(41, 1, 0),
        "rest",
        StepShare(35, 1, 3),
        "rest",
    ]


def test_a_prompt_of_any_length_is_one_step_where_the_budget_allows_it():
    """
    A decode pool: prompts of 100,000 tokens come with their KV.
    """
    bench = Bench(num_pages=8192)

    bench.run(make_request(1, range(100_000), 1))

    assert bench.pace.told[0] == StepShare(100_000, 1, 100_000)


def test_the_runner_is_told_to_stop_with_the_engine():
    """
    Or a step that waits for others would hold it up.
    """
    bench = Bench()

    bench.engine.stop()

    assert bench.pace.told == ["stop"]


def test_the_runner_rests_at_the_end_of_the_step_loop():
    """
    It may have been stopped in mid-round, and nobody is to wait for it.
    """
    bench = Bench()
    bench.engine.stop()

    bench.engine.start()

    assert bench.engine.join(20.0)
    assert bench.pace.told == ["stop", "rest"]


def test_log_probabilities_are_there_if_they_are_asked_for():
    """
    Every token was certain.
    """
    params = SamplingParams(logprobs=1)
    (output,) = Bench().run(make_request(1, range(20), 1, params=params, logprob_start=17))

    assert (output.logprobs.token_id, output.logprobs.logprob) == (5, 0.0)
    assert [each.token_id for each in output.prompt_logprobs] == [17, 18, 19]


def test_no_token_of_the_sentence_ends_an_output(tmp_path):
    """
    They are tokens of the model's own vocabulary.
    """
    checkpoint = open_checkpoint(write_tiny_llama(tmp_path / "model"))
    codec = checkpoint.tokenizer()
    checkpoint.close()

    tokens = sentence_tokens(codec)

    assert tokens
    assert not set(tokens) & set(codec.eos_token_ids)
    assert codec.decode(tokens) == " This answer is emulated."


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_decode_pool_says_that_prompts_came_with_their_kv(waiting):
    """
    Those that run; of 50 tokens to be computed 30 are in the step under way.  What is
    left to be computed after it does not go below zero.
    """
    report: LoadReport = make_report(0)._replace(
        kv_used_tokens=100,
        waiting_uncached_tokens=50,
        waiting_requests=waiting,
        step_prefill_tokens=7,
        computing_tokens=30,
    )

    seen = of_decode_pool(report)

    assert seen == report._replace(
        kv_used_tokens=130, waiting_uncached_tokens=0, step_prefill_tokens=0, computing_tokens=0
    )
    assert seen.waiting_uncached_tokens - seen.computing_tokens == 0
