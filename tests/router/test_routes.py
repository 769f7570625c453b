import pytest

from router.errors import Forbidden, MethodNotAllowed
from router.front_door.message import Request, response
from router.front_door.routes import Answered, is_inference, readiness


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


class Client:
    """Keeps what it was told."""

    def __init__(self, *, is_closing):
        self.is_closing = is_closing
        self.written = b""
        self.kept_alive = None

    def write(self, data):
        self.written += data

    def finished(self, *, keep_alive):
        self.kept_alive = keep_alive


@pytest.mark.parametrize("is_closing", [True, False])
@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("is_refused", [True, False])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_an_answer_of_our_own_says_whether_the_connection_closes(
    is_closing, keep_alive, is_refused, method
):
    """
    Because the client wants it or because the front door stops: what the head says is done.
    """
    client = Client(is_closing=is_closing)
    asked = Request(method, b"/health", [], keep_alive=keep_alive, is_http10=False)
    if is_refused:
        exchange = Answered.refused(client, asked, None, Forbidden("no"))
    else:
        exchange = Answered(client, asked, None, response(200, b"{}"))

    exchange.start()

    stays = keep_alive and not is_closing
    head, _, body = client.written.partition(b"\r\n\r\n")
    assert client.kept_alive is stays
    assert (b"connection: close" in head.split(b"\r\n")) is not stays
    assert (body == b"") is (method == b"HEAD")
