"""Generated requests to the running service: no server error, and no answer that the document does not declare."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from shared.config import Settings
from shared.db import make_engine, make_sessions
from shared.keys import create_key
from shared.tables import Scope
from tests import servers

pytestmark = pytest.mark.integration

# Operations of which a schema cannot state all that makes a request valid. For the others, a request that fits the
# schema must be accepted, unless it is too large for the settings (413).
NOT_STATED = {
    "POST /v1/transcriptions": "which models there are, and that fields of the form are JSON",
    "GET /v1/transcriptions": "which models there are",
    "GET /v1/transcriptions/archive": "which models there are",
    "GET /v1/transcriptions/{job_id}/notes": "how far the notes of this job go",
    "GET /v1/transcriptions/{job_id}/events": "how far the notes of this job go",
    "PUT /v1/transcriptions/{job_id}/corrections": "that notes end after they begin, and beats ascend",
    "POST /v1/transcriptions/{job_id}/exports": "which options each format takes",
    "PUT /v1/uploads/{upload_id}/parts/{number}": "how long this part is",
}
HOOKS = Path(__file__).parents[1] / "schemathesis_hooks.py"
ACCEPTED = ["2xx", "3xx", "401", "403", "404", "409", "413", "429", "5xx"]  # 5xx is what other checks are for


@pytest.fixture
def service(tmp_path: Path, redis_url: str) -> Iterator[tuple[str, str]]:
    """A web process that needs keys; its address and a key."""
    limits = dict.fromkeys(("MT3_RATE_LIMIT_READ", "MT3_RATE_LIMIT_WRITE"), "1000000/minute")
    # Streams end with their job, which nothing runs here, or when the client has to connect again.
    own = {"MT3_REDIS_URL": redis_url, "MT3_AUTH": "keys", "MT3_STREAM_SECONDS": "0.5", **limits}
    with servers.web_process(tmp_path, workers=2, **own) as url:
        settings = Settings(database_url=f"sqlite:///{tmp_path}/mt3.sqlite3")
        with make_sessions(make_engine(settings)).begin() as session:
            _, key = create_key(session, "schemathesis", scope=Scope.ADMIN)
        yield url, key


def configuration() -> str:
    """Return the configuration of schemathesis: all checks on all operations, but for `NOT_STATED`."""
    check = "checks.positive_data_acceptance"
    lines = [f"hooks = {json.dumps(str(HOOKS))}", f"[{check}]", f"expected-statuses = {json.dumps(ACCEPTED)}"]
    for operation in NOT_STATED:
        lines += ["[[operations]]", f"include-name = {json.dumps(operation)}", f"{check}.enabled = false"]
    return "\n".join(lines)


def run_schemathesis(service: tuple[str, str], folder: Path, *, examples: int, seed: int) -> int:
    """Return how many requests were made; none of the answers may be a surprise."""
    url, key = service
    paths = urllib3.request("GET", f"{url}/openapi.json").json()["paths"]
    assert {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods} > set(NOT_STATED)
    (folder / "schemathesis.toml").write_text(configuration())
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {key}"]
    command += ["--max-examples", str(examples), "--seed", str(seed), "--workers", "1", "--no-color"]
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
