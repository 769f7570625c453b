"""What a backend needs and this instance does not have: a key, libraries, a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.backends.backend import Backend
from router.backends.engine_client import why_no_key
from router.backends.kv_endpoint import why_not


@dataclass(frozen=True, slots=True)
class Lacks:
    """Of one instance."""

    environment: Mapping[str, str]
    """With the keys of backends."""
    tokenizer_path: object = None
    """None: no --tokenizer-path was said."""

    def of(self, backend: Backend) -> str | None:
        """Why that backend cannot be used as it is told; None if it can."""
        return why_no_key(backend, self.environment) or self.of_events(backend)

    def of_events(self, backend: Backend) -> str | None:
        """Why its KV events cannot be; None if they can, or it was not told of any."""
        why = why_not(self.tokenizer_path) if backend.kv_events else None
        return why and f"kv-events: {why}"
