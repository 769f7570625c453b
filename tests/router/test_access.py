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


def asked(target, authorization=None, *, api=None, admin=None, host="0.0.0.0"):
    name = b"Authorization"
    headers = [(name.lower(), name, authorization)] if authorization is not None else []
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
