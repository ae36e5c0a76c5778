"""OpenTelemetry server spans, and the SDK when the environment asks for it.

The daemon itself needs the API alone. With the extra ``orlopd[otel]`` installed, the standard
variables (``OTEL_TRACES_EXPORTER``, ``OTEL_EXPORTER_OTLP_ENDPOINT``, ...) choose where spans go.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry import propagate, trace
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

_log = logging.getLogger("orlopd.server")

# The semantic conventions for RPC: only these are the server's fault.
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

Metadata = Sequence[tuple[str, str | bytes]]


class _MetadataGetter(Getter[Metadata]):
    def get(self, carrier: Metadata, key: str) -> list[str] | None:
        found = [value for name, value in carrier if name == key and isinstance(value, str)]
        return found or None

    def keys(self, carrier: Metadata) -> list[str]:
        return [name for name, _ in carrier]


_GETTER = _MetadataGetter()


class Tracer:
    """Makes a span for each call."""

    def __init__(self, version: str) -> None:
        self._tracer = trace.get_tracer("orlopd", version)

    @contextmanager
    def call(self, method: str, metadata: Metadata) -> Iterator[Span]:
        """The span of a call to ``/service/method``, a child of the one its headers name."""
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # spans go nowhere
            yield trace.INVALID_SPAN
            return
        service, _, name = method.strip("/").rpartition("/")
        with self._tracer.start_as_current_span(
            f"{service}/{name}",
            context=propagate.extract(metadata, getter=_GETTER),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span


def finish(span: Span, code: grpc.StatusCode, message: str = "") -> None:
    """Note how the call ended."""
    if not span.is_recording():
        return
    value: Any = code.value
    span.set_attribute("rpc.grpc.status_code", value[0])
    if code.name in _FAULTS:
        span.set_status(Status(StatusCode.ERROR, message))


def configure_from_environment() -> None:
    """Set the SDK up if the environment names somewhere for spans to go."""
    names = os.environ.get("OTEL_TRACES_EXPORTER", "")
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not names and any(os.environ.get(variable) for variable in endpoints):
        names = "otlp"
    if not names or names == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        _configure(names.split(","))
    except Exception as error:
        _log.warning("no spans are sent: %s (is orlopd[otel] installed?)", " ".join(str(error).split()))


def _configure(names: Sequence[str]) -> None:
    # Imported here: they are an extra, and take longer than the whole daemon to import.
    from importlib.metadata import entry_points

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").partition("/")[0]
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "orlopd")})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in names:
        wanted = f"otlp_proto_{protocol}" if name.strip() == "otlp" else name.strip()
        found = list(entry_points(group="opentelemetry_traces_exporter", name=wanted))
        if not found:
            raise LookupError(f'there is no exporter "{wanted}"')
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    trace.set_tracer_provider(provider)


def flush(seconds: float = 3) -> None:
    """Send what spans are left, before the process ends; blocks ``seconds`` at most."""
    provider: Any = trace.get_tracer_provider()
    shutdown = getattr(provider, "shutdown", None)
    if shutdown is not None:
        # The SDK tries for much longer to reach a collector that is not there.
        sender = threading.Thread(target=shutdown, daemon=True)
        sender.start()
        sender.join(seconds)
