"""What the choices of a job have come to: sorts their outputs, and counts them."""

from __future__ import annotations

from collections.abc import Sequence

from workers.engine.request import Output, Request
from workers.errors import RequestRefused
from workers.server.answers import Piece, Usage


class Tally:
    """
    Takes outputs of all of a job's requests, and hands out pieces of a choice.

    Copies of a prompt stand side by side, num_copies of them.  Usage counts a prompt
    once, by its first copy: what the others found cached is what that one computed.
    error: what one of the requests was refused with, and all end with.
    """

    def __init__(self, requests: Sequence[Request], num_copies: int) -> None:
        self._requests = requests
        self._num_copies = num_copies
        self._index = {request.request_id: i for i, request in enumerate(requests)}
        self._held: list[list[Output]] = [[] for _ in requests]
        self._num_cached = [0] * len(requests)
        self._num_outputs = 0
        self._num_open = len(requests)
        self.error: RequestRefused | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing follows that matters."""
        return not self._num_open or self.error is not None

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        firsts = range(0, len(self._requests), self._num_copies)
        return Usage(
            sum(self._requests[i].num_prompt for i in firsts),
            sum(self._num_cached[i] for i in firsts),
            self._num_outputs,
        )

    def add(self, output: Output) -> int:
        """Take an output; return the number of its choice."""
        index = self._index[output.request_id]
        self._held[index].append(output)
        self._num_cached[index] = output.num_cached
        self._num_outputs += output.token_id is not None
        self._num_open -= output.is_last
        self.error = self.error or output.error
        return index

    def piece(self, index: int) -> Piece:
        """What was added for a choice since its last piece."""
        outputs, self._held[index] = self._held[index], []
        logprobs = None
        if self._requests[index].params.logprobs is not None:
            logprobs = [output.logprobs for output in outputs if output.logprobs is not None]
        return Piece(
            text="".join(output.text for output in outputs),
            logprobs=logprobs,
            finish_reason=outputs[-1].finish_reason,
            choice=index,
            token_ids=[output.token_id for output in outputs if output.token_id is not None],
            prompt_logprobs=[each for output in outputs for each in output.prompt_logprobs],
            num_cached=outputs[-1].num_cached,
        )

    def pieces(self) -> list[Piece]:
        """What was added for each choice since its last piece."""
        return [self.piece(index) for index in range(len(self._requests))]
