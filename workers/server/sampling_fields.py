"""The fields about the choice of tokens that OpenAI's bodies and SGLang's have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from workers.model.sampling_params import SamplingParams


class SamplingFields(BaseModel):
    """They mean the same in both.  Fields that are not given have the engine's defaults."""

    model_config = ConfigDict(extra="allow", strict=True)

    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None

    @property
    def num_copies(self) -> int:
        """Outputs wanted of each prompt."""
        return 1 if self.n is None else self.n

    def as_params(
        self, seed: int | None, max_tokens: int | None, logprobs: int | None
    ) -> SamplingParams:
        """
        Return them as the engine knows them, with those that each API has by its own name.

        Raises InvalidSampling, which names the engine's field.
        """
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0 if self.top_k == -1 else self.top_k,
            "min_p": self.min_p,
            "ignore_eos": self.ignore_eos,
        }
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return SamplingParams(
            seed=seed,
            max_tokens=max_tokens,
            stop=tuple(stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logprobs=logprobs,
            **{name: value for name, value in given.items() if value is not None},
        )
