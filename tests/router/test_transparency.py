"""
The same requests, to an engine and to the front door before it: what the engine gets and
what the client gets agree byte by byte, but for what HTTP requires between two hops and the
two header lines that say which group has answered.
"""

import asyncio
import random
import zlib

import orjson
import pytest

from tests.router.backends import Backends
from tests.router.clients import chunk, get
from tests.router.fakes import soon

pytestmark = pytest.mark.anyio
NUM_REQUESTS = 400
HOP = {b"connection", b"keep-alive", b"content-length", b"transfer-encoding", b"expect", b"te"}
OURS = {b"x-levelhead-dp-rank", b"x-levelhead-dp-balance-id"}

PATHS = (
    b"/v1/chat/completions", b"/v1/completions", b"/v1/responses", b"/v1/messages",
    b"/v1/embeddings", b"/generate", b"/rerank", b"/tokenize", b"/v1/audio/transcriptions",
    b"/completion?x=%20y&&=", b"/v1//chat/completions", b"/new/%C3%BC",
)  # fmt: skip
TEXTS = (
    "level",
    "\u00fc\u4e16\U0001f600",
    "",
    'quo"te\\',
    "\x00\x1f",
    "x" * 5000,
    "\u202eabc",
    "\\ud800",
)
NUMBERS = ("1.0", "1e400", "-0", "12345678901234567890123", "0.1000000000000000055", "1E+2", "true")
RAW_BODIES = (
    b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b"{'a':1}", b'{"a":1}{"b":2}', b"NaN",
    b'{"messages":"none"}', b'{"messages":[1,null,{"content":5}]}', b'{"prompt":{"a":[]}}',
    b'{"n":"many","prompt":["a",["b"]]}', b'{"prompt":[[1,2],[3]],"n":2}', b'{"dup":1,"dup":2}',
    b"--b\r\ncontent-disposition: form-data; name=f\r\n\r\n\x00\x01\r\n--b--\r\n", b"[" * 2000,
)  # fmt: skip
HEADERS = (
    b"X-Trace: 1", b"x-trace:2", b"AUTHORIZATION: Bearer \xc3\xbc", b"Cookie: a=1; b=\"2\"",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"X-Empty:",
    b"Accept: text/event-stream", b"Accept-Encoding: gzip, br", b"X-Session-ID: s",
    b"Content-Type: application/json; charset=utf-8", b"User-Agent: a/1 (b; c)", b"Range: bytes=0-",
)  # fmt: skip
EVENTS = (
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b": ping\n\n", b"\n", b"retry: 5\n\n",
    b'event: response.created\ndata: {"x":1}\n\n', b'data: {"a":\ndata: 1}\n\n',
    b"data: [DONE]\n\n",
    b'data: {"usage":{"prompt_tokens":7,"completion_tokens":3}}\r\n\r\n', b'data:{"a":1}\n\n',
    "data: {\"\u00fc\":\"\U0001f600\"}\n\n".encode(), b'data: {"cut', b'":1}\n\n',
)  # fmt: skip
STATUSES = (
    b"200 OK", b"200 Fine By Me", b"201 Created", b"400 Bad Request", b"401 Unauthorized",
    b"404 Not Found", b"421 Misdirected Request", b"422 Unprocessable Entity",
    b"429 Too Many Requests", b"500 Internal Server Error", b"503 Service Unavailable", b"529 Over",
)  # fmt: skip
ANSWER_LINES = (
    b"Server: uvicorn", b"date: today", b"X-Request-Id: 7", b"Set-Cookie: a=1", b"set-cookie: b=2",
    b"Retry-After: 3", b"content-type: application/json", b"Content-Type: text/html",
    b"x-odd:  a  ",
)  # fmt: skip
TAILS = (b"0\r\n\r\n", b"0\r\nx-trailer: 1\r\n\r\n", b"0;ext=1\r\n\r\n")


def request_of(rng):
    """One request, as bytes; `connection: close`, so that every answer has an end."""
    lines = [b"host: engine:8000", *rng.sample(HEADERS, rng.randrange(6))]
    body = body_of(rng)
    if rng.random() < 0.2 and body:
        lines.append(b"Transfer-Encoding: chunked")
        cut = rng.randrange(len(body) + 1)
        parts = [chunk(part) for part in (body[:cut], body[cut:]) if part]
        body = b"".join(parts) + b"0\r\n\r\n"
    else:
        lines.append(b"Content-Length: %d" % len(body))
    rng.shuffle(lines)
    lines.insert(rng.randrange(len(lines) + 1), b"Connection: close")
    return b"POST %s HTTP/1.1\r\n%s\r\n\r\n%s" % (rng.choice(PATHS), b"\r\n".join(lines), body)


def body_of(rng):
    if rng.random() < 0.3:
        return rng.choice(RAW_BODIES)
    text = orjson.dumps(rng.choice(TEXTS[:-1])).decode()
    number = rng.choice(NUMBERS)
    fields = [
        f'"messages": [{{"role":"user","content":{text}}}]', f'"prompt":{text}',
        f'"input": [{text}]',
        f'"seed":{number}', '"stream" : true', f'"n":{rng.randrange(4)}',
        f'"x_new":{{"y":{number}}}',
        f'"tools":[{{"type":"function","function":{{"name":{text}}}}}]',
        '"logit_bias":{"50256":-100}',
        f'"messages":[{{"role":"user","content":[{{"type":"text","text":{text}}}]}}]',
    ]  # fmt: skip
    chosen = rng.sample(fields, rng.randrange(1, 6))
    return (
        rng.choice(("{", " {\n", "{\t")) + ",".join(chosen) + rng.choice(("}", "}\r\n"))
    ).encode()


def answer_of(rng):
    """One answer, as pieces, and whether it ends with its connection."""
    lines = rng.sample(ANSWER_LINES, rng.randrange(5))
    form = rng.choice(("length", "chunked", "stream", "stream", "eof", "none"))
    if form == "none":
        return [_head(b"204 No Content", lines)], False
    if form == "length":
        body = rng.choice(RAW_BODIES) * rng.choice((1, 50))
        return [
            _head(rng.choice(STATUSES), [*lines, b"Content-Length: %d" % len(body)]),
            body,
        ], False
    if form == "eof":
        return [_head(rng.choice(STATUSES), lines), rng.choice(RAW_BODIES)], True
    coded = [*lines, b"Transfer-Encoding: chunked"]
    status = rng.choice(STATUSES)
    if form == "stream":
        coded = [b"Content-Type: text/event-stream; charset=utf-8", b"transfer-encoding: chunked"]
        status = b"200 OK"
    pieces = [chunk(rng.choice(EVENTS)) for _ in range(rng.randrange(1, 9))]
    return [_head(status, coded), *pieces, rng.choice(TAILS)], False


def _head(status, lines):
    return b"HTTP/1.1 %s\r\n%s\r\n" % (status, b"".join(line + b"\r\n" for line in lines))


def respond(received):
    """Answer by what was asked: the same, whoever passes it on."""
    seed = zlib.crc32(received.target + received.body + b"".join(received.header(b"x-trace")))
    pieces, ends_with_connection = answer_of(random.Random(seed))
    for piece in pieces:
        received.write(piece)
    if ends_with_connection or received.header(b"connection") == [b"close"]:
        received.close()


async def answer_to(port, request):
    """Everything that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await soon(reader.read())
    writer.close()
    return answer


def asked(received):
    """What the engine got, less what is between two hops."""
    kept = [(name, value) for name, value in received.headers if name.lower() not in HOP]
    return received.method, received.target, kept, received.body


def told(answer):
    """What the client got, less what is between two hops and what is ours."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    dropped = OURS | {b"connection", b"keep-alive"}
    return first, [li for li in lines if li.partition(b":")[0].lower() not in dropped], body


def of_method(answer, method):
    """An answer to that method, of what GET would get."""
    first, lines, body = answer
    return first, lines, b"" if method == b"HEAD" else body


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_heads_agree_with_and_without_the_front_door(seed):
    """
    What HEAD gets through it is the head of what GET gets of the engine, and not a byte more.
    """
    rng = random.Random(seed)
    async with Backends.opened(None, respond=respond) as site:
        for number in range(NUM_REQUESTS // 8):
            rest = b" /v1/models?%d HTTP/1.1\r\nhost: e\r\nconnection: close\r\n\r\n" % number
            method = rng.choice((b"HEAD", b"GET"))
            direct = told(await answer_to(site.servers[0].port, b"GET" + rest))
            through = told(await answer_to(site.door.port, method + rest))
            assert of_method(direct, method) == through, rest


@pytest.mark.parametrize("form", ["length", "chunked"])
async def test_nothing_of_a_body_comes_before_the_answer_after_a_head(form):
    """
    On the same connection, though the engine writes the body after the head.
    """
    async with Backends.opened(None) as site:
        site.client.send(b"HEAD /version HTTP/1.1\r\nhost: door\r\n\r\n")
        received = await site.servers[0].next_request()
        coding = b"content-length: 5" if form == "length" else b"transfer-encoding: chunked"
        received.write(_head(b"200 OK", [coding]))
        assert (await site.client.head()).status == 200
        received.write(b"HELLO" if form == "length" else chunk(b"HELLO") + TAILS[0])

        site.client.send(get(b"/version"))
        (await site.servers[0].next_request()).answer(b"second")

        assert await site.client.exactly(8) == b"HTTP/1.1"
        assert (await site.client.response()).body == b"second"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_bytes_agree_with_and_without_the_front_door(seed):
    """
    Odd fields and numbers, several prompts, tools, malformed bodies, unknown paths; streams with
    comments and cut events, errors, answers with a length, in chunks, or up to the end.
    """
    rng = random.Random(seed)
    requests = [request_of(rng) for _ in range(NUM_REQUESTS // 4)]
    async with Backends.opened(None, respond=respond) as site:
        engine = site.servers[0]
        direct, through = [], []
        for request in requests:
            direct.append(told(await answer_to(engine.port, request)))
            through.append(told(await answer_to(site.door.port, request)))
        got = [asked(received) for received in engine.received]

        assert len(got) == 2 * len(requests)
        for number, request in enumerate(requests):
            assert got[2 * number] == got[2 * number + 1], request
            assert direct[number] == through[number], request
        await site.door.all_released()
        assert site.flying() == (0, 0)
