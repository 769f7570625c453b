"""
Who may ask for what: the keys that a request must carry.

    path                          key that is needed
    /health /ready /metrics       none
    GET /                         none: the page, which has no figure in it and asks for the
                                  key that its questions need
    /admin/…                      the admin key if there is one, else the API key;
                                  without either, only a door on a loopback address answers,
                                  and only who speaks to it from there
    everything else               the API key, if there is one

On a loopback address more than the operator can ask: any page in a browser
(it sends Origin with what changes something, and the Host that it was led to
believe in) and whoever a reverse proxy lets through.  So without a key these
are refused.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from urllib.parse import unquote_to_bytes

from router.errors import Forbidden, Unauthorised
from router.front_door.message import Request

_OPEN_PATHS = frozenset((b"/health", b"/ready", b"/metrics"))
_ADMIN = b"/admin"
_BEARER = b"bearer "
_SPEAKS_FOR_OTHERS = frozenset((b"origin", b"forwarded", b"x-forwarded-for"))
_HOST = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?::[0-9]*)?")


class Access:
    """Checks the key of each request."""

    def __init__(self, host: str, api_key: str | None, admin_api_key: str | None) -> None:
        """`host`: the public address of the front door."""
        self._key = api_key.encode() if api_key else None
        self._admin_key = admin_api_key.encode() if admin_api_key else self._key
        self._is_local = _is_loopback(host)

    def check(self, request: Request) -> None:
        """Raise Unauthorised or Forbidden unless the request may be answered."""
        path = request.path
        if is_admin(path):
            self._check_admin(request)
        elif self._key is not None and path not in _OPEN_PATHS and not is_page(request):
            _check_key(request, self._key, "API")

    def _check_admin(self, request: Request) -> None:
        if self._admin_key is not None:
            _check_key(request, self._admin_key, "admin API")
        elif not self._is_local:
            raise Forbidden(
                "/admin is closed: without --admin-api-key or --api-key it is "
                "answered on a loopback address only"
            )
        else:
            _check_is_local(request)


def _check_is_local(request: Request) -> None:
    """Refuse who may be a web page, or who comes through a proxy, from wherever."""
    names = {name for name, _, _ in request.headers}
    hosts = [value for name, _, value in request.headers if name == b"host"]
    told = sorted(name.decode() for name in names & _SPEAKS_FOR_OTHERS)
    if not hosts or not all(map(_names_loopback, hosts)):
        told.append("host")
    if told:
        raise Forbidden(
            f"/admin is closed to web pages and proxies without --admin-api-key: {', '.join(told)}"
        )


def _names_loopback(host: bytes) -> bool:
    """Whether a Host header has a loopback name or address, with any port."""
    found = _HOST.fullmatch(host.decode("latin-1"))
    return found is not None and _is_loopback((found["ipv6"] or found["name"] or "").lower())


def _check_key(request: Request, key: bytes, name: str) -> None:
    value = request.header(b"authorization")
    given = value[len(_BEARER) :] if value.lower().startswith(_BEARER) else b""
    if not hmac.compare_digest(given, key):
        raise Unauthorised(f"a valid {name} key is needed: Authorization: Bearer <key>")


def is_page(request: Request) -> bool:
    """Whether it is for the page that shows the groups, and changes nothing."""
    return request.path == b"/" and request.method in (b"GET", b"HEAD")


def is_admin(path: bytes) -> bool:
    """Whether the control plane will take the path for one under /admin: it decodes first."""
    if b"%" in path:
        path = unquote_to_bytes(path)
    return path.startswith(_ADMIN)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
