"""
The rule of settlement: every charge that reaches a leader is counted exactly once.

A front door adds a charge to what it has dispatched before it sends a request.
Whatever becomes of the request here, its leader adds the same charge to
`accepted[slot]` once: at the step start that takes the request in, so that the
charge leaves the front door's in-flight tokens in the very report in which the
request's tokens enter holding; or, if it never gets that far (refused,
malformed, client gone), as settled, with nothing held.

    arrive ──► open ──take──► in the inbox with its request ──► counted
                 └──close──► in the inbox alone ──────────────► counted
    settle, id unknown ────► in the inbox alone ──────────────► counted
    settle or arrive, id known ──► counted, or about to be: nothing to do

Two threads: the event loop owns ChargeDesk, the step loop owns AcceptedCounters,
and charges go from one to the other through the inbox, each once.  If the
process dies in between, its epoch ends and with it every counter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from shm.load import Accepted
from workers.errors import ChargeSeen

MAX_REMEMBERED_IDS = 65_536


class Charge(NamedTuple):
    """What a front door has noted as sent to this group, for one request."""

    dp_balance_id: str
    front_door: int
    front_door_epoch: int
    tokens: int


class AcceptedCounters:
    """What was taken over from each front door.  Belongs to the step loop."""

    def __init__(self, num_front_doors: int) -> None:
        self._slots = [Accepted(0, 0, 0)] * num_front_doors

    def count(self, charge: Charge) -> None:
        """
        Add charge to its slot.

        A newer epoch of the front door starts from zero, and what an older one
        sent counts for nothing: that front door is gone, and so is its book.
        """
        slot = self._slots[charge.front_door]
        if charge.front_door_epoch > slot.front_door_epoch:
            slot = Accepted(charge.front_door_epoch, 0, 0)
        if charge.front_door_epoch == slot.front_door_epoch:
            slot = slot._replace(tokens=slot.tokens + charge.tokens, requests=slot.requests + 1)
        self._slots[charge.front_door] = slot

    def read(self) -> tuple[Accepted, ...]:
        """The counters as they stand, one for each slot."""
        return tuple(self._slots)


class OpenCharge:
    """
    A charge that has arrived and whose request has not been handed on.

    Whoever opened it closes it on every exit; closing does nothing once the
    charge was taken along with its request.
    """

    def __init__(self, charge: Charge, settle: Callable[[Charge], None]) -> None:
        self._charge: Charge | None = charge
        self._settle = settle

    def take(self) -> Charge:
        """Hand the charge over to a request that goes into the inbox."""
        assert self._charge is not None, "a charge is taken once"
        charge, self._charge = self._charge, None
        return charge

    def close(self) -> None:
        """Settle the charge with nothing held, unless it was taken."""
        charge, self._charge = self._charge, None
        if charge is not None:
            self._settle(charge)


class ChargeDesk:
    """
    Knows which charges have arrived.  Belongs to the event loop.

    settle: puts a charge without a request into the inbox.
    """

    def __init__(
        self, settle: Callable[[Charge], None], max_remembered: int = MAX_REMEMBERED_IDS
    ) -> None:
        self._settle = settle
        self._seen: set[str] = set()
        self._order: deque[str] = deque()
        self._max_remembered = max_remembered

    def arrive(self, charge: Charge) -> OpenCharge:
        """Note a request's charge.  Raises ChargeSeen, and then nothing is to be counted."""
        if not self._remember(charge.dp_balance_id):
            raise ChargeSeen(charge.dp_balance_id)
        return OpenCharge(charge, self._settle)

    def settle(self, charge: Charge) -> bool:
        """Whether the charge was counted or is about to be; if not, it is counted now."""
        if not self._remember(charge.dp_balance_id):
            return True
        self._settle(charge)
        return False

    def _remember(self, dp_balance_id: str) -> bool:
        if dp_balance_id in self._seen:
            return False
        self._seen.add(dp_balance_id)
        self._order.append(dp_balance_id)
        if len(self._order) > self._max_remembered:
            self._seen.remove(self._order.popleft())
        return True
