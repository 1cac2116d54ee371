"""Traces: one from the request over attempts and their phases to the webhook; nothing without OpenTelemetry."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import deliveries, tracing, work
from shared.config import Settings, read_settings
from shared.db import Sessions
from shared.kinds import SHARD
from shared.logs import configure_logs, get_logger
from shared.queue import InMemoryQueue
from shared.storage import make_storage
from tests.fakes import FakeEngine
from tests.unit.web.test_bridge import ask, scope
from tests.web_server import status, web_server
from tests.work import add_job, expire_lease, item, items, must_claim, split
from web import create_app
from web.bridge import AsgiApp
from worker.context import Services
from worker.runner import Outcome, Runner

SECRET = "whsec_" + "c2VjcmV0" * 6
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PHASES = ["decoding_audio", "fetching_checkpoint", "loading_model", "transcribing", "writing_results"]


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """The spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use_provider(provider)
    yield exporter
    tracing.use_provider(None)


@pytest.fixture
def services(settings: Settings, sessions: Sessions) -> Services:
    changes = {"webhook_secret": SECRET, "allowed_networks": frozenset({"127.0.0.0/8"})}
    settings = Settings(**(settings.model_dump() | changes))
    return Services(
        settings=settings,
        sessions=sessions,
        storage=make_storage(settings),
        engine=FakeEngine().as_engine(),
        queue=InMemoryQueue(),
        worker="host:1",
        stopping=threading.Event(),
    )


def upload(services: Services, webhook_url: str, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    """Submit a recording to the web application."""
    app = AsgiApp(create_app(services.settings, sessions=services.sessions, queue=services.queue), patience=5)
    body = (
        f'--b\r\nContent-Disposition: form-data; name="webhook_url"\r\n\r\n{webhook_url}\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nsound\r\n--b--\r\n'
    ).encode()
    known = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=b")]
    known.append((b"content-length", str(len(body)).encode()))
    code, _, answer = ask(app, scope("POST", "/v1/transcriptions", [*known, *headers]), body)
    app.close()
    assert code == 202, answer
    job: dict[str, Any] = json.loads(answer)
    return job


def run_next(services: Services) -> Outcome | None:
    return Runner(services).run_next()


def deliver(services: Services) -> Outcome:
    found = deliveries.claim_next(services.sessions, worker="w", lease_seconds=60, max_attempts=3, except_for=())
    assert found is not None
    return Runner(services).run(found)


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def id_of(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def test_one_trace_from_the_upload_to_the_webhook(services: Services, spans: InMemorySpanExporter) -> None:
    with web_server() as site:
        site.routes["/hook"] = status(204)
        job = upload(services, site.url + "/hook", (b"traceparent", f"00-{TRACE}-{CALLER}-01".encode()))
        assert run_next(services) is Outcome.SUCCEEDED
        assert deliver(services) is Outcome.SUCCEEDED
        (received,) = site.requests
    found = by_name(spans)
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {TRACE}
    request, attempt = found["POST /v1/transcriptions"], found["attempt transcribe"]
    assert parent_of(request) == CALLER
    assert parent_of(found["store recording"]) == parent_of(attempt) == id_of(request)
    assert [span.name for span in spans.get_finished_spans() if span.name in PHASES] == PHASES
    assert {parent_of(found[phase]) for phase in PHASES} == {id_of(attempt)}
    assert parent_of(found["attempt webhook"]) == id_of(attempt)
    assert received.headers["traceparent"] == f"00-{TRACE}-{id_of(found['attempt webhook'])}-01"
    assert request.attributes is not None
    assert attempt.attributes is not None
    assert request.attributes["http.response.status_code"] == 202
    assert (attempt.attributes["mt3.job_id"], attempt.attributes["mt3.outcome"]) == (job["id"], "succeeded")
    assert all(span.status.is_ok or span.status.is_unset for span in found.values())


def test_attempt_that_fails_is_an_error_with_its_code(services: Services, spans: InMemorySpanExporter) -> None:
    def refuse() -> None:
        raise RuntimeError("broken")

    upload(services, "http://127.0.0.1:9/hook")
    broken = Services(**{**vars(services), "engine": FakeEngine(on_load=refuse).as_engine()})
    assert run_next(broken) is Outcome.FAILED
    found = by_name(spans)
    assert found["attempt transcribe"].status.description == "internal_error"
    assert found["loading_model"].status.description == "RuntimeError"
    assert not found["decoding_audio"].status.description


def test_shards_belong_to_the_attempt_that_split_the_recording(
    services: Services, spans: InMemorySpanExporter
) -> None:
    job_id = add_job(services.sessions)
    with tracing.span("splitting") as made:
        assert split(services.sessions, must_claim(services.sessions, job_id))
    assert made is not None
    expected = f"00-{made.get_span_context().trace_id:032x}-{made.get_span_context().span_id:016x}"
    shards = items(services.sessions, job_id, SHARD)
    assert {(shard.traceparent or "").rpartition("-")[0] for shard in shards} == {expected}


def test_webhook_of_a_job_that_the_scheduler_fails_stays_in_its_trace(
    services: Services, spans: InMemorySpanExporter
) -> None:
    job = upload(services, "http://127.0.0.1:9/hook")
    job_id = UUID(job["id"])
    expire_lease(services.sessions, must_claim(services.sessions, job_id, max_attempts=1))
    work.rescue(services.sessions, max_attempts=1, stall_seconds=900)
    first = item(services.sessions, job_id).traceparent
    assert first is not None
    assert item(services.sessions, job_id, "webhook").traceparent == first


def test_probes_make_no_spans(services: Services, spans: InMemorySpanExporter) -> None:
    app = AsgiApp(create_app(services.settings, sessions=services.sessions, queue=services.queue), patience=5)
    for path in ("/livez", "/v1/models"):
        assert ask(app, scope("GET", path, [(b"host", b"localhost")]))[0] == 200
    app.close()
    assert [*by_name(spans)] == ["GET /v1/models"]


def test_log_lines_have_the_ids_of_their_span(
    spans: InMemorySpanExporter, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(Settings(log_format="json"))
    log = get_logger("a test")
    with tracing.span("something") as made:
        log.info("inside")
    log.info("outside")
    inside, outside = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert made is not None
    assert inside["trace_id"] == f"{made.get_span_context().trace_id:032x}"
    assert inside["span_id"] == f"{made.get_span_context().span_id:016x}"
    assert not outside.keys() & {"trace_id", "span_id"}


def test_without_a_collector_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys\n"
        "from shared import tracing\n"
        "from shared.config import read_settings\n"
        "read_settings(); tracing.configure_tracing('x')\n"
        "with tracing.span('nothing', mt3__x=1) as span: assert span is None\n"
        "assert tracing.traceparent() is None and tracing.ids() == {}\n"
        "tracing.flush()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            "OTEL_TRACES_EXPORTER=zipkin is not supported: set it to otlp or none.",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "Traces cannot be sent as grpc: set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf.",
        ),
    ],
)
def test_traces_that_cannot_be_sent_stop_the_start_with_one_sentence(
    environment: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        read_settings()
    assert (stopped.value.code, capsys.readouterr().err) == (2, f"mt3-infer: {message}\n")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}
    assert tracing.refusal(asked) is None
    monkeypatch.setattr(tracing, "NEEDED", ("opentelemetry.sdk", "opentelemetry.no_such.exporter"))
    assert "pip install 'mt3-infer-service[otel]'" in (tracing.refusal(asked) or "")
    assert tracing.refusal(asked | {"OTEL_SDK_DISABLED": "true"}) is None
    assert tracing.refusal(asked | {"OTEL_TRACES_EXPORTER": "none"}) is None
    assert tracing.refusal({}) is None
