"""Metrics and logs of real processes: the web server's processes summed, and a service's lines as JSON."""

from __future__ import annotations

import json
import re
import signal
import sys
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests import servers
from tests.client import ServiceClient
from tests.web_server import Site, status, web_server

pytestmark = pytest.mark.integration

CELERY = ["-W", "ignore", "-m", "celery", "--quiet", "--app", "worker.app", "worker"]


def requests_counted(client: ServiceClient, route: str) -> float:
    text = client.get("/metrics").body.decode()
    found = re.findall(
        rf'^mt3_http_requests_total{{method="GET",route="{re.escape(route)}",\S+ (\S+)$', text, re.M
    )
    return sum(map(float, found))


def test_metrics_of_all_web_processes_are_summed_up(tmp_path: Path) -> None:
    with servers.web_process(tmp_path, workers=2) as url:
        client = ServiceClient(url)
        before = requests_counted(client, "/v1/models")
        for _ in range(40):
            client.get("/v1/models")
        assert requests_counted(client, "/v1/models") == before + 40
        assert client.get("/v1/transcriptions/" + str(uuid4())).status == 404
        text = client.get("/metrics").body.decode()
    assert 'route="/v1/transcriptions/<uuid:job_id>",status="404"' in text
    assert 'route="/metrics"' in text


def test_request_id_reaches_answer_and_access_log(tmp_path: Path) -> None:
    with servers.web_process(tmp_path, MT3_LOG_FORMAT="json") as url:
        client = ServiceClient(url)
        assert client.get("/v1/models", **{"X-Request-ID": "client-7"}).headers["X-Request-ID"] == "client-7"
        made = client.get("/v1/models", **{"X-Request-ID": 'in"valid'}).headers["X-Request-ID"]
        refused = client.call("POST", "/v1/transcriptions", data=b"x", **{"Content-Type": "text/plain"})
    assert re.fullmatch("[0-9a-f]{32}", made)
    lines = [json.loads(line) for line in (tmp_path / "web.log").read_text().splitlines()]
    by_id = {line["request_id"]: line for line in lines if line["event"] == "request"}
    assert (by_id["client-7"]["route"], by_id["client-7"]["status"]) == ("/v1/models", 200)
    assert by_id["client-7"]["seconds"] > 0
    assert by_id["client-7"]["owner"] == "public"
    assert by_id["client-7"]["bytes_out"] > 100
    assert by_id[refused.headers["X-Request-ID"]]["status"] == refused.status
    assert not any(line.get("path") == "/livez" for line in lines), "probes fill no log"


def test_no_access_log_where_it_is_off(tmp_path: Path) -> None:
    with servers.web_process(tmp_path, MT3_ACCESS_LOG="0") as url:
        ServiceClient(url).get("/v1/models")
    assert "/v1/models" not in (tmp_path / "web.log").read_text()


@pytest.mark.parametrize("command", [["-m", "worker.scheduler"], CELERY], ids=["scheduler", "worker"])
def test_lines_before_the_dependencies_are_there_are_json_as_well(tmp_path: Path, command: list[str]) -> None:
    environment = {
        "MT3_LOG_FORMAT": "json",
        "MT3_DATABASE_URL": f"postgresql+psycopg://nobody@127.0.0.1:{servers.lasting_port()}/none",
    }
    log = tmp_path / "log"
    with servers.running([sys.executable, *command], environment=environment, log=log):
        servers.wait_until(lambda: "waiting_for_dependency" in log.read_text(), seconds=60, what="a line")
    (waiting,) = [line for line in map(json.loads, log.read_text().splitlines()) if "dependency" in line]
    assert (waiting["event"], waiting["level"]) == ("waiting_for_dependency", "warning")


def spans_of(collector: Site) -> list[tuple[str, Span]]:
    """Return the spans that were sent to an OTLP receiver, each with the name of its service."""
    found = []
    for request in collector.requests:
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            names = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
            found += [(names["service.name"], span) for scope in resource.scope_spans for span in scope.spans]
    return found


@pytest.mark.e2e
def test_lines_metrics_and_traces_of_a_run(tmp_path: Path, bach: Path) -> None:
    environment = {
        "MT3_LOG_FORMAT": "json",
        "MT3_ACCESS_LOG": "1",
        "MT3_METRICS_PORT": str(servers.lasting_port(following=1)),
        "OTEL_BSP_SCHEDULE_DELAY": "600000",  # so that the spans are sent as the processes end
    }
    with (
        web_server() as collector,
        servers.whole_service(tmp_path, environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as service,
    ):
        collector.routes["/v1/traces"] = status(200)
        client = ServiceClient(service.url)
        done = client.transcribe(bach)
        assert client.submit(b"no audio").status == 202
        for offset, metric in ((0, b"mt3_workers"), (1, b"mt3_attempt_seconds")):
            port = int(environment["MT3_METRICS_PORT"]) + offset
            servers.wait_until(partial(servers.accepts, port), seconds=60, what="a server of metrics")
            assert metric in client.get(f"http://127.0.0.1:{port}/metrics").body
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(90)
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert {line["event"] for line in lines} >= {
        "attempt_started",
        "request",
        "scheduler_started",
        "worker_started",
    }
    for line in lines:
        assert {"event", "level", "logger", "timestamp"} <= line.keys(), line
    of_job = [line for line in lines if line.get("job_id") == done["id"]]
    assert {"kind", "number", "attempt", "owner"} <= of_job[0].keys()
    spans = spans_of(collector)
    (trace,) = {span.trace_id for service_name, span in spans if span.trace_id.hex() == of_job[0]["trace_id"]}
    names = {(service_name, span.name) for service_name, span in spans if span.trace_id == trace}
    assert names >= {
        ("mt3-web", "POST /v1/transcriptions"),
        ("mt3-worker", "attempt transcribe"),
        ("mt3-worker", "transcribing"),
    }


def test_uncaught_exception_is_one_line(tmp_path: Path) -> None:
    code = (
        "import threading\n"
        "from shared.config import Settings\n"
        "from shared.logs import configure_logs\n"
        "configure_logs(Settings())\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
        "import warnings; warnings.warn('careful')\n"
        "raise RuntimeError('two\\nlines')\n"
    )
    log = tmp_path / "log"
    with servers.running([sys.executable, "-c", code], environment={"MT3_LOG_FORMAT": "json"}, log=log) as process:
        assert process.wait(30) == 1
    thread, warning, process_line = [json.loads(line) for line in log.read_text().splitlines()]
    assert "ZeroDivisionError" in thread["exception"]
    assert "careful" in warning["event"]
    assert "two\nlines" in process_line["exception"]
