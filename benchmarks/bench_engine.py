"""
How fast one CPU group decodes, over HTTP, beside other servers of the same weights.

    python -m benchmarks.bench_engine --quick
    python -m benchmarks.bench_engine --peer vllm=http://127.0.0.1:8555 --peer before=URL

levelhead is started with one group (`levelhead serve --dp-size 1`) and asked
through its front door; peers are servers that run already, with the same
weights (`python -m benchmarks.export_model` writes them for those that read no
GGUF), as many threads, and the same dtype.  All stay loaded and take turns, so
that what disturbs the machine disturbs them alike.

A round: so many streams at once, each with its own prompt of about 128 tokens,
128 output tokens, greedy, whatever the model says (`ignore_eos`).  Prompts are
never asked twice, and nobody profits from a prefix cache.

Read `decode_tokens_per_s`: output tokens of all streams over the time in which all
decode, from the last one's first piece to the first one's end, so that it does not
depend on the order in which prompts are computed.  `tokens_per_s` is all output
tokens over the round, prompts included.  `ratio` is the median over repeats of
decode(levelhead) / decode(peer) in the same repeat.  Between rounds is a pause of
two seconds: a server that polls for a while after its last request disturbs the next.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx

from benchmarks.instance import served
from benchmarks.machine import machine_facts

_MODEL = "SmolLM2-135M-Instruct"
_WORDS = ("level", "spirit", "bubble", "wall", "shelf", "beam", "floor", "line")
_OURS = "levelhead"
_PAUSE_S = 2.0


@dataclass(frozen=True)
class Shape:
    """What every stream of a round asks for.  A word is about a token."""

    prompt_words: int
    output_tokens: int


@dataclass(frozen=True)
class Round:
    """What one server did with so many streams."""

    decode_tokens_per_s: float
    tokens_per_s: float
    first_piece_s: float


async def drive(url: str, num_streams: int, shape: Shape, rng: random.Random) -> Round:
    """One round."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        bodies = [_body(shape, rng) for _ in range(num_streams)]
        began_s = time.monotonic()
        streams = await asyncio.gather(*(_stream(client, body) for body in bodies))
        ended_s = time.monotonic()
    return Round(
        _decode_rate(streams, shape.output_tokens),
        num_streams * shape.output_tokens / (ended_s - began_s),
        median(times[0] for times in streams) - began_s,
    )


def _decode_rate(streams: Sequence[Sequence[float]], output_tokens: int) -> float:
    """Tokens a second while all decode; each stream's tokens are spread over its pieces."""
    if not all(streams):
        raise RuntimeError("a stream had no text")
    began_s, ended_s = max(times[0] for times in streams), min(times[-1] for times in streams)
    if ended_s <= began_s:
        raise RuntimeError("at no time did all streams decode: ask for more tokens")
    shares = [sum(began_s < t <= ended_s for t in times) / len(times) for times in streams]
    return output_tokens * sum(shares) / (ended_s - began_s)


def _body(shape: Shape, rng: random.Random) -> dict[str, Any]:
    return {
        "model": _MODEL,
        "prompt": " ".join(rng.choices(_WORDS, k=shape.prompt_words)),
        "max_tokens": shape.output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _stream(client: httpx.AsyncClient, body: Mapping[str, Any]) -> list[float]:
    """Return when each event with text came."""
    pieces, times = [], []
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for piece in answer.aiter_raw():
            times += [time.monotonic()] * len(re.findall(rb'"text": ?"[^"]', piece))
            pieces.append(piece)
    counts = re.findall(rb'"completion_tokens": ?(\d+)', b"".join(pieces))
    if not counts or int(counts[-1]) != body["max_tokens"]:
        raise RuntimeError(f"asked for {body['max_tokens']} tokens, usage says {counts[-1:]}")
    return times


def measure(
    urls: Mapping[str, str], streams: Sequence[int], shape: Shape, repeats: int, seed: int
) -> dict[tuple[int, str], list[Round]]:
    """Every server at every number of streams, in turns; a first short round is not counted."""
    rng = random.Random(seed)
    rounds: dict[tuple[int, str], list[Round]] = {(n, name): [] for n in streams for name in urls}
    for url in urls.values():
        asyncio.run(drive(url, max(streams), Shape(shape.prompt_words, 8), rng))
    for repeat in range(repeats):
        for n in streams:
            for name in sorted(urls, reverse=bool(repeat % 2)):
                time.sleep(_PAUSE_S)
                it = asyncio.run(drive(urls[name], n, shape, rng))
                rounds[n, name].append(it)
                print(f"{name}, {n} streams: {it.decode_tokens_per_s:.1f}/s", file=sys.stderr)
    return rounds


def make_rows(rounds: Mapping[tuple[int, str], Sequence[Round]]) -> list[dict[str, Any]]:
    """Medians over the repeats."""
    rows = []
    for (n, name), its in rounds.items():
        ours = rounds[n, _OURS]
        pairs = zip(ours, its, strict=True)
        ratios = [mine.decode_tokens_per_s / other.decode_tokens_per_s for mine, other in pairs]
        rows.append(
            {
                "streams": n,
                "server": name,
                "decode_tokens_per_s": round(median(r.decode_tokens_per_s for r in its), 1),
                "decode_max": round(max(r.decode_tokens_per_s for r in its), 1),
                "tokens_per_s": round(median(r.tokens_per_s for r in its), 1),
                "first_piece_ms": round(1e3 * median(r.first_piece_s for r in its), 1),
                "ratio": round(median(ratios), 2),
                "ratio_min": round(min(ratios), 2),
                "ratio_max": round(max(ratios), 2),
            }
        )
    return rows


def _peer(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    if not url or name == _OURS:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=URL")
    return name, url


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_engine")
    parser.add_argument("--quick", action="store_true", help="one repeat of short outputs")
    parser.add_argument("--peer", type=_peer, action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--streams", default="1,4,16")
    parser.add_argument("--threads", type=int, default=2, help="of levelhead's forward pass")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="of the prompts")
    arguments = parser.parse_args()
    repeats, shape = (
        (1, Shape(128, 32)) if arguments.quick else (arguments.repeats, Shape(128, 128))
    )
    streams = [int(n) for n in arguments.streams.split(",")]
    flags = ["--dp-size", "1", "--threads-per-rank", str(arguments.threads)]
    with served(*flags, "--dtype", arguments.dtype, "--log-level", "warning") as url:
        urls = {_OURS: url, **dict(arguments.peer)}
        rows = make_rows(measure(urls, streams, shape, repeats, arguments.seed))
    print("  ".join(f"{name:>19}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>19}" for value in row.values()))
    facts = {"machine": machine_facts(), "repeats": repeats, "seed": arguments.seed}
    print(json.dumps({"rows": rows, **facts}))


if __name__ == "__main__":
    main()
