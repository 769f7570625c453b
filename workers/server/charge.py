"""
Owns the charge that a request brings, from its headers to its settlement.

Wraps the whole app, so that every exit passes through one `finally`: whatever
the app did with the request, a charge that it did not hand to the engine is
settled.  Inside, the open charge lies in the scope under CHARGE.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from workers.engine.acceptance import Charge, ChargeDesk
from workers.errors import ChargeSeen
from workers.server.errors import ApiError, from_error
from workers.server.sending import send_error

CHARGE = "levelhead.charge"
BALANCE_ID_HEADER = "x-levelhead-dp-balance-id"
FRONT_DOOR_HEADER = "x-levelhead-front-door"
CHARGE_HEADER = "x-levelhead-charge-tokens"

_BALANCE_ID = re.compile(r"[0-9a-f]{16}")
_FRONT_DOOR = re.compile(r"(\d{1,9})/(\d{1,19})")
_TOKENS = re.compile(r"\d{1,15}")
_MAX_INT64 = 2**63 - 1


def read_charge(balance_id: str, front_door: str, tokens: str, num_front_doors: int) -> Charge:
    """Return the charge that these texts name.  Raises ApiError."""
    place = _FRONT_DOOR.fullmatch(front_door)
    if not _BALANCE_ID.fullmatch(balance_id):
        raise _malformed(BALANCE_ID_HEADER, balance_id, "16 lower-case hexadecimal digits")
    if place is None or int(place[2]) > _MAX_INT64:
        raise _malformed(FRONT_DOOR_HEADER, front_door, "<slot>/<epoch>")
    if int(place[1]) >= num_front_doors:
        raise _malformed(FRONT_DOOR_HEADER, front_door, f"a slot below {num_front_doors}")
    if not _TOKENS.fullmatch(tokens):
        raise _malformed(CHARGE_HEADER, tokens, "a number of tokens")
    return Charge(balance_id, int(place[1]), int(place[2]), int(tokens))


def _malformed(name: str, value: str, allowed: str) -> ApiError:
    return ApiError(400, f"{name} is {value!r}; it must be {allowed}", param=name)


class ChargeOwner:
    """ASGI middleware: opens the charge, closes it on every exit."""

    def __init__(self, app: ASGIApp, desk: ChargeDesk, num_front_doors: int) -> None:
        self._app = app
        self._desk = desk
        self._num_front_doors = num_front_doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; its charge is settled or taken when this returns."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if BALANCE_ID_HEADER not in headers:
            return await self._app(scope, receive, send)
        try:
            charge = self._desk.arrive(self._read(headers))
        except ChargeSeen as error:
            return await send_error(send, from_error(error))
        except ApiError as error:
            return await send_error(send, error)
        scope[CHARGE] = charge
        try:
            await self._app(scope, receive, send)
        finally:
            charge.close()

    def _read(self, headers: Headers) -> Charge:
        front_door = headers.get(FRONT_DOOR_HEADER, "")
        tokens = headers.get(CHARGE_HEADER, "")
        return read_charge(headers[BALANCE_ID_HEADER], front_door, tokens, self._num_front_doors)
