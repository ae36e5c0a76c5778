"""A span for each call: whose child it is, what it says, and how it ends."""

from __future__ import annotations

from typing import Any

import anyio
import grpc.aio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from orlopd.plugin import errors
from tests.support.serving import METHODS, ask, raising, service, serving


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """The process's one exporter: OpenTelemetry's provider can be set once."""
    memory = InMemorySpanExporter()
    provider: Any = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    return memory


async def test_each_call_is_a_server_span_below_the_callers(exporter: InMemorySpanExporter) -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id).encode()

    methods = {"Good": ("unary_unary", unary), **raising(errors.NotFound("no"))}
    methods["Broken"] = ("unary_unary", raising(RuntimeError("boom"))["unary_unary"][1])
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serving(service("test.S", **methods)) as (channel, _):
        exporter.clear()
        seen = await ask(channel, "/test.S/Good", metadata=(("traceparent", parent),))
        assert seen == b"0af7651916cd43dd8448eb211c80319c"
        for method in ("unary_stream", "Broken"):
            with pytest.raises(grpc.aio.AioRpcError):
                await ask(channel, f"/test.S/{method}", method if method in METHODS else "unary_unary")
        with anyio.fail_after(30):
            # A span ends behind its call's answer.
            while len(exporter.get_finished_spans()) < 3:  # noqa: ASYNC110
                await anyio.sleep(0.01)
    good, missing, broken = exporter.get_finished_spans()
    assert good.name == "test.S/Good"
    assert good.kind is SpanKind.SERVER
    assert good.parent is not None
    assert trace.format_span_id(good.parent.span_id) == "b7ad6b7169203331"
    assert dict(good.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "test.S",
        "rpc.method": "Good",
        "rpc.grpc.status_code": 0,
    }
    assert good.status.status_code is StatusCode.UNSET
    assert (missing.attributes or {})["rpc.grpc.status_code"] == 5
    assert missing.status.status_code is StatusCode.UNSET
    assert (broken.attributes or {})["rpc.grpc.status_code"] == 13
    assert broken.status.status_code is StatusCode.ERROR
