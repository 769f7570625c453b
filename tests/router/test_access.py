"""Who may ask for what, by path, keys and address."""

import pytest

from router.errors import Forbidden, Unauthorised
from router.front_door.access import Access
from router.front_door.message import Request

ADMIN_PATHS = (
    b"/admin/groups",
    b"/admin/groups/0/drain",
    b"/admin/groups?x=/health",
    b"/admin",
    b"/%61dmin/groups",
    b"/%61%64%6D%69%6e/groups/0/drain",
    b"/admin%2fgroups",
)


LOCAL = ((b"Host", b"127.0.0.1:8000"),)


def asked(target, authorization=None, *, api=None, admin=None, host="0.0.0.0", sent=LOCAL):
    given = [(b"Authorization", authorization)] if authorization is not None else []
    headers = [(name.lower(), name, value) for name, value in (*given, *sent)]
    request = Request(b"POST", target, headers, keep_alive=True, is_http10=False)
    Access(host, api, admin).check(request)


@pytest.mark.parametrize("path", [b"/health", b"/ready", b"/metrics"])
def test_probes_and_scrapes_need_no_key(path):
    """
    They come from machines that have none.
    """
    asked(path, api="key", admin="other")


@pytest.mark.parametrize("given", [b"Bearer key", b"bearer key", b"BEARER key"])
def test_the_key_is_accepted(given):
    """
    As a bearer token.
    """
    asked(b"/v1/models", given, api="key")
    asked(b"/admin/groups", given, admin="key")


@pytest.mark.parametrize(
    "given", [None, b"", b"key", b"Bearer", b"Bearer  key", b"Bearer key ", b"Bearer keys", b"\xff"]
)
@pytest.mark.parametrize(
    ("path", "keys"), [(b"/v1/models", {"api": "key"}), (b"/admin/groups", {"admin": "key"})]
)
def test_anything_but_the_key_is_refused(given, path, keys):
    """
    Nearly is not enough.
    """
    with pytest.raises(Unauthorised):
        asked(path, given, **keys)


def test_without_a_key_to_check_everybody_may_ask():
    """
    No --api-key, no check; the admin key is for /admin alone.
    """
    asked(b"/v1/models")
    asked(b"/v1/models", admin="admin")


@pytest.mark.parametrize("path", ADMIN_PATHS)
@pytest.mark.parametrize(
    ("keys", "opens", "does_not"),
    [
        ({"admin": "a"}, b"Bearer a", b"Bearer k"),
        ({"admin": "a", "api": "k"}, b"Bearer a", b"Bearer k"),
        ({"api": "k"}, b"Bearer k", b"Bearer a"),
    ],
)
def test_admin_wants_the_admin_key_and_else_the_api_key(path, keys, opens, does_not):
    """
    However the path is spelt that the control plane will decode.
    """
    asked(path, opens, **keys)
    for given in (does_not, None):
        with pytest.raises(Unauthorised, match="admin"):
            asked(path, given, **keys)


@pytest.mark.parametrize("path", ADMIN_PATHS)
@pytest.mark.parametrize(
    ("host", "is_answered"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_without_any_key_admin_is_answered_on_a_loopback_address_only(path, host, is_answered):
    """
    403 names the flag that would open it.
    """
    if is_answered:
        asked(path, host=host)
        return
    with pytest.raises(Forbidden, match="--admin-api-key"):
        asked(path, b"Bearer guess", host=host)


@pytest.mark.parametrize(
    "named",
    [
        b"localhost", b"LocalHost:8000", b"localhost:", b"127.0.0.1", b"127.0.0.1:8000",
        b"127.1.2.3:1", b"[::1]", b"[::1]:8000",
    ],
)  # fmt: skip
def test_without_any_key_admin_is_answered_to_who_speaks_to_a_loopback_name(named):
    """
    Any of them, with any port.
    """
    asked(b"/admin/groups", host="127.0.0.1", sent=[(b"Host", named)])


NOT_LOCAL = {
    "a web page": [*LOCAL, (b"Origin", b"https://example.org")],
    "a page without an address": [*LOCAL, (b"origin", b"null")],
    "a page of a loopback address": [*LOCAL, (b"ORIGIN", b"http://127.0.0.1:8000")],
    "a proxy": [*LOCAL, (b"X-Forwarded-For", b"127.0.0.1")],
    "a newer proxy": [*LOCAL, (b"Forwarded", b"for=127.0.0.1")],
    "no host": [],
    "an empty host": [(b"Host", b"")],
    "a name that was made to lead here": [(b"Host", b"localhost.example.org:8000")],
    "a name with an address in it": [(b"Host", b"127.0.0.1.example.org")],
    "another address": [(b"Host", b"10.0.0.1")],
    "any address": [(b"Host", b"0.0.0.0:8000")],
    "another IPv6 address": [(b"Host", b"[2001:db8::1]:8000")],
    "a host and a user": [(b"Host", b"localhost:8000@example.org")],
    "two hosts": [*LOCAL, (b"Host", b"example.org")],
    "odd bytes": [(b"Host", b"\xff\xfe")],
}


@pytest.mark.parametrize("path", ADMIN_PATHS)
@pytest.mark.parametrize("kind", NOT_LOCAL)
def test_without_any_key_admin_is_closed_to_web_pages_and_proxies(kind, path):
    """
    A browser on the operator's machine reaches a loopback address too, for any page.
    """
    with pytest.raises(Forbidden, match="--admin-api-key"):
        asked(path, host="127.0.0.1", sent=NOT_LOCAL[kind])


@pytest.mark.parametrize("kind", NOT_LOCAL)
def test_a_key_opens_admin_to_whoever_has_it(kind):
    """
    Wherever the request comes from: a page has no key.
    """
    asked(b"/admin/groups", b"Bearer a", admin="a", host="127.0.0.1", sent=NOT_LOCAL[kind])


@pytest.mark.parametrize("kind", NOT_LOCAL)
def test_only_admin_asks_where_a_request_comes_from(kind):
    """
    Chats in a browser, and proxies, are what inference is for.
    """
    asked(b"/v1/chat/completions", host="127.0.0.1", sent=NOT_LOCAL[kind])
