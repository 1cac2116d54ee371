"""Generated requests to the running service: no server error, and no answer that the document does not declare."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers

pytestmark = pytest.mark.integration

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "use_after_free",
    "ensure_resource_availability",
)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with servers.web_process(tmp_path, workers=2) as url:
        yield url


def run_schemathesis(url: str, folder: Path, *, examples: int, seed: int) -> int:
    """Return how many cases were run."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--max-examples", str(examples), "--seed", str(seed)]
    command += ["--report", "ndjson", "--report-ndjson-path", str(report), "--workers", "2", "--mode", "all"]
    command += ["--continue-on-failure", "--no-color"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    print(ran.stdout[-1500:])
    return sum("ScenarioFinished" in json.loads(line) for line in report.read_text().splitlines())


@pytest.mark.timeout(600)
def test_generated_requests_find_nothing(url: str, tmp_path: Path) -> None:
    run_schemathesis(url, tmp_path, examples=5, seed=1)
