"""For `make soak`: the alerts of `deploy/prometheus` in a real Prometheus and Alertmanager, over a real service.

In normal load nothing fires; each fault is reported to the receiver within a minute. Every line that a process of
the service logged meanwhile is an object of JSON.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from checkpoints.store import CheckpointStore
from tests import servers
from tests.chaos.runs import SCALE
from tests.chaos.stack import Stack
from tests.debian import find_program
from tests.web_server import Site, status, web_server

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(3600)]

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
QUIET_SECONDS = max(60.0, 600 * min(1.0, SCALE))
ALERT_SECONDS = 60.0
SUBMIT_SECONDS = 2.0
# Alertmanager reads templates in /usr/share: where it is not installed, it gets a view of its own of that folder.
WITH_SHARE = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount --bind "$0" /usr/share && exec "$@"']


class Load:
    """Submits a clip every two seconds, for the model that `model` names."""

    def __init__(self, stack: Stack, clips: list[bytes]) -> None:
        self.model = "basic_pitch"
        self.submitted = 0
        self._stack = stack
        self._clips = clips
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(SUBMIT_SECONDS):
            clip = self._clips[self.submitted % len(self._clips)]
            self._stack.submit(clip, f"load{self.submitted}", model=self.model)
            self.submitted += 1


@contextmanager
def monitoring(folder: Path, targets: list[str], receiver: Site) -> Iterator[str]:
    """Run Prometheus and Alertmanager with our rules and times; yield the URL of Prometheus."""
    port, alerts = servers.free_port(), servers.free_port()
    alertmanager = yaml.safe_load((DEPLOY / "alertmanager.yml").read_text())
    alertmanager["receivers"][0]["webhook_configs"][0]["url"] = receiver.url + "/"
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    prometheus["rule_files"] = [str(DEPLOY / "rules.yml")]
    prometheus["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{alerts}"]}]
    prometheus["scrape_configs"] = [{"job_name": "mt3", "static_configs": [{"targets": targets}]}]
    for name, configuration in (("alertmanager", alertmanager), ("prometheus", prometheus)):
        (folder / f"{name}.yml").write_text(yaml.safe_dump(configuration))
    program = find_program("prometheus-alertmanager", "prometheus-alertmanager")
    is_installed = shutil.which(program.name) is not None
    manager = [
        *([] if is_installed else [*WITH_SHARE, str(program.parents[1] / "share")]),
        str(program),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{alerts}",
        "--cluster.listen-address=",
    ]
    server = [
        str(find_program("prometheus", "prometheus")),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (
        servers.running(manager, log=folder / "alertmanager.log"),
        servers.running(server, log=folder / "prometheus.log"),
    ):
        for url in (f"http://127.0.0.1:{alerts}/-/ready", f"http://127.0.0.1:{port}/-/ready"):
            servers.wait_until(partial(servers.answers, url), what=url, seconds=120)
        yield f"http://127.0.0.1:{port}"


def query(url: str, expression: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}") as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def received(receiver: Site) -> set[str]:
    """Return the names of the alerts that fire, as they were reported."""
    reported = [alert for request in receiver.requests for alert in json.loads(request.body)["alerts"]]
    return {alert["labels"]["alertname"] for alert in reported if alert["status"] == "firing"}


def seconds_until(receiver: Site, alert: str) -> float:
    began = time.monotonic()
    servers.wait_until(lambda: alert in received(receiver), seconds=ALERT_SECONDS, what=alert)
    return time.monotonic() - began


def test_alerts_fire_within_a_minute_and_are_quiet_in_normal_load(
    tmp_path: Path, clips: list[bytes], checkpoint_dir: Path
) -> None:
    CheckpointStore(checkpoint_dir).fetch("basic_pitch")
    ports = [servers.free_port() for _ in range(2)]
    environment = {
        "MT3_LOG_FORMAT": "json",
        "MT3_CHECKPOINT_DIR": str(checkpoint_dir),
        "MT3_OFFLINE": "1",
        "MT3_TEST_NETWORK": "real",
        "MT3_MAX_ATTEMPTS": "2",
        "MT3_MAX_STORED_BYTES": str(10**12),
    }
    stack = Stack(tmp_path, workers=1, schedulers=1, environment=environment)
    for part, port in zip((*stack.workers, *stack.schedulers), ports, strict=True):
        part.environment = {**part.environment, "MT3_METRICS_PORT": str(port)}
    targets = [f"127.0.0.1:{port}" for port in ports] + [stack.client.url.removeprefix("http://")]
    with stack, web_server() as receiver, Load(stack, clips) as load:
        receiver.routes["/"] = status(200)
        stack.wait(lambda: stack.logged("attempt_ended") > 3, "the first jobs")
        with monitoring(tmp_path, targets, receiver) as prometheus:
            servers.wait_until(lambda: query(prometheus, "mt3_workers == 1"), what="the worker", seconds=60)
            before = load.submitted
            time.sleep(QUIET_SECONDS)  # the subject of the test: nothing happens
            firing = query(prometheus, f'max_over_time(ALERTS{{alertstate="firing"}}[{int(QUIET_SECONDS)}s])')
            assert (received(receiver), firing) == (set(), []), "normal load"
            print(f"\nquiet for {QUIET_SECONDS:g} s with {load.submitted - before} jobs")

            load.model = "mr_mt3"  # whose weights are not there
            print(f"MT3AttemptsFailing after {seconds_until(receiver, 'MT3AttemptsFailing'):.0f} s")
            stack.workers[0].kill()
            print(f"MT3NoWorker after {seconds_until(receiver, 'MT3NoWorker'):.0f} s")
            stack.sql("UPDATE jobs SET created_at = created_at - interval '20 minutes' WHERE status = 'queued'")
            print(f"MT3QueueTooOld after {seconds_until(receiver, 'MT3QueueTooOld'):.0f} s")
    logs = [stack.web.log, stack.migrations.log, *(part.log for part in (*stack.workers, *stack.schedulers))]
    for log in logs:
        for line in log.read_text().splitlines():
            assert {"event", "level", "logger", "timestamp"} <= json.loads(line).keys(), f"{log.name}: {line}"
