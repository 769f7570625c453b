"""
Asks for the addresses behind a name: A and AAAA of the system's resolver, SRV by dnspython.

No addresses are an answer, too: there is no such name, or nothing of that kind under it.  A
resolver that gives no answer is another matter, and raises.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from router.errors import RouterError

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

_NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_LIMIT_S = 10.0
FAMILIES = {"any": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


class Unresolved(RouterError):
    """The resolver gave no answer."""


class Place(NamedTuple):
    """Where a backend is: an address, not a name."""

    host: str
    port: int


def srv_is_there() -> bool:
    """Whether what asks for SRV records is installed."""
    try:
        import dns.asyncresolver  # noqa: F401  it is there, or not
    except ImportError:
        return False
    return True


async def addresses(name: str, port: int, family: str = "any") -> list[Place]:
    """Each once, in order.  Raises Unresolved."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(name, port, family=FAMILIES[family], type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_NAME:
            return []
        raise Unresolved(f"{name}: {error.strerror or error}") from None
    except (OSError, UnicodeError) as error:
        raise Unresolved(f"{name}: {error}") from None
    hosts = (str(each[4][0]) for each in found)
    return _ordered(Place(host, port) for host in hosts if "%" not in host)  # a zone is a link's


async def services(name: str, family: str = "any", resolver: Resolver | None = None) -> list[Place]:
    """
    Addresses and ports of the SRV records of that name; of several priorities, the first alone.

    A target that has no address is left out.  Raises Unresolved.
    """
    records = await _records(name, resolver)
    first = min((priority for priority, _, _ in records), default=0)
    targets = [(target, port) for priority, target, port in records if priority == first]
    found = await asyncio.gather(*(addresses(target, port, family) for target, port in targets))
    return _ordered(place for places in found for place in places)


async def _records(name: str, resolver: Resolver | None) -> list[tuple[int, str, int]]:
    """Priority, target and port of each."""
    from dns.asyncresolver import Resolver
    from dns.exception import DNSException
    from dns.resolver import NXDOMAIN

    try:
        answer = await (resolver or Resolver()).resolve(
            name, "SRV", search=True, lifetime=_LIMIT_S, raise_on_no_answer=False
        )
    except NXDOMAIN:
        return []
    except (DNSException, OSError) as error:
        raise Unresolved(f"{name}: {error}") from None
    records = [(each.priority, each.target.to_text(True), each.port) for each in answer.rrset or ()]
    return [each for each in records if each[1] not in ("", ".") and each[2]]  # "." says: none


def _ordered(places: Iterable[Place]) -> list[Place]:
    """IPv4 first; the same set is always the same list."""

    def key(place: Place) -> tuple[int, int, int]:
        address = ip_address(place.host)
        return address.version, int(address), place.port

    return sorted(set(places), key=key)
