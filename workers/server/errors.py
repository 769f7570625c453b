"""
What a client is told when something goes wrong, in OpenAI's shape.

The one table from our errors to HTTP statuses is STATUSES; the most specific
class counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from workers import errors
from workers.errors import WorkerError
from workers.model.errors import ChatTemplateError, InvalidSampling, ModelError

INVALID_REQUEST = "invalid_request_error"
RETRY_AFTER_S = 1


class ApiError(Exception):
    """An answer other than 200.  param: the field of the body that is to blame."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str = INVALID_REQUEST,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that go with the status."""
        return {"retry-after": str(RETRY_AFTER_S)} if self.status == 503 else {}


class ClientGone(Exception):
    """The client has closed its connection: there is nobody to tell."""


class _Status(NamedTuple):
    status: int
    kind: str
    code: str | None = None


STATUSES: Mapping[type[WorkerError] | type[ModelError], _Status] = {
    errors.QueueFull: _Status(503, "overloaded_error", "queue_full"),
    errors.Stopping: _Status(503, "service_unavailable_error", "stopping"),
    errors.MemoryReleased: _Status(503, "service_unavailable_error", "memory_released"),
    errors.NotReleased: _Status(409, INVALID_REQUEST, "not_released"),
    errors.NeverFits: _Status(400, INVALID_REQUEST, "context_length_exceeded"),
    errors.ChargeSeen: _Status(409, INVALID_REQUEST, "dp_balance_id_seen"),
    errors.WrongEpoch: _Status(421, "service_unavailable_error", "wrong_epoch"),
    errors.StepFailed: _Status(500, "internal_server_error", "step_failed"),
    InvalidSampling: _Status(400, INVALID_REQUEST),
    ChatTemplateError: _Status(400, INVALID_REQUEST),
    WorkerError: _Status(500, "internal_server_error"),
    ModelError: _Status(500, "internal_server_error"),
}


def from_error(error: WorkerError | ModelError, param: str | None = None) -> ApiError:
    """What a client is told about error."""
    row = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    return ApiError(row.status, str(error), param, row.code, row.kind)


def from_validation(error: ValidationError, where: str = "") -> ApiError:
    """
    What a client is told about a body of the wrong types: the first thing that is wrong.

    where: what stands before the names of fields.
    """
    first: Any = error.errors(include_url=False, include_context=False)[0]
    path = [str(part) for part in first["loc"]]
    message = f"{where}{'.'.join(path) or 'body'}: {first['msg']}"
    return ApiError(400, message, param=where + path[0] if path else None)
