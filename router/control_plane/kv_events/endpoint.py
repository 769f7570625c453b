"""`GET /prefix_events/{dp_rank}`: what a backend's group has cached, for front doors alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from secrets import compare_digest

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import StreamingResponse

from router.control_plane.kv_events.group_feed import GroupFeed
from router.control_plane.kv_events.readers import KvReaders

_KEY = "x-levelhead-instance-key"


def add_prefix_events(app: FastAPI, readers: KvReaders, instance_key: str) -> None:
    """Add the route.  Front doors pass no client's request to it; who may ask has the key."""

    @app.get("/prefix_events/{dp_rank}", include_in_schema=False)
    async def prefix_events(dp_rank: int, request: Request) -> StreamingResponse:
        """All that the group has, then what changes, until either side leaves."""
        key = request.headers.get(_KEY, "")
        feed = readers.feed(dp_rank)
        if not compare_digest(key.encode(), instance_key.encode()) or feed is None:
            raise HTTPException(404)
        return StreamingResponse(_told(feed), media_type="application/x-ndjson")


async def _told(feed: GroupFeed) -> AsyncIterator[bytes]:
    follower = feed.open()  # here: one who leaves before this begins would never be closed
    try:
        while lines := await follower.next():
            yield lines
    finally:
        feed.close(follower)
