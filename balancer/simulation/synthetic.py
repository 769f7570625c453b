"""Traffic that needs no file."""

from __future__ import annotations

import random

from balancer.simulation.traffic import TracedRequest, Traffic

WAVES, REASONING = "waves", "reasoning"
SYNTHETIC = (WAVES, REASONING)
_WAVE_PROMPT, _WAVE_OUTPUT = 800, 800
_WAVES_OF_CLIENT = 12
_NUM_STARTS, _WAVE_LIFE_S = 8, 30.0
_NUM_REASONING = 6000
_REASONING_PROMPT, _REASONING_OUTPUT, _SPREAD = 800, 3650, 0.7


def synthetic(name: str, num_groups: int, load_tokens: float) -> Traffic:
    """
    Return the traffic of that name, always the same for the same arguments.

    That of clients who wait for answers has as many as hold load_tokens in each
    of the groups; how fast the other comes is for others to say.
    """
    return _waves(num_groups, load_tokens) if name == WAVES else _reasoning()


def _waves(num_groups: int, load_tokens: float) -> Traffic:
    """
    Equal requests of clients who ask again when they are answered.

    They begin in a few waves of unequal size.  Those of a wave end together, so they
    come as a burst every time; a method that looks at old figures alone sends it to one group.
    """
    num_clients = max(1, round(num_groups * load_tokens / (_WAVE_PROMPT + _WAVE_OUTPUT / 2)))
    rng = random.Random(WAVES)
    starts = [rng.uniform(0, _WAVE_LIFE_S) for _ in range(_NUM_STARTS)]
    begins = sorted(rng.choice(starts) for _ in range(num_clients))
    begins += [begins[-1]] * (num_clients * (_WAVES_OF_CLIENT - 1))
    asked = [TracedRequest(at_s, _WAVE_PROMPT, _WAVE_OUTPUT) for at_s in begins]
    return Traffic(WAVES, asked, num_clients=num_clients)


def _reasoning() -> Traffic:
    """Short prompts and long answers, log-normal, with Poisson arrivals: one a second."""
    rng, at_s, asked = random.Random(WAVES), 0.0, []
    for _ in range(_NUM_REASONING):
        at_s += rng.expovariate(1.0)
        prompt, output = (_about(rng, m) for m in (_REASONING_PROMPT, _REASONING_OUTPUT))
        asked.append(TracedRequest(at_s, prompt, output))
    return Traffic(REASONING, asked)


def _about(rng: random.Random, mean: int) -> int:
    return max(1, round(mean * rng.lognormvariate(-(_SPREAD**2) / 2, _SPREAD)))
