"""For `make soak`: other people's generators make clients of the document without a warning, and these work."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(1800)]
CONFIG = Path(__file__).parents[2] / "docs" / "openapi-python-client.yml"

PYTHON = """
import sys, time
from io import BytesIO
from pathlib import Path
from made import Client
from made.api.transcriptions import transcriptions_artifact, transcriptions_create, transcriptions_index
from made.api.transcriptions import transcriptions_show
from made.models import NewTranscription, Problem, Status, Transcription
from made.types import File

client = Client(sys.argv[1], raise_on_unexpected_status=True)
recording = File(BytesIO(Path(sys.argv[2]).read_bytes()), "song.flac", "audio/flac")
job = transcriptions_create.sync(client=client, body=NewTranscription(file=recording, model="basic_pitch"))
assert isinstance(job, Transcription), job
while job.status in (Status.QUEUED, Status.PROCESSING):
    time.sleep(0.5)
    job = transcriptions_show.sync(job.id, client=client, prefer="wait=10")
assert job.status is Status.SUCCEEDED and job.note_count > 100, job
midi = transcriptions_artifact.sync(job.id, "transcription.mid", client=client)
assert midi.payload.read()[:4] == b"MThd"
listed = transcriptions_index.sync(client=client, limit=5, status=[Status.SUCCEEDED])
assert listed.items[0].id == job.id
missing = transcriptions_show.sync("01a22668-7452-77d5-9c64-9971eca136ee", client=client)
assert isinstance(missing, Problem) and missing.code == "not_found", missing
"""
TYPESCRIPT = """
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Job = components["schemas"]["Transcription"];
const client = createClient<paths>({ baseUrl: process.argv[2] });
const form = new FormData();
form.set("file", new Blob([readFileSync(process.argv[3]!)]), "song.flac");
form.set("model", "basic_pitch");
const created = await client.POST("/v1/transcriptions", {
  body: {} as components["schemas"]["NewTranscription"],
  bodySerializer: () => form,
});
if (created.error) throw new Error(created.error.code);
let job: Job = created.data;
while (job.status === "queued" || job.status === "processing") {
  const path = { job_id: job.id };
  const answer = await client.GET("/v1/transcriptions/{job_id}", {
    params: { path, header: { prefer: "wait=10" } },
  });
  if (answer.error) throw new Error(answer.error.detail);
  job = answer.data;
}
if (job.status !== "succeeded" || (job.note_count ?? 0) < 100) throw new Error(JSON.stringify(job));
const listed = await client.GET("/v1/transcriptions", { params: { query: { status: ["succeeded"], limit: 5 } } });
if (listed.data?.items[0]?.id !== job.id) throw new Error("the list lacks the job");
"""


@pytest.fixture
def service(tmp_path: Path, checkpoint_dir: Path) -> Iterator[servers.Service]:
    folder = tmp_path / "service"
    folder.mkdir()
    with servers.whole_service(folder, {"MT3_CHECKPOINT_DIR": str(checkpoint_dir)}) as running:
        yield running


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed; return what it printed."""
    ran = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def save_document(url: str, folder: Path) -> Path:
    with urllib.request.urlopen(f"{url}/openapi.json") as response:
        document = json.load(response)
    file = folder / "openapi.json"
    file.write_text(json.dumps(document))
    return file


def test_a_python_client_is_generated_and_passes_a_job_through(
    service: servers.Service, tmp_path: Path, bach: Path
) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "openapi-python-client==0.29.1", "ruff", cwd=tmp_path)
    document = save_document(service.url, tmp_path)
    command = f"openapi-python-client generate --path {document} --config {CONFIG} --output-path made --meta none"
    output = run("env", f"PATH={python.parent}:/usr/bin:/bin", *command.split(), cwd=tmp_path)
    assert "warning" not in output.lower(), output
    (tmp_path / "use.py").write_text(PYTHON)
    run(python, "use.py", service.url, bach, cwd=tmp_path)


def test_typescript_types_are_generated_and_pass_a_job_through(
    service: servers.Service, tmp_path: Path, bach: Path
) -> None:
    packages = ("openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3", "@types/node@20")
    run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", tmp_path, *packages, cwd=tmp_path)
    document = save_document(service.url, tmp_path)
    output = run("npx", "--no-install", "openapi-typescript", document, "-o", "api.d.ts", cwd=tmp_path)
    assert "warn" not in output.lower(), output
    (tmp_path / "use.mts").write_text(TYPESCRIPT)
    strict = ("--strict", "--noUncheckedIndexedAccess", "--module", "nodenext", "--target", "es2022")
    run("npx", "--no-install", "tsc", *strict, "use.mts", cwd=tmp_path)
    run("node", "use.mjs", service.url, bach, cwd=tmp_path)
