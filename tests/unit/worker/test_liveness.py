"""Liveness as seen by the worker itself, its health check and its supervisor."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from shared import worker_registry
from shared.db import Sessions
from shared.tables import Worker
from tests.servers import wait_until
from worker.liveness import HANGING_STATUS, Liveness, Registration, Watchdog


def be_away() -> None:
    raise ConnectionError


def test_idle_worker_is_alive_while_its_loop_runs() -> None:
    liveness = Liveness(stall_seconds=60, loop_seconds=0)
    assert liveness.describe_hang() is None, "the loop has not started: the worker waits for its dependencies"
    liveness.turned()
    time.sleep(0.01)
    assert liveness.describe_hang() == "the consumer loop stood still for 0 s"
    liveness.ending()
    assert liveness.describe_hang() is None


def test_loop_that_waits_for_redis_does_not_count_as_hanging() -> None:
    liveness = Liveness(stall_seconds=60, loop_seconds=0, check_redis=be_away)
    liveness.turned()
    time.sleep(0.01)
    assert liveness.describe_hang() is None


def test_busy_worker_is_alive_while_each_attempt_makes_progress() -> None:
    liveness = Liveness(stall_seconds=0.2, loop_seconds=60)
    with liveness.attempt(), liveness.attempt() as other:
        assert liveness.describe_hang() is None
        time.sleep(0.3)
        other.touch()
        assert liveness.describe_hang() == "1 of 2 attempts made no progress for 0 s"
    assert liveness.describe_hang() is None, "attempts that ended need make no progress"


def test_worker_that_detects_a_hang_exits(tmp_path: Path) -> None:
    ends: list[int] = []
    liveness = Liveness(stall_seconds=0, loop_seconds=60)
    watchdog = Watchdog(liveness, tmp_path / "run" / "alive", end=ends.append)
    watchdog.check()
    assert (ends, (tmp_path / "run" / "alive").exists()) == ([], True)
    with liveness.attempt():
        time.sleep(0.01)
        watchdog.check()
    assert ends == [HANGING_STATUS]


def test_a_worker_is_in_the_registry_until_it_ends(any_sessions: Sessions) -> None:
    def count() -> int:
        with any_sessions() as session:
            return worker_registry.count_workers(session)[0]

    with any_sessions() as session:
        assert worker_registry.count_workers(session) == (0, None)
    workers = [Registration(any_sessions, name, threads=4) for name in ("a", "b")]
    for worker in workers:
        worker.start()
    wait_until(lambda: count() == 2, what="two workers")
    workers[0].end()
    with any_sessions() as session:
        assert session.scalars(select(Worker.name)).all() == ["b"]
    workers[1].end()
    assert count() == 0


def check(file: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MT3_LIVENESS_FILE": str(file), "MT3_LIVENESS_SECONDS": "30"}
    return subprocess.run(
        [sys.executable, "-m", "worker.liveness_file"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_health_check_depends_on_the_age_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    assert "no worker has started yet" in check(file).stderr
    file.touch()
    assert (check(file).returncode, check(file).stderr) == (0, "")
    os.utime(file, (time.time() - 100, time.time() - 100))
    run = check(file)
    assert run.returncode == 1
    assert re.search(r"the worker hangs: its last sign of activity was 1\d\d s ago", run.stderr)


def test_watchdog_checks_periodically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.liveness.CHECK_SECONDS", 0.01)
    checks = threading.Event()
    watchdog = Watchdog(Liveness(stall_seconds=60, loop_seconds=60), tmp_path / "alive")
    monkeypatch.setattr(watchdog, "check", checks.set)
    watchdog.start()
    assert checks.wait(10)
