"""An exchange with the control plane: everything that is no inference request."""

from __future__ import annotations

from router.errors import ControlPlaneLost, RequestError
from router.front_door.exchange import Client, Exchange
from router.front_door.message import Request
from router.front_door.upstream import Address
from router.front_door.upstream_pool import UpstreamPool


class ControlExchange(Exchange):
    """Forwards a request to the control plane's Unix socket."""

    def __init__(
        self, client: Client, request: Request, pool: UpstreamPool, address: Address
    ) -> None:
        super().__init__(client, request, pool)
        self._address = address

    def start(self) -> None:
        """Send it.  HEAD goes as GET, and its body is dropped on the way back."""
        method = b"GET" if self._request.method == b"HEAD" else self._request.method
        self._send(self._address, self._request.forwarded(method, b""))

    def _lost_error(self, reason: str) -> RequestError:
        return ControlPlaneLost(f"the control plane does not answer ({reason}); it is restarted")
