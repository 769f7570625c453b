"""
The same requests, to a real engine and to the front door before it: the same answers, but for
ids, times, and the two header lines that say which group has answered.

llama.cpp computes a prompt that is partly in its cache otherwise than a new one, so what does
not agree is sent again to both, when both find it there.
"""

import http.client
import json
import random
import re
from urllib.parse import urlsplit

from tests.peers.engines import MODEL

NUM_FAST, NUM_SLOW = 300, 60
NOT_COMPARED = {
    "date", "content-length", "x-request-id", "connection", "keep-alive", "transfer-encoding",
    "x-levelhead-dp-rank", "x-levelhead-dp-balance-id", "set-cookie",
}  # fmt: skip
_IDS = re.compile(rb"\b(chatcmpl|cmpl|resp|msg|rs|embd|score|call|tool|chatcmpl-tool)[-_][\w-]+")
_HEX = re.compile(rb'"[0-9a-f]{32}"')
_FIELDS = re.compile(
    rb'"(id|created|created_at|completed_at|item_id|request_id)":\s*("[^"]*"|[\d.]+)'
)
_TIMINGS = re.compile(rb'"timings":\s*\{[^}]*\}|"e2e_latency":\s*[\d.e-]+')
TEXTS = ("level", "\u00fc\u4e16\U0001f600", 'quo"te\\', "\x00\x1f", "\u202eabc", "x " * 40)
ODD = (
    {"x_unknown": 1e300}, {"x_big": 10**40}, {"n": 2}, {"stop": ["a", "the"]}, {"seed": 7},
    {"logprobs": 2}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}},
    {"user": "\u00fc"}, {"logit_bias": {"5": -100}}, {"max_tokens": "many"},
    {"temperature": "hot"}, {"model": "no such"}, {"stop": 5},
)  # fmt: skip
CHAT = (
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    {"tools": "none"}, {"messages": "none"}, {"messages": []}, {"logprobs": True},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "level"}]}]},
    {"messages": [{"role": "nobody", "content": "a"}]},
)  # fmt: skip
PLAIN = ({"prompt": [1, 2, 3]}, {"prompt": ["a", "b"]}, {"prompt": {}}, {"echo": True})
BROKEN = (
    b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b"{'a':1}", b'{"a":1}{"b":2}', b"NaN",
)  # fmt: skip
OTHERS = (
    ("/tokenize", {"prompt": "hello there", "content": "hello there"}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
    ("/v1/embeddings", {"input": "level"}),
    ("/rerank", {"query": "a", "documents": ["b"]}),
    ("/v1/responses", {"input": "level", "max_output_tokens": 4, "temperature": 0}),
    (
        "/v1/messages",
        {
            "messages": [{"role": "user", "content": "level"}],
            "max_tokens": 4,
            "temperature": 0,
        },
    ),
    ("/no/such", {"a": 1}),
)


def request_of(rng):
    """Path and body."""
    draw = rng.random()
    if draw < 0.15:
        return rng.choice(("/v1/chat/completions", "/v1/completions")), rng.choice(BROKEN)
    if draw < 0.3:
        path, fields = rng.choice(OTHERS)
        return path, json.dumps({"model": MODEL} | fields).encode()
    is_chat = draw < 0.65
    text = rng.choice(TEXTS)
    fields = {"model": MODEL, "max_tokens": rng.randrange(1, 5), "temperature": 0}
    fields |= {"messages": [{"role": "user", "content": text}]} if is_chat else {"prompt": text}
    for _ in range(rng.randrange(3)):
        fields |= rng.choice((*ODD, *(CHAT if is_chat else PLAIN)))
    body = json.dumps(fields, ensure_ascii=rng.random() < 0.5)
    return "/v1/chat/completions" if is_chat else "/v1/completions", body.encode()


def answer_of(url, path, body, dp_rank):
    """Status, header lines in order, and body, less what is another one each time."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    headers = {"content-type": "application/json", "x-data-parallel-rank": str(dp_rank)}
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        told = answer.read()
    except OSError as error:
        raise AssertionError(f"{url}{path} {body!r}: {error!r}") from error
    finally:
        connection.close()
    kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in NOT_COMPARED]
    for pattern in (_TIMINGS, _FIELDS, _IDS, _HEX):
        told = pattern.sub(b"-", told)
    return answer.status, answer.reason, kept, told


def test_bytes_agree_with_and_without_the_front_door(site):
    """
    Odd fields, unicode, big numbers, n above 1, tools, streams, malformed bodies, other paths.
    """
    dp_rank = len(site.places) - 1
    engine, rank = site.places[dp_rank]
    rng, statuses = random.Random(1), set()

    for _ in range(NUM_FAST if engine.is_fast else NUM_SLOW):
        path, body = request_of(rng)
        for _again in range(3):
            direct = answer_of(engine.url, path, body, rank)
            through = answer_of(site.door.url, path, body, dp_rank)
            if direct == through:
                break
        assert direct == through, (path, body)
        statuses.add(direct[0])

    assert {200, 400} <= statuses
    site.rested()
