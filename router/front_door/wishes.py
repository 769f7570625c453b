"""
What a request says of where it should go: its session, or the very rank.

    X-Data-Parallel-Rank              the group that shall answer, whatever the method
    X-Session-Affinity, X-Session-ID  a session's name; the first that is there counts
    else                              the conversation up to its first question, or the
                                      beginning of the prompt

A session becomes a key of 64 bits: its name is kept nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Any

import orjson

from balancer.methods import SESSION_METHODS
from router.errors import BadRequest
from router.front_door.message import Request

RANK_HEADER = b"x-data-parallel-rank"
SESSION_HEADERS = (b"x-session-affinity", b"x-session-id")
_PROMPTS = ("prompt", "text", "input_ids", "input")
_BEGINNING = 256  # characters or tokens of a prompt that is no conversation
_KEY_BYTES = 8


class Wishes:
    """Reads them as the method in use needs them."""

    def __init__(self, ranks: Callable[[], Collection[int]], method: str) -> None:
        """`ranks`: of the groups that there are now, in order."""
        self._ranks = ranks
        self._are_sessions_wanted = method in SESSION_METHODS

    def dp_rank(self, request: Request) -> int | None:
        """The rank that is asked for.  Raises BadRequest if there is none of that number."""
        asked = request.header(RANK_HEADER)
        if not asked:
            return None
        ranks = self._ranks()
        if asked.isdigit() and len(asked) < 10 and int(asked) in ranks:
            return int(asked)
        text, name = asked.decode("latin-1"), RANK_HEADER.decode()
        raise BadRequest(f"{name} is {text!r}; {_told(ranks)}", name)

    def session_key(self, request: Request, body: dict[str, Any]) -> int | None:
        """What the requests of one session have in common; None if nobody wants to know."""
        if not self._are_sessions_wanted:
            return None
        for header in SESSION_HEADERS:
            name = request.header(header)
            if name:
                return _key(name)
        try:
            return _key(orjson.dumps(_beginning(body)))
        except orjson.JSONEncodeError:  # nested deeper than it writes, though not than it reads
            return None


def _told(ranks: Collection[int]) -> str:
    if not ranks:
        return "there is no group"
    if list(ranks) == list(range(len(ranks))):
        return f"ranks are 0 to {len(ranks) - 1}"
    return f"ranks are {', '.join(map(str, ranks))}"


def _beginning(body: dict[str, Any]) -> Any:
    """What later requests of a conversation begin with, too."""
    messages = body.get("messages")
    if isinstance(messages, list):
        roles = [each.get("role") if isinstance(each, dict) else None for each in messages]
        return messages[: roles.index("user") + 1 if "user" in roles else 1]
    prompt = next(filter(None, (body.get(name) for name in _PROMPTS)), "")
    while isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[0]
    return prompt[:_BEGINNING] if isinstance(prompt, str | list) else ""


def _key(name: bytes) -> int:
    return int.from_bytes(blake2b(name, digest_size=_KEY_BYTES).digest(), "little")
