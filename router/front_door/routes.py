"""
Where a request goes: to a DP group, to this front door itself, or to the control plane.

Where groups are backends, whatever is not our own question goes to one of them: their
endpoints are theirs, known to us or not.

The front door answers `/health` and `/ready` itself, so that a probe of the data
plane does not fail while the control plane restarts.
"""

from __future__ import annotations

import orjson

from router.errors import MethodNotAllowed, RequestError
from router.front_door.access import is_admin, is_page
from router.front_door.exchange import Client, Exchange, refusal
from router.front_door.message import Request, response
from router.front_door.prompt import GENERATE_PATH
from router.front_door.upstream_pool import UpstreamPool

_OURS = frozenset(
    (b"/health", b"/ready", b"/metrics", b"/v1/loads", b"/docs", b"/redoc", b"/openapi.json")
)
INFERENCE_PATHS = frozenset((b"/v1/chat/completions", b"/v1/completions", GENERATE_PATH))


def is_inference(request: Request) -> bool:
    """Whether a DP group answers this request.  Raises MethodNotAllowed."""
    if request.path not in INFERENCE_PATHS:
        return False
    if request.method != b"POST":
        path, method = request.path.decode(), request.method.decode()
        raise MethodNotAllowed(f"{path} takes POST, not {method}")
    return True


def is_for_backend(request: Request) -> bool:
    """Whether, where groups are backends, one of them answers: all but what only we can tell."""
    if is_page(request):
        return False
    return request.path not in _OURS and not is_admin(request.path)


def is_list_of_models(request: Request) -> bool:
    """Whether it asks which models are served."""
    return request.path == b"/v1/models" and request.method in (b"GET", b"HEAD")


def readiness(num_ready: int, num_groups: int) -> bytes:
    """Answer of `/ready`: 200 if at least one group can take a request."""
    body = orjson.dumps({"ready_groups": num_ready, "groups": num_groups})
    return response(200 if num_ready else 503, body)


class Answered(Exchange):
    """An exchange whose answer is known already."""

    def __init__(self, client: Client, request: Request, pool: UpstreamPool, answer: bytes) -> None:
        super().__init__(client, request, pool)
        self._answer = answer

    @classmethod
    def refused(
        cls, client: Client, request: Request, pool: UpstreamPool, error: RequestError
    ) -> Answered:
        """An exchange that is answered with that error."""
        return cls(client, request, pool, refusal(error))

    def start(self) -> None:
        """Answer."""
        self._end(None)
        self._answer_with(self._answer)
