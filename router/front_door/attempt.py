"""
An attempt: one assignment of a request to a group, until it is released.

    assigned ── written ── answered ── complete ── closed
       └───────────┴──────────┴────────────┴─────────┘      closed from anywhere, once

What the charge becomes follows from how far it got.  Not written: it is taken
back.  Written and not answered: the group is asked what became of it.
Answered, in whatever way: the group has seen it and counts it, and a group of
another epoch, which answers 421, has nothing to count.

A backend counts no charges and is asked nothing: its charges are taken back as
they close (docs/decisions/0013-books-of-backends.md).  Nor is it told of any; what goes to it
is what the client wrote, and the rank where it has several.

What becomes of it, passive_health hears as it happens.
"""

from __future__ import annotations

from balancer.assignment import Assignment, End
from router.backends.addressing import rank_lines
from router.backends.backend import authority_of
from router.front_door.message import Request
from router.front_door.services import Services
from router.front_door.upstream import Address
from router.front_door.wishes import RANK_HEADER

_OK = 200
_MEANT_FOR_US = frozenset((RANK_HEADER,))
_MEANT_FOR_OUR_NAME = _MEANT_FOR_US | {b"host"}


class Attempt:
    """A request on one group.  Its exchange says how far it got."""

    __slots__ = (
        "_assignment",
        "_group",
        "_services",
        "_watched",
        "address",
        "is_answered",
        "is_complete",
        "is_computed",
        "is_written",
    )

    def __init__(self, services: Services, assignment: Assignment) -> None:
        self._services = services
        self._assignment = assignment
        self._group = services.dispatcher.group(assignment.dp_rank)
        self.address = Address.of(self._group)
        """Where it is sent, and asked: a later life of the group may be elsewhere."""
        self._watched = services.passive_health.watched(assignment.dp_rank)
        self.is_written = False
        self.is_answered = False
        self.is_computed = False
        """Whether the answer says that the prompt was computed."""
        self.is_complete = False
        """Whether the answer has come to its end."""

    @property
    def dp_rank(self) -> int:
        """The group."""
        return self._assignment.dp_rank

    @property
    def group_epoch(self) -> int:
        """The life of the group that it is meant for."""
        return self._assignment.group_epoch

    @property
    def dp_balance_id(self) -> str:
        """The assignment's name."""
        return self._assignment.dp_balance_id

    @property
    def num_streamed(self) -> int:
        """Tokens that the group has produced, as far as was seen."""
        return self._assignment.streamed_tokens

    def forwarded(self, request: Request) -> bytes:
        """The request as this group gets it."""
        if not self._group.is_backend:
            return request.forwarded(b"POST", self._charge_lines())
        method = b"GET" if request.method == b"HEAD" else request.method
        dropped = _MEANT_FOR_OUR_NAME if self._group.tls else _MEANT_FOR_US
        extra = rank_lines(self._group) + self._host_line(request)
        return request.forwarded(method, extra, dropped)

    def _host_line(self, request: Request) -> bytes:
        """
        The one that HTTP/1.1 requires, if the client's older version did not.

        Over TLS always: a server that has a name by its certificate and is called by another
        refuses (421), or takes the request for somebody else's.
        """
        host, port, tls = self.address
        if not tls and any(lower == b"host" for lower, _, _ in request.headers):
            return b""
        name = authority_of(host, port)
        return b"host: %s\r\n" % name.removesuffix(":443" if tls else "").encode()

    def _charge_lines(self) -> bytes:
        """Header lines that tell the group who charges what, and whom it is meant for."""
        services, assignment = self._services, self._assignment
        return (
            b"x-levelhead-dp-balance-id: %s\r\n"
            b"x-levelhead-front-door: %d/%d\r\n"
            b"x-levelhead-charge-tokens: %d\r\n"
            b"x-levelhead-group-epoch: %d\r\n"
            b"x-levelhead-instance-key: %s\r\n"
        ) % (
            assignment.dp_balance_id.encode(),
            services.slot,
            services.epoch,
            assignment.charge_tokens,
            assignment.group_epoch,
            services.instance_key.encode(),
        )

    def answer_lines(self) -> bytes:
        """Header lines that tell the client which group answers."""
        return b"x-levelhead-dp-rank: %d\r\nx-levelhead-dp-balance-id: %s\r\n" % (
            self._assignment.dp_rank,
            self._assignment.dp_balance_id.encode(),
        )

    def reached(self) -> None:
        """A connection was made for it."""
        self._watched.reached()

    def written(self) -> None:
        """It is on its way."""
        self.is_written = True
        self._watched.written()

    def unreachable(self, why: str) -> None:
        """The group's address takes no connection."""
        self._watched.unreachable(why)

    def answered(self, status: int) -> None:
        """The head of an answer came."""
        self.is_answered = True
        self.is_computed = status == _OK  # which comes with the first output
        self._watched.answered(status)

    def lost(self, why: str) -> None:
        """Its connection broke."""
        self._watched.lost(why)

    def streamed(self, num_tokens: int) -> None:
        """The group has produced that many tokens more."""
        self._services.dispatcher.controller.streamed(self._assignment, num_tokens)

    def close(self) -> None:
        """Release the assignment, the one place that does; twice does no harm."""
        if not self._assignment.is_open:
            return
        self._watched.close(is_complete=self.is_complete)
        if self._group.is_backend:
            self._services.dispatcher.controller.release(self._assignment, End.UNCOUNTED)
            return
        end = self._end() if self.is_written else End.NEVER_SENT
        self._services.dispatcher.controller.release(self._assignment, end)
        if self.is_written and not self.is_answered:
            self._services.settlement.ask(self.address, self._assignment)

    def _end(self) -> End:
        """How the charge of a request that was written ends."""
        if not self.is_computed:
            return End.UNANSWERED
        return End.COMPLETED if self.is_complete else End.REACHED
