"""Alert rules and dashboard on a real Prometheus: rules by their unit tests, every expression on real metrics."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.config import Settings
from shared.db import Sessions
from tests import servers
from tests.debian import find_program

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "mt3-infer.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
RECORDS = [
    rule for group in yaml.safe_load((RULES / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RECORDS if "alert" in rule]
METRIC = re.compile(r"\bmt3_[a-z_]+")


def promtool(*arguments: str) -> None:
    run = subprocess.run(
        [find_program("promtool", "prometheus"), *arguments],
        cwd=RULES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_rules_and_configuration_are_valid() -> None:
    promtool("check", "config", "prometheus.yml")


def test_alerts_fire_for_their_faults_and_are_quiet_otherwise() -> None:
    promtool("test", "rules", "rules_test.yml")


def test_each_alert_has_a_unit_test_and_a_section_of_the_runbook() -> None:
    tested = {
        case["alertname"]
        for test in yaml.safe_load((RULES / "rules_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert tested == {rule["alert"] for rule in ALERTS}
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "runbook.md").read_text(), re.M)
    anchors = {re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for rule in ALERTS:
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (file, anchor in anchors) == ("docs/runbook.md", True), rule["alert"]


EXPORTER = """
import sys, time
from shared.config import read_settings
from shared.db import make_engine, make_sessions
from shared.kinds import KINDS
from shared.metrics import serve_metrics
from mt3_infer.inference.engine import Occupancy
from worker import metrics
from worker.scheduler_metrics import STORED_BYTES, QueueCollector
from web.request_log import Exchange
from pathlib import Path

class Engine:
    steps = 0
    def occupancy(self):
        Engine.steps += 10
        return {"mt3_pytorch": Occupancy(8, Engine.steps, 6 * Engine.steps)}

settings = read_settings()
queue = QueueCollector(settings, make_sessions(make_engine(settings)))
serve_metrics(settings, queue, metrics.EngineCollector(Engine(), Path("/")))
class Claim:
    kind = "transcribe"
while True:
    with metrics.running(Claim):
        metrics.count_attempt(Claim, "succeeded")
        metrics.count_attempt(Claim, "failed", "internal_error")
        metrics.count_attempt(Claim, "lost")
    metrics.measure_speed("mt3_pytorch", "cpu", 30.0, 10.0)
    STORED_BYTES.labels("uploads").set(7)
    metrics.FETCHES.labels("mt3_pytorch", "installed").inc()
    metrics.FETCHED_BYTES.labels("mt3_pytorch").inc(100)
    for status in (200, 503):
        exchange = Exchange({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": "", "mt3.route": "/"})
        exchange.status = status
        exchange.end()
    time.sleep(0.1)
"""


@pytest.fixture
def prometheus(settings: Settings, sessions: Sessions, tmp_path: Path) -> Iterator[str]:
    """A Prometheus that scrapes a process with all of our metrics every 200 ms; yields its URL."""
    from tests.work import add_job, must_claim

    must_claim(sessions, add_job(sessions))
    add_job(sessions)
    program = find_program("prometheus", "prometheus")
    target, port = servers.free_port(), servers.free_port()
    configuration = {
        "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [str(RULES / "rules.yml")],
        "scrape_configs": [{"job_name": "mt3", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    exporter = [sys.executable, "-c", EXPORTER]
    environment = {
        "MT3_METRICS_PORT": str(target),
        "MT3_DATABASE_URL": settings.database_url,
        "MT3_STORAGE_URL": settings.storage_url,
        "MT3_MAX_STORED_BYTES": "1000000",
    }
    command = [
        str(program),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    url = f"http://127.0.0.1:{port}"
    with (
        servers.running(exporter, environment=environment, log=tmp_path / "exporter.log"),
        servers.running(command, log=tmp_path / "prometheus.log"),
    ):
        servers.wait_until(lambda: servers.answers(f"{url}/-/ready"), what="Prometheus", seconds=60)
        yield url


def query(url: str, expression: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}") as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return [sample for sample in result if sample["value"][1] != "NaN"]


def test_every_expression_of_the_dashboard_has_values(prometheus: str) -> None:
    for expression in EXPRESSIONS:
        servers.wait_until(partial(query, prometheus, expression), what=expression, seconds=60)


def test_every_metric_of_the_rules_exists(prometheus: str) -> None:
    names = {name for rule in RECORDS for name in METRIC.findall(rule["expr"])}
    for name in names:
        servers.wait_until(partial(query, prometheus, name), what=name, seconds=60)
