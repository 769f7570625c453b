"""
Who may talk to a leader: the processes of its instance, which share a key.

A leader listens on loopback TCP, where every user of the machine can connect.
Without a key such a user would pass by the front door's API key, and could settle
charges that others have sent.  The root makes the key, anew for each instance, and
tells it to front doors and leaders alone.

`/health` is open: it says nothing but whether the group is well.
"""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from workers.server.errors import ApiError
from workers.server.sending import send_error

KEY_HEADER = "x-levelhead-instance-key"
_OPEN_PATH = "/health"


class KeyOwner:
    """
    ASGI middleware, the outermost: lets nothing in without the key.

    What is refused is counted nowhere: its charge, if it names one, is not its own.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] != _OPEN_PATH and not self._has_key(scope):
            message = f"{KEY_HEADER} is missing or wrong: ask the front door of the instance"
            error = ApiError(401, message, code="invalid_instance_key", kind="authentication_error")
            return await send_error(send, error)
        await self._app(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        given = Headers(scope=scope).get(KEY_HEADER, "")
        return hmac.compare_digest(given.encode("latin-1"), self._key)  # in constant time
