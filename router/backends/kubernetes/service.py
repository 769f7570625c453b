"""
A Kubernetes service whose ready endpoints are backends, as `--backend-kubernetes` says it.

    NAMESPACE/SERVICE[:PORT][,SETTING=...]       PORT: a port's name, or the number in the pods
"""

from __future__ import annotations

import re
from typing import NamedTuple

from router.backends.backend import Backend, authority_of, backend_of, parse_settings
from router.backends.kv_endpoint import check_ports

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SERVICE = re.compile(
    rf"(?P<namespace>{_LABEL})/(?P<name>{_LABEL})(?::(?P<port>{_LABEL}))?", re.ASCII
)
_SETTINGS = ("kind", "dp-size", "weight", "api-key-env", "kv-events", "kv-replay")
_FAMILY = "family"
_FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6"}


class Service(NamedTuple):
    """What is asked for."""

    namespace: str
    name: str
    port: str | int | None
    """Name or number; None: it has only one."""
    family: str | None
    """`addressType` of its endpoints; None: IPv4 if it has any such."""
    settings: dict[str, str]
    """Of each backend."""

    def backend(self, host: str, port: int) -> Backend:
        """The one that is there."""
        return backend_of(f"http://{authority_of(host, port)}", self.settings)


def parse_service(text: str) -> Service:
    """What `text` says.  Raises ValueError, saying what is allowed."""
    target, *texts = text.split(",")
    settings = parse_settings(texts, "the service", (*_SETTINGS, _FAMILY))
    check_ports(settings)
    told = _SERVICE.fullmatch(target)
    if told is None:
        raise ValueError(f"{target!r}: allowed is NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORT")
    family = settings.pop(_FAMILY, None)
    if family is not None and family not in _FAMILIES:
        raise ValueError(f"family={family}: allowed are {', '.join(_FAMILIES)}")
    port = told["port"]
    number = int(port) if port is not None and port.isdigit() else port
    service = Service(
        told["namespace"], told["name"], number, family and _FAMILIES[family], settings
    )
    service.backend("192.0.2.1", number if isinstance(number, int) else 80)  # refuses what is bad
    return service
