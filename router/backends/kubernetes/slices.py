"""
What EndpointSlices say of a service: who of its endpoints is a backend.

    conditions of an endpoint               it is
    ready true, or not said                 a backend
    ready false (serving or not)            none: what it has it finishes, draining
    terminating, whatever else              none, as above

The API's document has an unknown readiness read as ready.  A service with both families of
addresses has slices of both for the same pods, so only one family counts.  An endpoint may stand
in two slices for a moment, and is one backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from router.backends.backend import Backend
from router.backends.kubernetes.service import Service

Slice = dict[str, Any]
_FAMILIES = ("IPv4", "IPv6")
"""That of names (FQDN) is deprecated, and its readiness is not told."""


def backends_of(service: Service, slices: Iterable[Slice]) -> tuple[Backend, ...]:
    """
    Its backends, in the order of their URLs.

    Raises ValueError if a slice is not one, or if it cannot be told which port is meant.
    """
    known = list(slices)
    try:
        family = service.family or _family(known)
        counted = [each for each in known if each["addressType"] == family]
        found = {backend.url: backend for each in counted for backend in _of(service, each)}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"an EndpointSlice is not one: {error!r}") from None
    return tuple(found[url] for url in sorted(found))


def _family(slices: list[Slice]) -> str:
    types = {each["addressType"] for each in slices}
    return next((each for each in _FAMILIES if each in types), _FAMILIES[0])


def _of(service: Service, told: Slice) -> Iterator[Backend]:
    hosts = [each["addresses"][0] for each in told["endpoints"] or () if _is_ready(each)]
    if hosts:
        port = _port(service, told)
        yield from (service.backend(host, port) for host in hosts)


def _is_ready(endpoint: dict[str, Any]) -> bool:
    conditions = endpoint.get("conditions") or {}
    return conditions.get("ready") is not False and not conditions.get("terminating")


def _port(service: Service, told: Slice) -> int:
    """Of its pods; one name may be another number in another slice."""
    if isinstance(service.port, int):
        return service.port
    ports: dict[str, int] = {
        each.get("name") or "": each["port"]
        for each in told.get("ports") or ()
        if each.get("port") is not None and each.get("protocol", "TCP") == "TCP"
    }
    if service.port is None and len(ports) == 1:
        return next(iter(ports.values()))
    if service.port in ports:
        return ports[service.port]
    names = ", ".join(f"{name or '(no name)'} ({port})" for name, port in ports.items()) or "none"
    wanted = "say which one" if service.port is None else f"none is named {service.port}"
    raise ValueError(f"{service.namespace}/{service.name} has the ports {names}: {wanted}")
