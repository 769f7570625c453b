"""
`GET /`: the page that shows the groups live, in one answer.

Its parts stand beside this file and are put together once.  Scripts and styles are allowed by
their digests alone, so nothing that comes with the figures (names of models are other people's)
can be run; and the page asks nobody but the instance.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from fastapi import FastAPI, Response

_STYLE, _SCRIPT = "/*STYLE*/", "/*SCRIPT*/"


def add_page(app: FastAPI) -> None:
    """Answer `/`."""
    page, policy = page_and_policy()
    headers = {
        "content-security-policy": policy,
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        """For people: needs no key itself, and asks for the one that its questions need."""
        return Response(page, media_type="text/html", headers=headers)


def page_and_policy() -> tuple[bytes, str]:
    """The whole page, and the Content-Security-Policy that goes with it."""
    folder = files("router.control_plane.page")
    style, script, page = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html")
    )
    whole = page.replace(_STYLE, style).replace(_SCRIPT, script)
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return whole.encode(), policy


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
