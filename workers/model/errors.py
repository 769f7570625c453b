"""
What can go wrong with a model.

* ModelError
  - ModelMissing         there is nothing at that path
  - NotAModel            what is there is neither a GGUF file nor a Hugging Face folder
  - CorruptModel         it is one, and it is truncated or contradicts itself
  - UnsupportedModel     it is sound, and this engine cannot run it
  - InconsistentConfig   its numbers do not fit each other
  - MissingTensors       weights that the configuration calls for are not there
  - ShapeMismatch        a weight has another shape than the configuration implies
  - ChatTemplateError    the messages cannot be rendered with the model's template
  - BrokenLogits         the model computed something that is no number
  - InvalidSampling      a sampling parameter is outside its range
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class ModelError(Exception):
    """Base class: catch this to survive anything that a model can do."""


class ModelMissing(ModelError):
    """There is nothing at the given path."""


class NotAModel(ModelError):
    """The path holds neither a GGUF file nor a Hugging Face folder."""


class CorruptModel(ModelError):
    """The model is truncated or contradicts itself."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: corrupt or truncated: {reason}")


class UnsupportedModel(ModelError):
    """The model is sound, but asks for something that this engine lacks."""

    def __init__(self, what: str, found: object, supported: Sequence[object]) -> None:
        names = ", ".join(str(name) for name in supported)
        super().__init__(f"{what} {found!r} is not supported; supported: {names}")


class InconsistentConfig(ModelError):
    """The model's numbers do not fit each other."""


class MissingTensors(ModelError):
    """Weights that the configuration calls for are not in the checkpoint."""

    def __init__(self, names: Sequence[str]) -> None:
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        super().__init__(f"{len(names)} weights are missing: {shown}")


class ShapeMismatch(ModelError):
    """A weight has another shape than the configuration implies."""

    def __init__(self, name: str, found: Sequence[int], expected: Sequence[int]) -> None:
        super().__init__(f"{name} has shape {tuple(found)}, the model needs {tuple(expected)}")


class ChatTemplateError(ModelError):
    """The messages cannot be rendered with the model's chat template."""


class BrokenLogits(ModelError):
    """The model computed something that is no number."""

    def __init__(self, num_broken: int, num_rows: int) -> None:
        super().__init__(f"the logits of {num_broken} of {num_rows} sequences are NaN or infinite")


class InvalidSampling(ModelError):
    """A sampling parameter is outside its range."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} is {value!r}; it must be {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed
