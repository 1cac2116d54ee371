"""Generated requests to the running service: no server error, and no answer that the document does not declare."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.config import Settings
from shared.db import make_engine, make_sessions
from shared.keys import create_key
from shared.tables import Scope
from tests import servers

pytestmark = pytest.mark.integration

# All checks but one: that valid requests are accepted. Schemas cannot state which models there are, that a field
# of a form is JSON, or how long a part is.
NOT_CHECKED = "positive_data_acceptance"


@pytest.fixture
def service(tmp_path: Path, redis_url: str) -> Iterator[tuple[str, str]]:
    """A web process that needs keys; its address and a key."""
    limits = dict.fromkeys(("MT3_RATE_LIMIT_READ", "MT3_RATE_LIMIT_WRITE"), "1000000/minute")
    with servers.web_process(tmp_path, workers=2, MT3_REDIS_URL=redis_url, MT3_AUTH="keys", **limits) as url:
        settings = Settings(database_url=f"sqlite:///{tmp_path}/mt3.sqlite3")
        with make_sessions(make_engine(settings)).begin() as session:
            _, key = create_key(session, "schemathesis", scope=Scope.ADMIN)
        yield url, key


def run_schemathesis(service: tuple[str, str], folder: Path, *, examples: int, seed: int) -> int:
    """Return how many requests were made; none of the answers may be a surprise."""
    url, key = service
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {key}", "--exclude-checks", NOT_CHECKED]
    command += ["--max-examples", str(examples), "--seed", str(seed), "--workers", "1", "--no-color"]
    command += ["--exclude-path-regex", "/events$"]  # streams end with their job; see test_events.py
    command += ["--continue-on-failure", "--no-shrink", "--warnings", "off"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    found = re.search(r"(\d+) generated", ran.stdout)
    assert found is not None, ran.stdout
    return int(found[1])


@pytest.mark.timeout(900)
def test_generated_requests_find_nothing(service: tuple[str, str], tmp_path: Path) -> None:
    assert run_schemathesis(service, tmp_path, examples=1, seed=1) > 300


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_thousands_of_generated_requests_find_nothing(service: tuple[str, str], tmp_path: Path) -> None:
    cases = run_schemathesis(service, tmp_path, examples=60, seed=2)
    print(f"\n{cases} generated requests, no server error and no undeclared answer")
    assert cases >= 3000
