import pytest

from router.errors import MethodNotAllowed
from router.front_door.message import Request
from router.front_door.routes import is_inference, readiness


def request(target, method):
    return Request(method, target, [], keep_alive=True, is_http10=False)


@pytest.mark.parametrize(
    ("target", "method", "expected"),
    [
        (b"/v1/chat/completions", b"POST", True),
        (b"/v1/chat/completions?stream=1", b"POST", True),
        (b"/v1/completions", b"POST", True),
        (b"/generate", b"POST", True),
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


@pytest.mark.parametrize(("num_ready", "status"), [(0, b"503"), (1, b"200"), (2, b"200")])
def test_one_ready_group_is_enough(num_ready, status):
    """
    200 as long as somebody can take a request.
    """
    assert readiness(num_ready, 2).startswith(b"HTTP/1.1 " + status)
