"""Where the head of a response lies in what came, and what it says of the body."""

from __future__ import annotations

_LINE_END = b"\r\n"
_END_OF_HEAD = b"\r\n\r\n"


def span_of_head(data: bytes) -> tuple[int, int]:
    """Begin and end (0 if not yet whole) of the head that follows interim ones and empty lines."""
    start = 0
    while True:
        while data.startswith(_LINE_END, start):
            start += len(_LINE_END)
        end = data.find(_END_OF_HEAD, start) + len(_END_OF_HEAD)
        if end < len(_END_OF_HEAD):
            return start, 0
        if status_of(data[start:end]) >= 200:
            return start, end
        start = end


def status_of(head: bytes) -> int:
    """Of a whole head."""
    return int(head[9:12])


def is_until_eof(status: int, head: bytes) -> bool:
    """Whether its body ends with the connection."""
    lower = head.lower()
    framed = b"\r\ncontent-length:" in lower or b"\r\ntransfer-encoding:" in lower
    return not framed and status not in (204, 304)
