"""
Owns the charge that a request brings, from its headers to its settlement.

Wraps the whole app, so that every exit passes through one `finally`: whatever
the app did with the request, a charge that it did not hand to the engine is
settled.  Inside, the open charge lies in the scope under CHARGE.

A request that names another epoch of this group is refused before its charge is
looked at: it was dispatched to a life that is over, and is counted nowhere.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from workers.engine.acceptance import Charge, ChargeDesk, OpenCharge
from workers.errors import ChargeSeen, WrongEpoch
from workers.server.errors import ApiError, from_error
from workers.server.sending import send_error

CHARGE = "levelhead.charge"
BALANCE_ID_HEADER = "x-levelhead-dp-balance-id"
FRONT_DOOR_HEADER = "x-levelhead-front-door"
CHARGE_HEADER = "x-levelhead-charge-tokens"
EPOCH_HEADER = "x-levelhead-group-epoch"

_BALANCE_ID = re.compile(r"[0-9a-f]{16}")
_FRONT_DOOR = re.compile(r"(\d{1,9})/(\d{1,19})")
_TOKENS = re.compile(r"\d{1,15}")
_EPOCH = re.compile(r"\d{1,19}")
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


def check_epoch(asked: int | None, own: int) -> None:
    """Raise ApiError if another epoch than this group's own is asked for."""
    if asked is not None and asked != own:
        raise from_error(WrongEpoch(asked))


def _malformed(name: str, value: str, allowed: str) -> ApiError:
    return ApiError(400, f"{name} is {value!r}; it must be {allowed}", param=name)


class ChargeOwner:
    """ASGI middleware: opens the charge, closes it on every exit.  epoch: this group's."""

    def __init__(self, app: ASGIApp, desk: ChargeDesk, num_front_doors: int, epoch: int) -> None:
        self._app = app
        self._desk = desk
        self._num_front_doors = num_front_doors
        self._epoch = epoch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; its charge is settled or taken when this returns."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        try:
            check_epoch(_epoch(headers), self._epoch)
            charge = self._arrive(headers)
        except ApiError as error:
            return await send_error(send, error)
        if charge is None:
            return await self._app(scope, receive, send)
        scope[CHARGE] = charge
        try:
            await self._app(scope, receive, send)
        finally:
            charge.close()

    def _arrive(self, headers: Headers) -> OpenCharge | None:
        """Open the charge, if there is one.  Raises ApiError."""
        if BALANCE_ID_HEADER not in headers:
            return None
        front_door = headers.get(FRONT_DOOR_HEADER, "")
        tokens = headers.get(CHARGE_HEADER, "")
        balance_id = headers[BALANCE_ID_HEADER]
        try:
            return self._desk.arrive(
                read_charge(balance_id, front_door, tokens, self._num_front_doors)
            )
        except ChargeSeen as error:
            raise from_error(error) from error


def _epoch(headers: Headers) -> int | None:
    text = headers.get(EPOCH_HEADER)
    if text is not None and not _EPOCH.fullmatch(text):
        raise _malformed(EPOCH_HEADER, text, "a number")
    return None if text is None else int(text)
