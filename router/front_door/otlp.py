"""
Sends spans to a collector: OTLP over HTTP, with the OpenTelemetry library (`levelhead[otel]`).

The library's thread sends a batch every 5 s, or when 512 have come together; at most 2,048 wait,
and what comes while they do is dropped, with a warning of its own, as it warns of a collector
that cannot be reached.  It reads its own environment too: OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_SCHEDULE_DELAY and others.

Imported only where it is wanted: it is no small library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    set_span_in_context,
)

from router.front_door.tracing import SPAN_NAME, Parent, Value

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_TIMEOUT_S = 2.0  # of one batch, and so of what a front door waits for as it stops
_SERVICE = "service.name"


class OtlpSink:
    """Owns the library's provider, and its thread."""

    def __init__(self, endpoint: str, instance: str) -> None:
        """endpoint: whole URL of the collector's path for traces."""
        self._provider = _provider(endpoint, instance)
        self._tracer = self._provider.get_tracer("levelhead")

    def send(
        self, parent: Parent, began_ns: int, ended_ns: int, attributes: Mapping[str, Value]
    ) -> None:
        """Into the next batch."""
        remote = SpanContext(
            parent.trace_id, parent.span_id, is_remote=True, trace_flags=TraceFlags(1)
        )
        span = self._tracer.start_span(
            SPAN_NAME,
            context=set_span_in_context(NonRecordingSpan(remote)),
            kind=SpanKind.INTERNAL,
            attributes=attributes,
            start_time=began_ns,
        )
        span.end(ended_ns)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def _provider(endpoint: str, instance: str) -> TracerProvider:
    # Of an extra, which who only looks at this module need not have.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"levelhead.instance": instance})
    if str(resource.attributes.get(_SERVICE, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({_SERVICE: "levelhead"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
