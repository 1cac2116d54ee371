"""Liveness of a worker with Celery's real event loop."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from migrations import upgrade
from shared.config import Settings
from tests import servers
from worker.liveness import HANGING_STATUS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.integration


def test_worker_with_a_stuck_consumer_loop_exits(settings: Settings, redis_url: str, tmp_path: Path) -> None:
    upgrade(settings)
    environment = {
        "MT3_DATABASE_URL": settings.database_url,
        "MT3_STORAGE_URL": settings.storage_url,
        "MT3_REDIS_URL": redis_url,
        "MT3_LIVENESS_FILE": str(tmp_path / "alive"),
        "MT3_LIVENESS_SECONDS": "2",
        "PYTHONPATH": str(ROOT),
    }
    celery = [sys.executable, "-m", "celery", "--quiet", "--app", "tests.integration.stuck_worker", "worker"]
    log = tmp_path / "worker.log"
    with servers.running([*celery, "--without-gossip"], environment=environment, log=log, cwd=tmp_path) as worker:
        assert worker.wait(120) == HANGING_STATUS
    assert "the consumer loop stood still for 2 s" in log.read_text()
    assert (tmp_path / "alive").exists()
