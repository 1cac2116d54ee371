"""An upgrade under load: the version before and this one side by side on one PostgreSQL, and no job is lost.

The version before is taken from the repository's history, and runs from its own sources.
"""

from __future__ import annotations

import subprocess
import tarfile
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from tests import servers
from tests.chaos.ledger import Ledger
from tests.chaos.runs import submissions, times
from tests.chaos.stack import ROOT, Part, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(1800)]

BEFORE = "cf96c47e3546"
"""The last version with the schema of migration 0009, before exports, keys and metrics."""


@pytest.fixture
def sources_before(tmp_path: Path) -> Path:
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", BEFORE]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the history of this checkout has no {BEFORE}: fetch it whole")
    folder = tmp_path / "before"
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def restart_with(part: Part, sources: Path) -> None:
    """End a process as a deployment does, and start it from other sources."""
    part.terminate()
    part.environment = {**part.environment, "PYTHONPATH": str(sources)}
    part.start()


def test_a_rolling_upgrade_loses_no_job(tmp_path: Path, clips: list[bytes], sources_before: Path) -> None:
    (tmp_path / "run").mkdir()
    stack = Stack(
        tmp_path / "run", environment={"PYTHONPATH": str(sources_before), "MT3_TEST_SEGMENT_SECONDS": "0.05"}
    )
    with stack:
        ledger = Ledger(stack, clips)
        ledger.learn()
        assert stack.sql("SELECT version_num FROM alembic_version") == [("0009",)], "the old version runs"
        began = time.monotonic()
        with submissions(ledger, pause=0.2):
            time.sleep(5)
            # Expand: the schema of the new version, under the processes of the old one.
            migrations = stack.migrations
            migrations.environment = {**migrations.environment, "PYTHONPATH": str(ROOT)}
            migrations.start()
            assert migrations.process is not None
            assert migrations.process.wait(60) == 0, migrations.log.read_text()
            time.sleep(3)
            # One after the other; in between, both versions take and do jobs.
            for part in (
                stack.workers[0],
                stack.web,
                stack.schedulers[0],
                *stack.workers[1:],
                stack.schedulers[1],
            ):
                restart_with(part, ROOT)
                time.sleep(max(2, times(5)))
            # And back: web and a worker of the version before, on the new schema.
            for part in (stack.web, stack.workers[0]):
                restart_with(part, sources_before)
                time.sleep(max(2, times(5)))
            for part in (stack.web, stack.workers[0]):
                restart_with(part, ROOT)
            stack.wait(lambda: servers.answers(f"{stack.client.url}/readyz"), "web of this version")
            time.sleep(3)
        ledger.wait_for_all()
        assert stack.sql("SELECT version_num FROM alembic_version") != [("0009",)]
        # Each job has the notes of one version or the other, whole.
        before, jobs = ledger.truth, dict(ledger.accepted)
        ledger.learn()
        both = list(zip(before, ledger.truth, strict=True))
        torn = [job_id for job_id, clip in jobs.items() if ledger.notes(job_id) not in both[clip]]
        report = replace(ledger.account(), wrong=len(torn))
        print(f"\na rolling upgrade, a partial rollback, and the upgrade again: {report}", end="")
        print(f"  seconds {time.monotonic() - began:.0f}")
        report.check()
