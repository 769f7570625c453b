"""Who answers a request: the front door itself, a DP group, or the control plane."""

from __future__ import annotations

from router.errors import RequestError
from router.front_door.access import Access
from router.front_door.backend_exchange import BackendExchange
from router.front_door.control_exchange import ControlExchange
from router.front_door.exchange import Client, Exchange
from router.front_door.inference_exchange import InferenceExchange
from router.front_door.kept_exchange import KeptExchange
from router.front_door.lobby import Lobby
from router.front_door.message import Request, response
from router.front_door.routes import (
    Answered,
    is_for_backend,
    is_inference,
    is_list_of_models,
    readiness,
)
from router.front_door.services import Services
from router.front_door.upstream import Address
from router.front_door.waiting_exchange import WaitingExchange
from router.instance import Instance


class Reception:
    """Makes the exchange of each request."""

    def __init__(self, instance: Instance, services: Services, lobby: Lobby | None) -> None:
        self._services = services
        self._lobby = lobby
        self._access = Access(instance.host, instance.api_key, instance.admin_api_key)
        self._control = Address(instance.control_socket, 0)
        self._has_backends = instance.has_backends

    def exchange(self, client: Client, request: Request) -> Exchange:
        """The exchange that answers the request."""
        services = self._services
        try:
            self._access.check(request)
            if self._has_backends:
                if is_for_backend(request) and not self._is_list_of_all(request):
                    return BackendExchange(client, request, services)
            elif is_inference(request):
                if self._lobby is None:
                    return InferenceExchange(client, request, services)
                if self._lobby.is_entered_first:
                    return WaitingExchange(client, request, services, self._lobby)
                return KeptExchange(client, request, services, self._lobby)
        except RequestError as error:
            return Answered.refused(client, request, services.pool, error)
        if request.path == b"/health":
            return Answered(client, request, services.pool, response(200, b'{"status":"ok"}'))
        if request.path == b"/ready":
            return Answered(client, request, services.pool, self._readiness())
        return ControlExchange(client, request, services.pool, self._control)

    def _is_list_of_all(self, request: Request) -> bool:
        """Whether models are asked for, and there is no one engine that knows them all."""
        if not is_list_of_models(request):
            return False
        dispatcher = self._services.dispatcher
        dispatcher.refresh()
        return dispatcher.num_engines != 1

    def _readiness(self) -> bytes:
        dispatcher = self._services.dispatcher
        dispatcher.refresh()
        return readiness(dispatcher.controller.num_ready(), len(dispatcher.ranks))
