"""The page at `/`: what is sent, and to whom.  What it does there, tests/browser sees."""

import base64
import hashlib
import re

import pytest

from router.control_plane.page.page import page_and_policy
from router.errors import Unauthorised
from router.front_door.access import Access
from router.front_door.message import Request
from router.front_door.routes import is_for_backend
from tests.router.asking import asked, entry
from tests.router.house import House

pytestmark = pytest.mark.anyio


def request(method, target):
    return Request(method, target, [], keep_alive=True, is_http10=False)


async def test_the_page_comes_with_a_policy_that_allows_its_own_parts_alone():
    """
    By the digests of what is really between its tags.
    """
    async with House.built() as house, asked(house, [entry()]) as client:
        answer = await client.get("/")

    policy = answer.headers["content-security-policy"]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


async def test_the_page_asks_nobody_else_and_makes_no_markup_of_what_it_is_told():
    """
    No address but its own, no inline handler or style, and nothing that takes text for HTML.
    """
    page = page_and_policy()[0].decode()

    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"\son[a-z]+=|\sstyle=", page)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)
    assert "localStorage" not in page


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_the_page_needs_no_key_and_is_never_a_backends(method):
    """
    It has no figure in it; the key is for what it asks.
    """
    Access("0.0.0.0", "key", None).check(request(method, b"/"))

    assert not is_for_backend(request(method, b"/"))
    assert not is_for_backend(request(method, b"/?x=1"))


@pytest.mark.parametrize(
    ("method", "target"),
    [(b"POST", b"/"), (b"PUT", b"/"), (b"GET", b"//"), (b"GET", b"/."), (b"GET", b"/index.html")],
)
async def test_nothing_else_is_open_with_the_page(method, target):
    """
    Some engines take requests at `/`: what is not the page needs the key, and is theirs.
    """
    with pytest.raises(Unauthorised):
        Access("0.0.0.0", "key", None).check(request(method, target))

    assert is_for_backend(request(method, target))
