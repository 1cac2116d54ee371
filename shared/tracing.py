"""Traces of OpenTelemetry, from the upload to the result: requests, attempts and their phases are spans.

The standard variables configure them: `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) turns them on.
Without it, everything here does nothing and imports nothing. A work item keeps the `traceparent` of the request or
attempt that enqueued it (W3C Trace Context), so that a trace goes on in any worker.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
SERVER, CONSUMER, INTERNAL = "SERVER", "CONSUMER", "INTERNAL"  # kinds of spans
FLUSH_SECONDS = 2.0  # for the last spans of a process that ends; the collector may be unavailable

_provider: TracerProvider | None = None


# --- configuration -----------------------------------------------------------------------------------------


def refusal(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return why traces that the environment asks for cannot be sent; None if they can, or if it asks for none."""
    if not _is_wanted(environment):
        return None
    if (exporter := _exporter(environment)) != "otlp":
        return f"OTEL_TRACES_EXPORTER={exporter} is not supported: set it to otlp or none."
    protocol = next(filter(None, map(environment.get, PROTOCOLS)), "http/protobuf")
    if protocol != "http/protobuf":
        return f"Traces cannot be sent as {protocol}: set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf."
    if not all(map(_is_installed, NEEDED)):
        return (
            "Traces are configured (OTEL_EXPORTER_OTLP_ENDPOINT), but OpenTelemetry is not installed: run "
            "pip install 'mt3-infer-service[otel]', or set OTEL_SDK_DISABLED=true."
        )
    return None


def configure_tracing(service: str) -> None:
    """Send traces from now on if the environment asks for them, under OTEL_SERVICE_NAME or this name.

    `shared.config.read_settings` has refused an environment for which that is not possible.
    """
    if not _is_wanted(os.environ):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    use_provider(provider)


def use_provider(provider: TracerProvider | None) -> None:
    """Make spans with a provider of the SDK; None: make none."""
    global _provider
    _provider = provider


def flush() -> None:
    """Send the spans that have not been sent yet, within limited time: call it as a process ends."""
    if _provider is not None:
        thread = threading.Thread(target=_provider.force_flush, name="traces", daemon=True)
        thread.start()
        thread.join(FLUSH_SECONDS)


def _is_wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or _exporter(environment) == "none":
        return False
    return any(map(environment.get, ENDPOINTS)) or bool(environment.get("OTEL_TRACES_EXPORTER"))


def _exporter(environment: Mapping[str, str]) -> str:
    return (environment.get("OTEL_TRACES_EXPORTER") or "otlp").strip().lower()


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


# --- spans -------------------------------------------------------------------------------------------------


def begin(name: str, *, parent: str | None = None, kind: str = INTERNAL, **attributes: Any) -> Span | None:
    """Begin a span that `end` must end; it is not the current one, see `use`.

    Args:
        parent: a `traceparent`; without it, the current span is the parent.
        attributes: those that are None are left out; `__` in a name stands for a dot.
    """
    if _provider is None:
        return None
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    known = {key.replace("__", "."): value for key, value in attributes.items() if value is not None}
    tracer = _provider.get_tracer("mt3_infer")
    return tracer.start_span(name, context=context, kind=SpanKind[kind], attributes=known)


def end(span: Span | None, *, error: str | None = None, **attributes: Any) -> None:
    """End a span, as failed if there is an error; nothing happens for None."""
    if span is None:
        return
    annotate(span, error=error, **attributes)
    span.end()


def annotate(span: Span | None, *, error: str | None = None, **attributes: Any) -> None:
    """Add attributes to a span, and mark it as failed if there is an error; nothing happens for None."""
    if span is None:
        return
    from opentelemetry.trace import StatusCode

    for key, value in attributes.items():
        if value is not None:
            span.set_attribute(key.replace("__", "."), value)
    if error is not None:
        span.set_status(StatusCode.ERROR, error)


def annotate_current(*, error: str | None = None, **attributes: Any) -> None:
    """Add attributes to the current span; see `annotate`."""
    if _provider is not None:
        from opentelemetry.trace import get_current_span

        annotate(get_current_span(), error=error, **attributes)


def use(span: Span | None) -> AbstractContextManager[Any]:
    """Return a context in which a span is the current one: the parent of new ones, with its id in log lines."""
    if span is None:
        return nullcontext()
    from opentelemetry.trace import use_span

    return use_span(span)


@contextmanager
def span(
    name: str, *, parent: str | None = None, kind: str = INTERNAL, **attributes: Any
) -> Iterator[Span | None]:
    """Make a span of what happens in a context; an exception that leaves it is recorded as its error."""
    made = begin(name, parent=parent, kind=kind, **attributes)
    try:
        with use(made):
            yield made
    finally:
        end(made)


def traceparent() -> str | None:
    """Return the current span as W3C Trace Context writes it; None if there is none."""
    if _provider is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def ids(of: Span | None = None) -> dict[str, str]:
    """Return `trace_id` and `span_id` of a span, or of the current one, for log lines; empty without one."""
    if _provider is None:
        return {}
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    context = (of or get_current_span()).get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}


def add_ids(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the ids of the current span to a log line; a processor of structlog."""
    for name, value in ids().items():
        fields.setdefault(name, value)
    return fields
