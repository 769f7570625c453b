"""HTTP/1.1 messages as bytes: a client's request, and the heads that are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus

# Between two hops only (RFC 9110, 7.6.1), or written anew for the next hop.
_NOT_FORWARDED = frozenset(
    (
        b"connection",
        b"content-length",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_WITHOUT_BODY = (b"GET", b"HEAD")  # usually: RFC 9110, 8.6
CLOSE = b"connection: close\r\n"
_OURS = b"x-levelhead-"  # a client's own would be taken for the front door's word


@dataclass(slots=True)
class Request:
    """One request of a client, complete."""

    method: bytes
    target: bytes
    """Path and query as the client wrote them."""
    headers: list[tuple[bytes, bytes, bytes]]
    """Name in lower case, name as written, value."""
    keep_alive: bool
    is_http10: bool
    names_hop_headers: bool = True
    """Whether a `Connection` header may name others; False if it is known that none does."""
    body: bytes = b""
    began_s: float = 0.0
    """Clock when its last byte was read."""
    path: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.path = self.target.partition(b"?")[0]

    def header(self, name: bytes) -> bytes:
        """Value of the first header of that lower-case name; empty if there is none."""
        for lower, _, value in self.headers:
            if lower == name:
                return value
        return b""

    def head_without(self, dropped: bytes) -> bytes:
        """The head as the client wrote it, but for the header of that lower-case name."""
        version = b"1.0" if self.is_http10 else b"1.1"
        lines = [b"%s %s HTTP/%s" % (self.method, self.target, version)]
        lines += [b"%s: %s" % (name, value) for low, name, value in self.headers if low != dropped]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def forwarded(
        self, method: bytes, extra: bytes, without: frozenset[bytes] = frozenset()
    ) -> bytes:
        """
        The request as it goes to an upstream.

        extra is finished header lines; without names headers, in lower case, that stay here.
        """
        dropped = self._not_forwarded() if self.names_hop_headers else _NOT_FORWARDED
        if without:
            dropped = dropped | without
        parts = [method, b" ", self.target, b" HTTP/1.1\r\n", extra]
        for lower, name, value in self.headers:
            if lower not in dropped and not lower.startswith(_OURS):
                parts += (name, b": ", value, b"\r\n")
        if self.body or method not in _WITHOUT_BODY:
            parts += (b"content-length: %d\r\n" % len(self.body),)
        parts += (b"\r\n", self.body)
        return b"".join(parts)

    def _not_forwarded(self) -> frozenset[bytes]:
        """Names of the headers that are for this hop alone, those that `Connection` names among
        them."""
        named = _NOT_FORWARDED
        for lower, _, value in self.headers:
            if lower == b"connection":
                named = named | _named_by_connection(value)
        return named


def _named_by_connection(value: bytes) -> frozenset[bytes]:
    return frozenset(token.strip().lower() for token in value.split(b","))


def response(
    status: int, body: bytes, extra: bytes = b"", *, content_type: bytes = b"application/json"
) -> bytes:
    """A whole response of our own; extra is finished header lines."""
    return b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n%s" % (
        status,
        HTTPStatus(status).phrase.encode(),
        content_type,
        len(body),
        extra,
        body,
    )


def closing(answer: bytes) -> bytes:
    """A whole response, which says that the connection closes after it."""
    head, end, body = answer.partition(b"\r\n\r\n")
    return head + b"\r\n" + CLOSE + end[2:] + body


def head_of(answer: bytes) -> bytes:
    """A response without its body, for a HEAD request."""
    return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def passed_head(head: bytes, extra: bytes, *, without_coding: bool = False) -> bytes:
    """
    An upstream's response head (with its empty line) as it goes to the client.

    Drops what was between upstream and front door, and what only a front door
    says; without_coding what tells of chunks too, which otherwise pass as they
    came.  Adds extra, finished header lines, at the end.
    """
    lower = head.lower()
    if without_coding or any(mark in lower for mark in _DROPPED_MARKS):
        first, *lines = head[:-4].split(b"\r\n")
        dropped = _dropped_from(lines)
        if without_coding:
            dropped |= _OF_CHUNKS
        kept = [line for line in lines if not _is_dropped(_name_of(line), dropped)]
        head = b"\r\n".join((first, *kept)) + b"\r\n\r\n"
    return head[:-2] + extra + b"\r\n"


_HOP_NAMES = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"))
_DROPPED_MARKS = (*(b"\r\n%s:" % name for name in _HOP_NAMES), b"\r\n" + _OURS)
_OF_CHUNKS = frozenset((b"transfer-encoding", b"trailer"))
_FRAMING = _OF_CHUNKS | {b"content-length"}  # goes with the body, whatever `Connection` names


def _name_of(line: bytes) -> bytes:
    return line.partition(b":")[0].lower()


def _is_dropped(name: bytes, dropped: frozenset[bytes]) -> bool:
    return name in dropped or name.startswith(_OURS)


def _dropped_from(lines: list[bytes]) -> frozenset[bytes]:
    """Names of the headers that are for this hop alone, in lower case."""
    named: frozenset[bytes] = frozenset()
    for line in lines:
        if _name_of(line) == b"connection":
            named |= _named_by_connection(line.partition(b":")[2])
    return _HOP_NAMES | (named - _FRAMING)
