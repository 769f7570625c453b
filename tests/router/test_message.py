import pytest

from router.errors import BadRequest, GroupLost, NoGroup, RequestError
from router.front_door.exchange import refusal
from router.front_door.message import Request, closing, head_of, passed_head, response


def request(*headers, body=b"", target=b"/x?y"):
    triples = [(name.lower(), name, value) for name, value in headers]
    return Request(b"POST", target, triples, keep_alive=True, is_http10=False, body=body)


def test_a_request_is_forwarded_with_its_headers_in_order():
    """
    Spelling and repetition are kept, the length is written anew.
    """
    asked = request((b"B", b"1"), (b"a", b"2"), (b"B", b"3"), body=b"text")

    assert asked.forwarded(b"POST", b"ours: 4\r\n") == (
        b"POST /x?y HTTP/1.1\r\nours: 4\r\nB: 1\r\na: 2\r\nB: 3\r\ncontent-length: 4\r\n\r\ntext"
    )


@pytest.mark.parametrize(
    "name",
    [b"Connection", b"Keep-Alive", b"Transfer-Encoding", b"TE", b"Trailer", b"Upgrade", b"Expect",
     b"Content-Length", b"Proxy-Authorization", b"Proxy-Connection", b"X-Levelhead-Anything"],
)  # fmt: skip
def test_what_is_not_for_the_next_hop_is_dropped(name):
    """
    Hop-by-hop headers, framing, and what only a front door may say.
    """
    sent = request((name, b"1"), (b"x-kept", b"2")).forwarded(b"POST", b"")

    assert sent == b"POST /x?y HTTP/1.1\r\nx-kept: 2\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize("order", [1, -1])
def test_what_connection_names_is_dropped_wherever_it_stands(order):
    """
    Before or after the header that names it.
    """
    headers = [(b"Connection", b"close, X-A"), (b"x-a", b"1"), (b"x-b", b"2")][::order]

    sent = request(*headers).forwarded(b"POST", b"")

    assert b"x-a" not in sent
    assert b"x-b: 2" in sent


def test_the_path_is_the_target_without_its_query():
    """
    Routes look at the path alone.
    """
    assert request(target=b"/a/b?c?d").path == b"/a/b"


def test_the_first_header_of_a_name_counts():
    """
    Found whatever its spelling; empty if there is none.
    """
    asked = request((b"Name", b"1"), (b"NAME", b"2"))

    assert (asked.header(b"name"), asked.header(b"other")) == (b"1", b"")


HEAD = b"HTTP/1.1 200 OK\r\nDate: now\r\nConnection: close\r\nx: connection: y\r\n\r\n"


def test_an_answers_head_loses_what_was_between_group_and_door():
    """
    And gets ours at its end.
    """
    passed = passed_head(HEAD, b"ours: 1\r\n")

    assert passed == b"HTTP/1.1 200 OK\r\nDate: now\r\nx: connection: y\r\nours: 1\r\n\r\n"


@pytest.mark.parametrize(
    "line",
    [b"Connection: x", b"KEEP-ALIVE: timeout=5", b"Proxy-Connection: x", b"te: x", b"Upgrade: h2c",
     b"X-Levelhead-DP-Rank: 7", b"x-levelhead-anything: x"],
)  # fmt: skip
def test_an_answer_loses_what_is_of_this_hop_or_for_a_front_door_to_say(line):
    """
    Each of them, alone in its head.
    """
    head = b"HTTP/1.1 200 OK\r\na: 1\r\n%s\r\nb: 2\r\n\r\n" % line

    passed = passed_head(head, b"x-levelhead-dp-rank: 1\r\n")

    assert passed == b"HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\nx-levelhead-dp-rank: 1\r\n\r\n"


@pytest.mark.parametrize("order", [1, -1])
def test_an_answer_loses_what_its_connection_header_names_but_not_its_framing(order):
    """
    Wherever it stands; what tells how long the body is goes with the body.
    """
    kept = [b"Transfer-Encoding: chunked", b"Trailer: x", b"Proxy-Authenticate: Basic"]
    lines = [b"Connection: X-A,transfer-encoding , trailer", b"x-a: 1", *kept][::order]

    passed = passed_head(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % b"\r\n".join(lines), b"")

    assert passed == b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % b"\r\n".join(kept[::order])


def test_a_head_whose_body_loses_its_chunks_tells_of_none():
    """
    Nor of what stands behind them.
    """
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nTrailer: x\r\na: 1\r\n\r\n"

    assert passed_head(head, b"", without_coding=True) == b"HTTP/1.1 200 OK\r\na: 1\r\n\r\n"


def test_a_head_with_nothing_to_drop_is_passed_byte_by_byte():
    """
    Odd spacing and odd names are the group's.
    """
    head = b"HTTP/1.1 200 \r\nTransfer-encoding:  chunked\r\n: \r\n\r\n"

    assert passed_head(head, b"") == head
    assert passed_head(head, b"", without_coding=True) == b"HTTP/1.1 200 \r\n: \r\n\r\n"


def test_a_response_has_the_length_of_its_body():
    """
    And head_of it has none of it.
    """
    whole = response(413, b"text", b"x: 1\r\n")

    assert whole == (
        b"HTTP/1.1 413 Request Entity Too Large\r\ncontent-type: application/json\r\n"
        b"content-length: 4\r\nx: 1\r\n\r\ntext"
    )
    assert head_of(whole) + b"text" == whole


@pytest.mark.parametrize("error", [NoGroup("full"), GroupLost("gone"), BadRequest("bad", "n")])
def test_an_error_is_told_in_openais_shape(error):
    """
    Type, code and parameter in the body; Retry-After where trying again may help.
    """
    told = refusal(error)

    assert told.startswith(b"HTTP/1.1 %d " % error.status)
    assert told.endswith(b"\r\n\r\n" + error.body())
    assert (b"retry-after: " in told) is (error.retry_after_s is not None)


def test_a_response_can_say_that_the_connection_closes():
    """
    In its head, and nothing else of it changes; the body may hold an empty line.
    """
    whole = response(200, b"a\r\n\r\nb", b"x: 1\r\n")

    assert closing(whole) == whole.replace(b"x: 1\r\n", b"x: 1\r\nconnection: close\r\n")


def test_every_error_that_a_client_may_see_has_a_status_and_a_type():
    """
    The table of errors is complete.
    """
    for error in RequestError.__subclasses__():
        assert 400 <= error.status < 600
        assert error.error_type
