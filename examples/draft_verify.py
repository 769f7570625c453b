"""
Blockwise draft and verify through a front door, with what each request cost.

    python -m examples.draft_verify --url http://127.0.0.1:8000

The prompt is cached by a request for no output.  Then, round after round, a block of
tokens is drafted, and a second request scores the block: drafted tokens are taken as
long as each is the most probable one, and the most probable token follows where they
end.  So the result is that of plain greedy decoding, whatever was drafted.  Here one
model does both, drafting at a temperature; a smaller one would do the same.

Every request is plain: it names no group and no session.  Each extends the one before,
so it has to compute its new tokens and at most one page, if it comes to the group that
holds its prefix; where it had to compute more it says MISS.  The last line is a JSON
object.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any, NamedTuple

import httpx


class Reply(NamedTuple):
    """What came back for one request, and what it cost."""

    body: dict[str, Any]
    time_ms: float

    @property
    def meta(self) -> dict[str, Any]:
        """Counts, group and log-probabilities."""
        meta: dict[str, Any] = self.body["meta_info"]
        return meta


class Step(NamedTuple):
    """One request of the run.  num_new: tokens that no request before it had."""

    name: str
    num_new: int
    reply: Reply

    def is_miss(self, page_size: int) -> bool:
        """Whether it computed more than its new tokens and a page."""
        return int(self.reply.meta["computed_tokens"]) > self.num_new + page_size

    def line(self, page_size: int) -> str:
        """A row of the table."""
        meta = self.reply.meta
        row = (
            f"{self.name:<12}{meta['prompt_tokens']:>8}{self.num_new:>6}"
            f"{meta['computed_tokens']:>10}{meta['cached_tokens']:>8}"
            f"{meta['dp_rank']:>9}{self.reply.time_ms:>10.1f}"
        )
        return row + ("  MISS" if self.is_miss(page_size) else "")


class Run:
    """A context that grows by verified blocks, and the steps that it took."""

    def __init__(self, client: httpx.Client, page_size: int) -> None:
        self._client = client
        self._page_size = page_size
        self.context: list[int] = []
        self.steps: list[Step] = []
        self._num_known = 0

    def prefill(self, prompt_ids: list[int]) -> None:
        """Have the prompt cached."""
        self.context = list(prompt_ids)
        self._ask("prefill", self.context, {"max_new_tokens": 0})

    def draft(self, number: int, block: int) -> list[int]:
        """Return the next block as a drafter would guess it."""
        sampling = {"max_new_tokens": block, "temperature": 1, "sampling_seed": number}
        body = self._ask(f"draft {number}", self.context, sampling | {"ignore_eos": True})
        drafted: list[int] = body["output_ids"]
        return drafted

    def verify(self, number: int, drafted: list[int]) -> int:
        """Take over what is right of the draft, and one token more; return how many were right."""
        start = len(self.context)
        wanted = {"return_logprob": True, "logprob_start_len": start, "top_logprobs_num": 1}
        sampling = {"max_new_tokens": 1, "temperature": 0, "ignore_eos": True}
        body = self._ask(f"verify {number}", [*self.context, *drafted], sampling, **wanted)
        best = [top[0][1] for top in body["meta_info"]["input_top_logprobs"]]
        best += body["output_ids"]
        num_right = 0
        while num_right < len(drafted) and drafted[num_right] == best[num_right]:
            num_right += 1
        self.context += best[: num_right + 1]
        self._num_known = start + num_right
        return num_right

    def greedy(self, prompt_ids: list[int], num_tokens: int) -> list[int]:
        """Return what plain decoding gives."""
        sampling = {"max_new_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
        given = {"input_ids": prompt_ids, "sampling_params": sampling}
        output: list[int] = self._post("/generate", given).body["output_ids"]
        return output

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        tokens: list[int] = self._post("/tokenize", {"prompt": text}).body["tokens"]
        return tokens

    def _ask(self, name: str, ids: list[int], sampling: dict[str, Any], **more: Any) -> Any:
        reply = self._post("/generate", {"input_ids": ids, "sampling_params": sampling} | more)
        step = Step(name, len(ids) - self._num_known, reply)
        print(step.line(self._page_size), flush=True)
        self.steps.append(step)
        self._num_known = len(ids)
        return reply.body

    def _post(self, path: str, body: dict[str, Any]) -> Reply:
        started = time.perf_counter()
        answer = self._client.post(path, json=body)
        time_ms = 1000 * (time.perf_counter() - started)
        if answer.status_code != 200:
            raise SystemExit(f"{path}: {answer.status_code} {answer.text}")
        return Reply(answer.json(), time_ms)


def _text(num_tokens: int) -> str:
    """A text of at least that many tokens, which is not easy to continue."""
    lines = (
        f"Group {i} holds {i * i % 97} requests of city {i * 7 % 31}. " for i in range(num_tokens)
    )
    return "".join(lines)


def summary(run: Run, num_right: int, page_size: int, *, is_greedy: bool) -> dict[str, Any]:
    """The figures of a run."""
    times = {
        kind: [step.reply.time_ms for step in run.steps if step.name.startswith(kind)]
        for kind in ("prefill", "draft", "verify")
    }
    medians = {f"{kind}_ms": round(median(each), 1) for kind, each in times.items()}
    return {
        "requests": len(run.steps),
        "misses": sum(step.is_miss(page_size) for step in run.steps),
        "groups": sorted({step.reply.meta["dp_rank"] for step in run.steps}),
        "computed_tokens": sum(step.reply.meta["computed_tokens"] for step in run.steps),
        "cached_tokens": sum(step.reply.meta["cached_tokens"] for step in run.steps),
        "drafted_right": num_right,
        "is_greedy": is_greedy,
        **medians,
        "prefill_over_verify": round(medians["prefill_ms"] / medians["verify_ms"], 1),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="Blockwise draft and verify through a front door.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the front door")
    parser.add_argument("--api-key", default="", help="if the front door wants one")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--block", type=int, default=8, help="tokens drafted in a round")
    parser.add_argument("--page-size", type=int, default=16, help="the groups'")
    given = parser.parse_args()
    headers = {"authorization": f"Bearer {given.api_key}"} if given.api_key else {}
    with httpx.Client(base_url=given.url, headers=headers, timeout=600) as client:
        run = Run(client, given.page_size)
        prompt_ids = run.tokenize(_text(given.prompt_tokens))[: given.prompt_tokens]
        print("step          prompt   new  computed  cached  dp_rank   time_ms")
        run.prefill(prompt_ids)
        num_right = 0
        for number in range(1, given.rounds + 1):
            num_right += run.verify(number, run.draft(number, given.block))
        output = run.context[len(prompt_ids) :]
        is_greedy = output == run.greedy(prompt_ids, len(output))
    print(json.dumps(summary(run, num_right, given.page_size, is_greedy=is_greedy)))


if __name__ == "__main__":
    main()
