"""Fakes of what the engine works with, each with the interface of the real thing."""

from functools import reduce
from itertools import accumulate

from shm.load import Accepted, LoadReport
from workers.engine.request import Request, Sample
from workers.model.sampling import TokenLogprobs
from workers.model.sampling_params import SamplingParams

VOCAB_SIZE = 97
END = 0
START = 7


def step(value, token):
    """What the fake model makes of one more token."""
    return (value * 31 + token + 1) % 1_000_003


def next_token(tokens):
    """The fake model: a function of all tokens before, in order."""
    return reduce(step, tokens, START) % VOCAB_SIZE


def fake_logprob(value, token):
    """What the fake model thinks of a token after what value stands for."""
    best = value % VOCAB_SIZE
    return TokenLogprobs(token, -float(step(value, token) % 50), ((best, -0.25),))


def expected_output(prompt, max_new_tokens, stop_ids=()):
    """What a request's output is if nothing else ever happens."""
    tokens, output = list(prompt), []
    while len(output) < max_new_tokens:
        output.append(next_token(tokens))
        tokens.append(output[-1])
        if output[-1] in stop_ids:
            break
    return output


class FakeText:
    """Text of output tokens: each is its number and a space.  Stops at a given text."""

    def __init__(self, stop=None):
        self.stopped = False
        self._stop = stop
        self._text = ""

    def push(self, token_id):
        text = f"{token_id} "
        self._text += text
        self.stopped = self._stop is not None and self._stop in self._text
        return "" if self.stopped else text

    def finish(self):
        return ""


class SlotRunner:
    """
    A runner that keeps in each slot what the fake model makes of all tokens up to there.

    It computes from what the slots hold, and fails if one of them holds what
    another sequence left there.  So a page that was lost, mixed up, or shared by
    two that have not the same prefix does not go unnoticed.
    """

    def __init__(self, page_size, looks_ahead=True):
        self.page_size = page_size
        self.looks_ahead = looks_ahead
        self.slots = {}
        self.num_steps = 0
        self.errors = {}  # by the number of the step that raises
        self.foreseen = []
        self.num_rests = 0
        self.others_compute = False
        self.has_left = False
        self.is_stopped = False

    def warm_up(self, wake):
        pass

    def launch(self, plan):
        """Computed when it is waited for: after what is prepared meanwhile."""
        return lambda: self.run(plan)

    def prepare(self, decodes):
        self.foreseen = [(c.request.request_id, c.start, tuple(c.pages)) for c in decodes]

    def rest(self):
        self.num_rests += 1
        return self.others_compute

    def leave(self):
        self.has_left = True

    def stop(self):
        self.is_stopped = True

    def run(self, plan):
        self.num_steps += 1
        if self.num_steps in self.errors:
            raise self.errors[self.num_steps]
        return [sample for chunk in plan.chunks for sample in self._run(chunk)]

    def _run(self, chunk):
        held = [self.slots[self._slot(chunk, position)] for position in range(chunk.start)]
        tokens = chunk.request.tokens(0, chunk.end)
        assert held == list(accumulate(tokens[: chunk.start], step, initial=START))[1:], chunk
        value, scores = held[-1] if held else START, []
        for position in range(chunk.start, chunk.end):
            if position in chunk.scored:
                scores.append(fake_logprob(value, tokens[position]))
            value = step(value, tokens[position])
            self.slots[self._slot(chunk, position)] = value
        if chunk.end in chunk.scored:
            scores.append(fake_logprob(value, chunk.request.prompt_ids[chunk.end]))
        if chunk.yields:
            token_id = value % VOCAB_SIZE if chunk.samples else None
            wanted = chunk.samples and chunk.request.params.logprobs is not None
            logprobs = fake_logprob(value, token_id) if wanted else None
            yield Sample(token_id, logprobs, tuple(scores))

    def _slot(self, chunk, position):
        page, offset = divmod(position, self.page_size)
        return chunk.pages[page] * self.page_size + offset


class ListWriter:
    """A load segment that remembers every record."""

    def __init__(self):
        self.records = []

    def publish(self, reports, published_ns):
        self.records.append((tuple(reports), published_ns))


class StepClock:
    """A clock that goes on by one each time it is read."""

    def __init__(self):
        self.now_ns = 0

    def __call__(self):
        self.now_ns += 1
        return self.now_ns


def make_request(request_id, prompt, max_new_tokens=4, stop_ids=(), text=None, **more):
    """A request; more: its other fields."""
    return Request(
        request_id=request_id,
        prompt_ids=list(prompt),
        max_new_tokens=max_new_tokens,
        stop_ids=frozenset(stop_ids),
        text=text or FakeText(),
        **({"params": SamplingParams(), "seed": request_id} | more),
    )


def make_report(dp_rank, sampled_ns=0, group_epoch=0):
    """A group's report of that instant, which holds as many tokens."""
    scalars = dict.fromkeys(LoadReport._fields[:-1], 0)
    scalars |= {"dp_rank": dp_rank, "sampled_ns": sampled_ns, "group_epoch": group_epoch}
    scalars["holding_tokens"] = sampled_ns
    return LoadReport(**scalars, accepted=(Accepted(0, 0, 0, 0, 0),))
