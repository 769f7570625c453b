"""
The lobby: where requests wait, in the front door, until a group has room for them.

    enter ──► looked at: at once if nobody waits before it, when an exchange ends, and,
                  within a few ms, when figures or those who wait have changed, or a hold is over
                  ├── placed:      guest.assigned, in the loop's next turn
                  └── turned away: guest.turned_away

Who goes, and in what order, the waiting room says (balancer.waiting_room); where to,
the dispatcher.  A request that waits is charged to nobody, so one whose client
leaves just leaves.  One that was placed and whose client leaves before its turn
closes its assignment itself.

Nothing tells a front door that a segment was written, so while anybody waits a timer
compares sequences, which costs microseconds; a look asks for room 17 times.  With nothing
taken over, and nobody come or gone since the last look, nobody would go who did not then,
but whom 5 s of waiting have put first: he does with the next report.

All of it runs in the event loop's thread and nothing here awaits, so a look decides on
one state of queue and figures.  Guests are told by callbacks of their own, in the
loop's next turn: one that fails keeps nobody else from what it was given.

Whatever the admission, a request also waits while nobody serves who could take it, as long as
router.front_door.absences has it that workers of ours come back; so does one that was lost with
its group (router.front_door.kept_exchange).  That one waits at least until the table has told
of what the connection's end may mean: a loss is often seen before a death is.

Without late admission, without holding and with nobody to wait for there is no lobby.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from functools import partial
from typing import Protocol

from balancer.assignment import Assignment
from balancer.exclusion import Exclusion, Exclusions, because
from balancer.load import RequestShape
from balancer.room import all_idle, groups_without_room, may_have_room
from balancer.waiting_room import Admission, Waiter, WaitingRoom
from router.errors import NoGroup, RequestError, WaitingRoomFull
from router.front_door.absences import Absences
from router.front_door.decision_log import Occasion
from router.front_door.dispatcher import Dispatcher
from router.front_door.meters import Meters
from router.instance import Instance
from shm.group_table import GroupEntry

_LOOK_S = 0.005
_NS = 1e-9
TOLD_WITHIN_NS = 500_000_000
"""Time that a death takes to reach the table, with room to spare."""


class Guest(Protocol):
    """Whoever waits."""

    @property
    def not_before_ns(self) -> int:
        """When it may go at the earliest."""

    @property
    def unfit(self) -> Exclusions:
        """Groups that it may not go to, as they are now."""

    @property
    def occasion(self) -> Occasion:
        """What attempt it waits for."""

    def assigned(self, assignment: Assignment) -> None:
        """A group has room; the guest closes the assignment."""

    def turned_away(self, error: RequestError) -> None:
        """It waits no more, and no group takes it."""


class Lobby:
    """Belongs to one front door."""

    def __init__(
        self,
        instance: Instance,
        dispatcher: Dispatcher,
        meters: Meters,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        rules = instance.waiting_rules
        self._room: WaitingRoom[Guest] = WaitingRoom(rules, instance.dp_size)
        self._is_late = rules.admission is Admission.LATE
        self.is_entered_first = rules.can_wait
        """Whether requests come here before it is known that nobody can take them."""
        self._num_groups = instance.dp_size
        self._dispatcher = dispatcher
        self._absences = Absences(instance.max_restart_wait_s)
        self.waits_for_groups = instance.waits_for_groups
        """Whether groups that start again are waited for."""
        self._meters = meters
        self._loop = loop
        self._timer: asyncio.Handle | None = None
        self._is_closed = self._has_changed = False
        self._seen_changes = self._looked_ns = 0
        self._due_ns: deque[int] = deque()
        """When somebody who could not go yet may, in order."""
        self.keys_differ = instance.api_key is None
        """Whether clients may be told apart by the keys they send."""

    @classmethod
    def wanted(
        cls,
        instance: Instance,
        dispatcher: Dispatcher,
        meters: Meters,
        loop: asyncio.AbstractEventLoop,
    ) -> Lobby | None:
        """None if nobody ever waits."""
        if not (instance.waiting_rules.can_wait or instance.waits_for_groups):
            return None
        return cls(instance, dispatcher, meters, loop)

    def now_ns(self) -> int:
        """On the clock of all who wait."""
        return self._dispatcher.now_ns()

    def observe_groups(self, groups: Collection[GroupEntry]) -> None:
        """The table as it is now."""
        self._absences.observe(groups, self.now_ns())

    def is_worth_waiting(self, request: RequestShape, unfit: Collection[int] = ()) -> bool:
        """Whether nobody but the unfit serves who could take it, and somebody will."""
        if may_have_room(self._dispatcher.controller, request.dp_rank, unfit):
            return False
        return self._absences.may_end(request.dp_rank, self.now_ns())

    def enter(self, waiter: Waiter[Guest]) -> None:
        """Leads to one of the guest's calls, unless it leaves before."""
        if self._is_closed:
            waiter.owner.turned_away(_stopping())
            return
        self._room.enter(waiter)
        self._has_changed = True
        if waiter.owner.not_before_ns:
            self._due_ns.append(waiter.owner.not_before_ns)
        if len(self._room) == 1:
            self._look()  # else those before it were looked at just now, and will be again
        if self._room.turn_away(waiter):
            self._meters.waiting_overflows += 1
            most = self._room.rules.max_waiting_requests
            waiter.owner.turned_away(WaitingRoomFull(f"{most} requests wait for a DP group"))
        self._note()

    def leave(self, waiter: Waiter[Guest]) -> None:
        """Its client left, or it has ended; also if it does not wait."""
        self._room.leave(waiter)
        self._has_changed = True  # it may have kept others back
        self._note()

    def wake(self) -> None:
        """Something ended: look in the loop's next turn if anybody waits."""
        if self._room and not self._is_closed:
            self._has_changed = True
            self._schedule(0.0)

    def close(self) -> None:
        """The front door stops: whoever waits is turned away, and whoever comes."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiter in self._room.empty():
            self._loop.call_soon(partial(waiter.owner.turned_away, _stopping()))
        self._note()

    def _look(self) -> None:
        """Let go who can, and look again soon if anybody is left."""
        self._dispatcher.refresh()
        self._has_changed, self._seen_changes = False, self._dispatcher.num_changes
        self._looked_ns = now_ns = self.now_ns()
        is_idle = all_idle(self._dispatcher.controller)
        gone: list[tuple[Waiter[Guest], Assignment | NoGroup]] = self._room.dispatch(
            now_ns, self._place, is_idle=is_idle, is_away=self._is_away
        )
        for waiter, found in gone:
            self._meters.waited_s.observe((now_ns - waiter.arrived_ns) * _NS)
            guest = waiter.owner
            if isinstance(found, NoGroup):
                self._loop.call_soon(partial(guest.turned_away, found))
            else:
                self._loop.call_soon(partial(guest.assigned, found))
        if self._room and self._timer is None:
            self._schedule(_LOOK_S)

    def _is_away(self, waiter: Waiter[Guest]) -> bool:
        """Whether it waits for somebody who is not there, or to hear who is."""
        is_early = self._looked_ns < waiter.owner.not_before_ns
        return is_early or self.is_worth_waiting(waiter.request, waiter.owner.unfit)

    def _place(self, waiter: Waiter[Guest]) -> Assignment | NoGroup | None:
        """None: wait on.  An error: no group serves that might have room one day."""
        controller, request = self._dispatcher.controller, waiter.request
        unfit = waiter.owner.unfit
        full = groups_without_room(controller, request.prompt_tokens) if self._is_late else ()
        may_wait = self._is_late and may_have_room(controller, request.dp_rank, unfit)
        if may_wait and len(full) == self._num_groups:
            return None
        try:
            waited_ns = self.now_ns() - waiter.arrived_ns
            occasion = waiter.owner.occasion._replace(waited_ns=waited_ns)
            excluded = {**because(full, Exclusion.NO_ROOM), **unfit}
            return self._dispatcher.assign(request, excluded, occasion)
        except NoGroup as error:
            return None if may_wait else error

    def _schedule(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._dispatcher.refresh()
        has_news = self._has_changed or self._dispatcher.num_changes != self._seen_changes
        if has_news or self._is_due(self.now_ns()):
            self._look()
            self._note()
        elif self._room:
            self._schedule(_LOOK_S)

    def _is_due(self, now_ns: int) -> bool:
        """Whether time alone lets somebody go, or ends a wait."""
        is_due = self._absences.has_given_up(self._looked_ns, now_ns)
        while self._due_ns and self._due_ns[0] <= now_ns:
            is_due = self._due_ns.popleft() > self._looked_ns or is_due
        held_until_ns = self._room.due_ns()
        return is_due or (held_until_ns is not None and now_ns >= held_until_ns)

    def _note(self) -> None:
        self._meters.waiting_requests = len(self._room)


def _stopping() -> NoGroup:
    return NoGroup("this front door is stopping, and no DP group had room yet")
