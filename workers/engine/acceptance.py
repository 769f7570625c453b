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

Ids are remembered for KEEP_S at least, far longer than a front door takes to ask
about a charge, unless more than MAX_NEW_IDS arrive in that time.  A question that
comes later than that counts its charge again (docs/decisions/0009).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from shm.load import Accepted
from workers.errors import ChargeSeen

logger = logging.getLogger("levelhead.workers.engine")

KEEP_S = 600.0
MAX_NEW_IDS = 1 << 19


class Charge(NamedTuple):
    """What a front door has noted as sent to this group, for one request."""

    dp_balance_id: str
    front_door: int
    front_door_epoch: int
    tokens: int


class Ticket:
    """
    A charge, and how many of its request's choices are left.

    Made by the event loop and handed over with its requests through the inbox; from then on
    the step loop alone touches it.
    """

    def __init__(self, charge: Charge, num_choices: int) -> None:
        self.charge = charge
        self.num_choices = num_choices
        self.is_counted = False


class AcceptedCounters:
    """
    What was taken over from each front door, and what of it has ended.

    Belongs to the step loop.  What was accepted ends once: when the last choice of its
    request has left, or at once if it never gets in.
    """

    def __init__(self, num_front_doors: int) -> None:
        self._slots = [Accepted(0, 0, 0, 0, 0)] * num_front_doors

    def enter(self, ticket: Ticket) -> None:
        """A choice of the ticket's request is taken in; the first brings the charge."""
        if not ticket.is_counted:
            ticket.is_counted = True
            self.count(ticket.charge)

    def leave(self, ticket: Ticket) -> None:
        """A choice of it holds nothing any more; with the last one the charge has ended."""
        ticket.num_choices -= 1
        if not ticket.num_choices:
            self.end(ticket.charge)

    def count(self, charge: Charge) -> None:
        """
        Add charge to its slot.

        A newer epoch of the front door starts from zero, and what an older one
        sent counts for nothing: that front door is gone, and so is its book.
        """
        slot = self._slots[charge.front_door]
        if charge.front_door_epoch > slot.front_door_epoch:
            slot = Accepted(charge.front_door_epoch, 0, 0, 0, 0)
        if charge.front_door_epoch == slot.front_door_epoch:
            slot = slot._replace(tokens=slot.tokens + charge.tokens, requests=slot.requests + 1)
        self._slots[charge.front_door] = slot

    def end(self, charge: Charge) -> None:
        """Add what was counted to what has ended, unless its front door has begun anew."""
        slot = self._slots[charge.front_door]
        if charge.front_door_epoch == slot.front_door_epoch:
            requests, ids = slot.ended.plus(int(charge.dp_balance_id, 16))
            slot = slot._replace(ended_requests=requests, ended_ids=ids)
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

    settle: puts a charge without a request into the inbox.  clock: seconds,
    monotonic or a fake.

    Ids are kept in two sets, new and old.  When the new one has been filled for
    KEEP_S, or has max_new_ids, it becomes the old one, and the old one is forgotten.
    """

    def __init__(
        self,
        settle: Callable[[Charge], None],
        clock: Callable[[], float],
        max_new_ids: int = MAX_NEW_IDS,
    ) -> None:
        self._settle = settle
        self._clock = clock
        self._new: set[int] = set()
        self._old: set[int] = set()
        self._since_s = clock()
        self._max_new_ids = max_new_ids
        self._has_warned = False

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
        number = int(dp_balance_id, 16)  # half the size of the text
        age_s = self._clock() - self._since_s
        if age_s >= KEEP_S or len(self._new) >= self._max_new_ids:
            self._forget(age_s)
        if number in self._new or number in self._old:
            return False
        self._new.add(number)
        return True

    def _forget(self, age_s: float) -> None:
        if age_s < KEEP_S and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%d requests arrived within %.0f s: ids are forgotten sooner than after %.0f s",
                len(self._new),
                age_s,
                KEEP_S,
            )
        self._old, self._new, self._since_s = self._new, set(), self._clock()
