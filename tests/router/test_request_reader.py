import random

import pytest

from router.errors import HeadersTooLarge
from router.front_door.request_reader import Limits, RequestReader
from tests.router.clients import CHAT, get, post

LIMITS = Limits(
    max_request_bytes=1 << 20, max_header_bytes=1 << 10, keep_alive_s=75.0, request_timeout_s=60.0
)
CHUNKED = (
    b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3;x=y\r\nabc\r\n02\r\nde\r\n0\r\nexpect: 100-continue\r\nx-late: 1\r\n\r\n"
)
OFFER = b"connection: upgrade, http2-settings\r\nhttp2-settings: x\r\nupgrade: h2c\r\n"


def read(*pieces):
    """The requests that those pieces make."""
    reader = RequestReader(LIMITS)
    for number, piece in enumerate(pieces):
        reader.feed(piece, float(number))
    return reader


def told(request):
    names = [name for _, name, _ in request.headers]
    return request.method, request.target, names, request.body, request.keep_alive


@pytest.mark.parametrize("seed", range(100))
def test_requests_cut_anywhere_are_the_same_requests(seed):
    """
    Whatever stands in one piece, what is read is what was sent.
    """
    rng = random.Random(seed)
    kinds = [get(), post(), CHUNKED, post(extra=OFFER), get(extra=OFFER), b"\r\n" + get(b"/x?y=z")]
    sent = b"".join(rng.choice(kinds) for _ in range(rng.randint(1, 8)))
    cuts = sorted(rng.sample(range(1, len(sent)), rng.randint(0, min(9, len(sent) - 1))))

    pieces = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    cut, whole = read(*pieces), read(sent)

    assert [told(request) for request in cut.complete] == [told(r) for r in whole.complete]
    assert (cut.refused, cut.is_within, cut.expects_continue) == (None, False, False)
    assert len(whole.complete) == sent.count(b" HTTP/1.1\r\n")


def test_a_request_is_as_old_as_its_last_piece():
    """
    The client's own slowness is not waiting time.
    """
    reader = read(get()[:5], get()[5:-1], get()[-1:])

    assert [request.began_s for request in reader.complete] == [2.0]


def test_many_requests_in_one_piece_are_no_large_header():
    """
    Only what one request has counts towards the limit.
    """
    reader = read(post() * 1000 + post()[:3], post()[3:])

    assert len(reader.complete) == 1001
    assert reader.refused is None


@pytest.mark.parametrize("beginning", [b"GET / HTTP/1.1\r\nname: ", b"GET /", CHUNKED[:-9]])
def test_a_header_that_does_not_end_is_refused(beginning):
    """
    The parser would keep it all.
    """
    reader = read(beginning, *[b"x" * 100] * 12)

    assert isinstance(reader.refused, HeadersTooLarge)
    assert not reader.is_within


def test_a_header_just_within_the_limit_is_taken():
    """
    In however many pieces it comes.
    """
    value = b"x" * ((1 << 10) - len(b"/namehost") - len(b"door") - 8)
    sent = b"GET / HTTP/1.1\r\nhost: door\r\nname: %s\r\n\r\n" % value

    assert len(read(*[sent[i : i + 1] for i in range(len(sent))]).complete) == 1


def test_trailers_are_not_headers():
    """
    They came after the request was announced, unchecked.
    """
    (request,) = read(CHUNKED).complete

    assert (request.header(b"x-late"), request.body) == (b"", b"abcde")


@pytest.mark.parametrize("cut", range(1, len(post(extra=OFFER)), 7))
def test_an_offer_to_upgrade_loses_no_body(cut):
    """
    Wherever it is cut.
    """
    sent = post(extra=OFFER)

    (request,) = read(sent[:cut], sent[cut:]).complete

    assert request.body == CHAT
    assert request.header(b"upgrade") == b""
