"""Spans of dispatches: of whom there are any, and what they say."""

from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from router.errors import ConfigError
from router.front_door.assembly import make_sink
from router.front_door.tracing import Parent, sampled_parent
from router.options import parse_serve
from router.otlp_flag import check_otlp
from tests.router.clients import post
from tests.router.failures import refuse
from tests.router.site import Site

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = Parent(int(TRACE, 16), int(SPAN, 16))
TRACED = f"traceparent: 00-{TRACE}-{SPAN}-01\r\n".encode()
NOT_SAMPLED = f"traceparent: 00-{TRACE}-{SPAN}-00\r\n".encode()


class Collected:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.spans = []

    def send(self, parent, began_ns, ended_ns, attributes):
        self.spans.append((parent, began_ns, ended_ns, attributes))

    def close(self):
        """It has all it gets."""


@pytest.mark.parametrize(
    ("value", "parent"),
    [
        (f"00-{TRACE}-{SPAN}-01", PARENT),
        (f"00-{TRACE}-{SPAN}-03", PARENT),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-one-day", PARENT),
        (f"00-{TRACE}-{SPAN}-00", None),
        (f"00-{TRACE}-{SPAN}-02", None),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        ("", None),
    ],
)
def test_only_a_span_that_is_recorded_has_children(value, parent):
    """
    As W3C Trace Context has it: a version that is not known may have more, ours may not.
    """
    assert sampled_parent(value.encode()) == parent


@pytest.mark.anyio
async def test_each_attempt_of_a_traced_request_is_a_span_that_says_why():
    """
    Children of the client's; the group gets the client's header as it came.
    """
    collected = Collected()
    async with Site.opened(2, make_sink=lambda instance: collected) as site:
        site.groups[0].respond = refuse
        site.client.send(post(extra=TRACED))
        received = await site.groups[1].next_request()
        received.answer(b"{}")
        answer = await site.client.response()

        first, second = collected.spans

        assert received.header(b"traceparent") == [f"00-{TRACE}-{SPAN}-01".encode()]
        assert (first[0], second[0]) == (PARENT, PARENT)
        assert first[1] <= first[2]
        assert [span[3]["levelhead.attempt"] for span in collected.spans] == [1, 2]
        assert [span[3]["levelhead.dp_rank"] for span in collected.spans] == [0, 1]
        assert first[3]["levelhead.reason"] == (
            "least holding + in-flight: 0 v 1,000 tokens (DP group 1)"
        )
        assert first[3]["levelhead.candidates.dp_rank"] == [0, 1]
        assert first[3]["levelhead.candidates.cost"] == [0.0, 1000.0]
        told = second[3]["levelhead.dp_balance_id"]
        assert told == answer.header(b"x-levelhead-dp-balance-id").decode()


@pytest.mark.anyio
@pytest.mark.parametrize("extra", [b"", NOT_SAMPLED])
async def test_who_traces_nothing_has_no_span(extra):
    """
    Nothing is sent, and nothing is put into words.
    """
    collected = Collected()
    async with Site.opened(1, make_sink=lambda instance: collected) as site:
        site.client.send(post(extra=extra))
        (await site.groups[0].next_request()).answer(b"{}")
        await site.client.response()

        assert collected.spans == []


# With the library


@contextmanager
def collector():
    """A collector of OTLP over HTTP: the bodies that it was sent, and its URL."""
    bodies = []

    class Post(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            bodies.append((self.path, self.headers["content-type"], body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Not to stderr."""

    with HTTPServer(("127.0.0.1", 0), Post) as server:
        serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield bodies, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.anyio
async def test_a_collector_gets_the_spans_before_the_front_door_has_stopped():
    """
    In OpenTelemetry's own format, as its own library reads it.
    """
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    with collector() as (bodies, url):
        async with Site.opened(
            2, make_sink=make_sink, otlp_traces_endpoint=f"{url}/v1/traces"
        ) as site:
            site.client.send(post(extra=TRACED))
            (await site.groups[0].next_request()).answer(b"{}")
            await site.client.response()
            site.client.send(post(extra=NOT_SAMPLED))
            (await site.groups[0].next_request()).answer(b"{}")
            await site.client.response()

    ((path, kind, body),) = bodies
    told = ExportTraceServiceRequest.FromString(body).resource_spans[0]
    (span,) = told.scope_spans[0].spans
    attributes = {each.key: each.value for each in span.attributes}
    assert (path, kind) == ("/v1/traces", "application/x-protobuf")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert span.name == "levelhead.dispatch"
    assert span.start_time_unix_nano <= span.end_time_unix_nano
    assert attributes["levelhead.dp_rank"].int_value == 0
    assert attributes["levelhead.reason"].string_value.startswith("least holding + in-flight: ")
    ranks = attributes["levelhead.candidates.dp_rank"].array_value.values
    assert [each.int_value for each in ranks] == [0, 1]
    named = {each.key: each.value.string_value for each in told.resource.attributes}
    assert named["service.name"] == "levelhead"


@pytest.mark.parametrize("url", ["grpc://host:4317", "host:4317", "4317", "http://", "http://h:x"])
def test_an_endpoint_that_is_no_url_of_http_is_refused(url):
    """
    Before anything starts, with what is allowed.
    """
    with pytest.raises(ConfigError, match=r"--otlp-traces-endpoint.*must be http://HOST:PORT"):
        parse_serve(["--otlp-traces-endpoint", url], {})


def test_without_the_library_an_endpoint_is_refused_before_anything_starts():
    """
    It is said how to install it.
    """
    with pytest.raises(ConfigError, match=r"pip install 'levelhead\[otel\]'"):
        check_otlp({"otlp_traces_endpoint": "http://otel:4318"}, find=lambda name: None)


def test_an_endpoint_without_a_path_gets_the_usual_one():
    """
    Another one stays as it is.
    """
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

    def endpoint(url):
        return parse_serve(["--otlp-traces-endpoint", url], {}).otlp_traces_endpoint

    assert endpoint("http://otel:4318") == "http://otel:4318/v1/traces"
    assert endpoint("https://otel/api/v1/otlp") == "https://otel/api/v1/otlp"
