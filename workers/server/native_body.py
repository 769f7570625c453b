"""
The body of SGLang's native /generate.

One prompt or several; what can be given for each prompt may be given once for all.
Types are strict, as in `workers.server.bodies`, and so is the rule for fields that
are known, change the answer and are not implemented.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from workers.model.errors import InvalidSampling
from workers.model.sampling_params import SamplingParams
from workers.server.bodies import Neutral, as_prompts, check_neutral
from workers.server.errors import ApiError, from_error, from_validation
from workers.server.sampling_fields import SamplingFields

Value = TypeVar("Value")

DEFAULT_NEW_TOKENS = 128
_SAMPLING = "sampling_params"
_NEUTRAL: Neutral = {
    "input_embeds": (None,),
    "image_data": (None, []),
    "audio_data": (None, []),
    "video_data": (None, []),
    "lora_path": (None,),
    "session_params": (None,),
    "custom_logit_processor": (None,),
    "token_ids_logprob": (None,),
    "return_hidden_states": (None, False),
}
_NEUTRAL_SAMPLING: Neutral = {
    "min_new_tokens": (None, 0),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "stop_regex": (None, "", []),
    "regex": (None,),
    "json_schema": (None,),
    "ebnf": (None,),
    "structural_tag": (None,),
    "logit_bias": (None, {}),
    "skip_special_tokens": (None, True),
    "no_stop_trim": (None, False),
}


class _Sampling(SamplingFields):
    """What `sampling_params` holds."""

    max_new_tokens: int | None = None
    sampling_seed: int | None = None

    def params(self, logprobs: int | None) -> SamplingParams:
        """Return them as the engine knows them.  Raises ApiError naming the field."""
        try:
            return self.as_params(self.sampling_seed, self.max_new_tokens, logprobs)
        except InvalidSampling as error:
            raise _renamed(error) from error


class Ask(NamedTuple):
    """
    What is asked of one prompt.

    num_copies: outputs wanted.  logprob_start: None for output tokens alone.
    """

    prompt: str | list[int]
    params: SamplingParams
    num_copies: int
    logprob_start: int | None
    name: str | None


class GenerateBody(BaseModel):
    """Body of /generate."""

    model_config = ConfigDict(extra="allow", strict=True)

    text: str | list[str] | None = None
    input_ids: list[int] | list[list[int]] | None = None
    sampling_params: dict[str, Any] | list[dict[str, Any]] | None = None
    return_logprob: bool | list[bool] | None = None
    logprob_start_len: int | list[int] | None = None
    top_logprobs_num: int | list[int] | None = None
    return_text_in_logprobs: bool | None = None
    stream: bool | None = None
    rid: str | list[str] | None = None
    priority: int | None = None

    @property
    def param(self) -> str:
        """Name of the field that holds the prompt."""
        return "input_ids" if self.text is None else "text"

    @property
    def is_batch(self) -> bool:
        """Whether there is a list of prompts, even of one."""
        given = self.input_ids if self.text is None else self.text
        return isinstance(given, list) and not (given and isinstance(given[0], int))

    def asks(self) -> list[Ask]:
        """Return what is asked of each prompt.  Raises ApiError."""
        check_neutral(self.model_extra or {}, _NEUTRAL)
        if (self.text is None) == (self.input_ids is None):
            which = "neither" if self.text is None else "both"
            raise ApiError(400, f"one of text and input_ids is needed, not {which}", param="text")
        prompts = as_prompts(self.text if self.text is not None else self.input_ids or [])
        given: list[dict[str, Any]] = self._each(_SAMPLING, {}, len(prompts))
        sampling = [_sampling(each) for each in given]
        if len({each.n for each in sampling}) > 1:
            raise ApiError(400, f"{_SAMPLING}: n must be the same for all", param=f"{_SAMPLING}.n")
        scores = self._scores([0 if each.max_new_tokens == 0 else -1 for each in sampling])
        names: list[str | None] = self._each("rid", None, len(prompts))
        return [
            Ask(prompt, each.params(num_top), each.num_copies, start, name)
            for prompt, each, (num_top, start), name in zip(
                prompts, sampling, scores, names, strict=True
            )
        ]

    def _scores(self, usual_starts: Sequence[int]) -> list[tuple[int | None, int | None]]:
        """
        Return for each prompt how many best tokens, and from which position, or None.

        usual_starts: where the log-probabilities begin if nothing is said.  Where there are
        no output tokens it is the prompt's first: so SGLang's frontend scores a choice
        without the text before it, and there is nothing else to tell.
        """
        num_prompts = len(usual_starts)
        returns = self._each("return_logprob", False, num_prompts)
        given: list[int | None] = self._each("logprob_start_len", None, num_prompts)
        pairs = zip(given, usual_starts, strict=True)
        starts = [usual if start is None else start for start, usual in pairs]
        tops = self._each("top_logprobs_num", 0, num_prompts)
        _check_least("logprob_start_len", starts, -1)
        _check_least("top_logprobs_num", tops, 0)
        return [
            (top, None if start == -1 else start) if is_returned else (None, None)
            for is_returned, start, top in zip(returns, starts, tops, strict=True)
        ]

    def _each(self, field: str, default: Value, num_prompts: int) -> list[Value]:
        """Return the field's value for each prompt.  Raises ApiError."""
        value = getattr(self, field)
        if not isinstance(value, list):
            return [default if value is None else value] * num_prompts
        if not self.is_batch or len(value) != num_prompts:
            found, wanted = len(value), num_prompts if self.is_batch else "one, and no list"
            message = f"{field} has {found} values, there must be {wanted}, as many as prompts"
            raise ApiError(400, message, param=field)
        return value


def _sampling(given: dict[str, Any]) -> _Sampling:
    try:
        sampling = _Sampling.model_validate(given)
    except ValidationError as error:
        raise from_validation(error, where=f"{_SAMPLING}.") from error
    check_neutral(sampling.model_extra or {}, _NEUTRAL_SAMPLING, where=f"{_SAMPLING}.")
    return sampling


def _renamed(error: InvalidSampling) -> ApiError:
    """Name the field as this API does."""
    inside = {"max_tokens": "max_new_tokens", "seed": "sampling_seed"}
    field = f"{_SAMPLING}.{inside.get(error.field, error.field)}"
    name = "top_logprobs_num" if error.field == "logprobs" else field
    return from_error(InvalidSampling(name, error.value, error.allowed), param=name)


def _check_least(field: str, values: list[int], least: int) -> None:
    for value in values:
        if value < least:
            raise ApiError(400, f"{field} is {value}; it must be {least} or more", param=field)
