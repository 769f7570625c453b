import pytest

from router.errors import MethodNotAllowed, Unauthorised
from router.front_door.message import Request
from router.front_door.routes import check_key, is_inference, readiness


def request(target=b"/v1/models", method=b"POST", authorization=None):
    name = b"Authorization"
    headers = [(name.lower(), name, authorization)] if authorization is not None else []
    return Request(method, target, headers, keep_alive=True, is_http10=False)


@pytest.mark.parametrize(
    ("target", "method", "expected"),
    [
        (b"/v1/chat/completions", b"POST", True),
        (b"/v1/chat/completions?stream=1", b"POST", True),
        (b"/v1/completions", b"POST", True),
        (b"/v1/completions/", b"POST", False),
        (b"/V1/completions", b"POST", False),
        (b"/tokenize", b"POST", False),
    ],
)
def test_inference_requests_are_told_by_method_and_path(target, method, expected):
    """
    Everything else is the control plane's.
    """
    assert is_inference(request(target, method)) is expected


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"OPTIONS"])
def test_an_inference_path_takes_post_alone(method):
    """
    405 names the method that it takes.
    """
    with pytest.raises(
        MethodNotAllowed, match=f"/v1/completions takes POST, not {method.decode()}"
    ):
        is_inference(request(b"/v1/completions", method))


@pytest.mark.parametrize("path", [b"/health", b"/ready", b"/metrics"])
def test_probes_and_scrapes_need_no_key(path):
    """
    They come from machines that have none.
    """
    check_key(request(path), b"key")


@pytest.mark.parametrize("given", [b"Bearer key", b"bearer key", b"BEARER key"])
def test_the_key_is_accepted(given):
    """
    As a bearer token.
    """
    check_key(request(authorization=given), b"key")


@pytest.mark.parametrize(
    "given", [None, b"", b"key", b"Bearer", b"Bearer  key", b"Bearer key ", b"Bearer keys", b"\xff"]
)
def test_anything_but_the_key_is_refused(given):
    """
    Nearly is not enough.
    """
    with pytest.raises(Unauthorised):
        check_key(request(authorization=given), b"key")


def test_without_a_key_to_check_everybody_may_ask():
    """
    No --api-key, no check.
    """
    check_key(request(), None)


@pytest.mark.parametrize(("num_ready", "status"), [(0, b"503"), (1, b"200"), (2, b"200")])
def test_one_ready_group_is_enough(num_ready, status):
    """
    200 as long as somebody can take a request.
    """
    assert readiness(num_ready, 2).startswith(b"HTTP/1.1 " + status)
