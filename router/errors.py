"""
What the router refuses, and how a client is told.

* RouterError
  - ConfigError           a flag has a value that cannot be: names flag, value, allowed
  - TraceError            a trace cannot be read: names file, line, what is wrong
  - StartError            a process did not come up
  - SupervisionLost       a process that ends would not be started again any more
  - NoFreeSlot            more groups of backends than --max-groups
  - EnrolmentBroken       who the backends are was saved, and cannot be read
  - EnrolmentUnsaved      who the backends are to be cannot be saved
  - ModelSourceError      the default model could not be fetched or verified
  - NoPicture             an instance that is looked at tells nothing just now
    - KeyRefused          it wants another key: asking again would not help
  - RequestError          one request is refused; the table below gives its HTTP status
    - BadRequest, Unauthorised, Forbidden, HeadersTooLarge, BodyTooLarge, RequestTimeout
    - UnknownModel, MethodNotAllowed, NoGroup (ModelUnavailable), GroupLost, ControlPlaneLost
    - OutOfDescriptors, InternalError

Every request error has OpenAI's shape:
`{"error": {"message", "type", "param", "code"}}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import orjson


class RouterError(Exception):
    """Base class of everything that this room raises."""


class ConfigError(RouterError):
    """A flag has a value that cannot be."""

    def __init__(self, flag: str, value: object, allowed: str) -> None:
        super().__init__(f"{flag} {value}: {allowed}")


class TraceError(RouterError):
    """A trace is not what it should be; or there is none."""


class StartError(RouterError):
    """A process of the instance did not come up."""


class SupervisionLost(RouterError):
    """Who starts a process again when it ends has failed."""


class NoFreeSlot(RouterError):
    """A backend has more groups than there are slots that nobody has."""

    def __init__(self, url: str, num_groups: int, num_free: int, num_slots: int) -> None:
        super().__init__(
            f"no free slot: {url} is {num_groups} DP groups, {num_free} of {num_slots} slots are "
            "free (--max-groups)"
        )


class EnrolmentBroken(RouterError):
    """What an earlier life of the control plane saved is not what it writes."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path}: {why}; the control plane cannot say which backends have which dp_ranks. "
            "Front doors go on with the last group table; start the instance anew"
        )


class EnrolmentUnsaved(RouterError):
    """What the control plane has to know again cannot be written, so it may not be done."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path}: {error.strerror or error}; nothing was changed, and the control plane begins "
            "anew with what was saved before"
        )


class ModelSourceError(RouterError):
    """The model's files could not be fetched, found or verified."""


class NoPicture(RouterError):
    """An instance that is looked at tells nothing just now.  It may the next time."""


class KeyRefused(NoPicture):
    """It wants another key: asking again would not help."""


class RequestError(RouterError):
    """One request is refused."""

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "internal_error"
    code: ClassVar[str | None] = None
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    def body(self) -> bytes:
        """The JSON object that a client of the OpenAI API expects."""
        error = {
            "message": str(self),
            "type": self.error_type,
            "param": self.param,
            "code": self.code,
        }
        return orjson.dumps({"error": error})


class BadRequest(RequestError):
    """Not HTTP, not JSON, or not what the endpoint takes."""

    status, error_type = 400, "invalid_request_error"


class Unauthorised(RequestError):
    """The API key is missing or wrong."""

    status, error_type, code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(RequestError):
    """No key would do: the instance does not answer this here."""

    status, error_type, code = 403, "invalid_request_error", "forbidden"


class RequestTimeout(RequestError):
    """The client began a request and did not finish it in time."""

    status, error_type, code = 408, "invalid_request_error", "request_timeout"


class UnknownModel(RequestError):
    """All models are known, and none has that name."""

    status, error_type, code = 404, "invalid_request_error", "model_not_found"


class MethodNotAllowed(RequestError):
    """The path is there, but not for this method."""

    status, error_type, code = 405, "invalid_request_error", "method_not_allowed"


class InternalError(RequestError):
    """A mistake of ours; the log has it."""

    status, error_type = 500, "internal_error"


class BodyTooLarge(RequestError):
    """The body is over --max-request-bytes."""

    status, error_type, code = 413, "invalid_request_error", "request_too_large"


class HeadersTooLarge(RequestError):
    """Request line and headers are over the limit."""

    status, error_type, code = 431, "invalid_request_error", "headers_too_large"


class NoGroup(RequestError):
    """Every DP group is dead, draining, starting or full."""

    status, error_type, code, retry_after_s = 503, "overloaded_error", "no_dp_group", 1


class ModelUnavailable(NoGroup):
    """Every DP group that serves the model is dead, draining, starting or full."""

    code = "model_unavailable"


class WaitingRoomFull(RequestError):
    """As many requests wait for room as may: --max-waiting-requests."""

    status, error_type, code, retry_after_s = 503, "overloaded_error", "waiting_room_full", 1


class GroupLost(RequestError):
    """The DP group could not be reached, or its connection broke before it answered."""

    status, error_type, code, retry_after_s = 502, "upstream_error", "dp_group_lost", 1


class OutOfDescriptors(RequestError):
    """The front door has no descriptor, or no memory, left for one more connection."""

    status, error_type, code, retry_after_s = 503, "overloaded_error", "out_of_descriptors", 1


class ControlPlaneLost(RequestError):
    """The control plane does not answer; inference requests are not affected."""

    status, error_type, code, retry_after_s = 503, "upstream_error", "control_plane_lost", 1
