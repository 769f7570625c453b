"""
Turns a client's bytes into requests: HTTP/1.1 with limits, pipelining and all.

Complete requests wait in `complete`, in order.  What cannot be taken (not HTTP,
too large) stands in `refused` as soon as that is known, be the request complete
or not, and nothing is read after it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import httptools

from router.errors import BadRequest, BodyTooLarge, HeadersTooLarge, RequestError
from router.front_door.message import Request

_CONTENT_LENGTH = b"content-length"
_EXPECT = b"expect"
_CONNECTION = b"connection"
_USUAL_CONNECTION = (b"keep-alive", b"close")


class Limits(NamedTuple):
    """What a client may ask of a connection."""

    max_request_bytes: int
    max_header_bytes: int
    keep_alive_s: float
    request_timeout_s: float


class RequestReader:
    """One connection's parser, and the target of its callbacks."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self.complete: deque[Request] = deque()
        self.refused: RequestError | None = None
        self.is_within = False
        """Whether a request has begun and is not complete."""
        self.expects_continue = False
        """Whether its client waits for `100 Continue` before it sends the body."""
        self._now_s = 0.0
        self._clear()

    def _clear(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes, bytes]] = []
        self._announced: list[tuple[bytes, bytes, bytes]] | None = None  # those before the body
        self._head_bytes = 0
        self._declared_bytes = 0
        self._names_hop_headers = False
        self._pieces: list[bytes] = []
        self._body_bytes = 0
        self._told_bytes = -1
        self._unparsed_bytes = 0  # that came since the parser last told something

    def feed(self, data: bytes, now_s: float) -> None:
        """Take what came; see complete and refused afterwards."""
        self._now_s = now_s
        rest = self._parse(data)
        while rest and self.refused is None:
            rest = self._parse(rest)
        if self.is_within:
            self._limit_unparsed(len(data))

    def refuse(self, error: RequestError) -> None:
        """Read nothing more; the first reason stands."""
        if self.refused is None:
            self.refused = error
        self.is_within = False

    def _parse(self, data: bytes) -> bytes:
        """
        Feed the parser; return what it has to be fed next.

        A request that offers another protocol (h2c) is read again without the
        offer, because the parser takes what follows its head for the other protocol.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.refused is None:
                self._parser = httptools.HttpRequestParser(self)
                return self.complete.pop().head_without(b"upgrade") + data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self.refuse(BadRequest(f"not an HTTP/1.1 request: {error}"))
        return b""

    def _limit_unparsed(self, num_bytes: int) -> None:
        """The parser keeps a header until it is whole: that is memory too."""
        told = self._head_bytes + self._body_bytes
        if told != self._told_bytes:
            self._told_bytes, self._unparsed_bytes = told, 0
            return
        self._unparsed_bytes += num_bytes
        if self._unparsed_bytes > self._limits.max_header_bytes:
            self._refuse_head()

    # What the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._clear()
        self.is_within = self.refused is None

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or after the body one trailer."""
        lower = name.lower()
        self._headers.append((lower, name, value))
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.max_header_bytes:
            self._refuse_head()
        elif lower == _CONTENT_LENGTH:
            self._declared_bytes = int(value)
        elif lower == _EXPECT:
            self.expects_continue = value.lower() == b"100-continue"
        elif lower == _CONNECTION and value.lower() not in _USUAL_CONNECTION:
            self._names_hop_headers = True

    def on_headers_complete(self) -> None:
        """Refuse early what is declared too large."""
        self._announced, self._headers = self._headers, []
        if self._declared_bytes > self._limits.max_request_bytes:
            self._refuse_body(self._declared_bytes)

    def on_body(self, data: bytes) -> None:
        """A piece of the body, chunked coding removed."""
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.max_request_bytes:
            self._refuse_body(self._body_bytes)
        elif self.refused is None:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        """The request is complete and waits its turn."""
        if self.refused is not None or self._announced is None:
            return
        self.is_within = self.expects_continue = False
        parser, pieces = self._parser, self._pieces
        method, version = parser.get_method(), parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self.refuse(BadRequest(f"HTTP/{version} is not spoken here, HTTP/1.1 is"))
            return
        if method == b"CONNECT":
            self.refuse(BadRequest("CONNECT is not supported: this is no forward proxy"))
            return
        self.complete.append(
            Request(
                method=method,
                target=_origin_form(self._target),
                headers=self._announced,
                keep_alive=parser.should_keep_alive(),
                is_http10=version == "1.0",
                names_hop_headers=self._names_hop_headers,
                body=pieces[0] if len(pieces) == 1 else b"".join(pieces),
                began_s=self._now_s,
            )
        )

    def _count_head(self, num_bytes: int) -> None:
        self._head_bytes += num_bytes
        if self._head_bytes > self._limits.max_header_bytes:
            self._refuse_head()

    def _refuse_head(self) -> None:
        limit = self._limits.max_header_bytes
        self.refuse(HeadersTooLarge(f"request line and headers are over {limit} bytes"))

    def _refuse_body(self, size: int) -> None:
        limit = self._limits.max_request_bytes
        self.refuse(BodyTooLarge(f"the body has at least {size} bytes, allowed are {limit}"))


def _origin_form(target: bytes) -> bytes:
    """Path and query of a target, also where a client wrote the absolute form."""
    if target.startswith((b"/", b"*")) or b"://" not in target:
        return target
    rest = target.partition(b"://")[2]
    slash = rest.find(b"/")
    return rest[slash:] if slash >= 0 else b"/"
