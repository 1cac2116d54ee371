"""Checks that `tests/unit/test_adding_a_model.py` runs in a copy of the tree, after following the guide there."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import select

import mt3_infer
from checkpoints.mirror import open_mirror
from checkpoints.store import CheckpointStore
from mt3_infer.cli import main
from shared.config import Settings
from shared.db import Sessions
from shared.queue import InMemoryQueue
from shared.storage import make_storage
from shared.tables import Job
from tests.recordings import tone, write
from web import create_app
from worker.context import Services
from worker.engine import TranscriptionEngine
from worker.runner import Runner

TREE = Path(__file__).parents[1]
PUBLISHER = TREE.parent / "publisher"


@pytest.fixture(autouse=True)
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The publisher's file on a server of this machine; without it, no test reaches any other."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(PUBLISHER))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MT3_CHECKPOINT_MIRROR", url)
        monkeypatch.setenv("MT3_CHECKPOINT_DIR", str(tmp_path / "checkpoints"))
        yield url
        server.shutdown()


def test_the_copy_is_what_is_tested() -> None:
    assert Path(mt3_infer.__file__).is_relative_to(TREE)


def test_library_lists_it_and_transcribes_with_it() -> None:
    (info,) = (info for info in mt3_infer.list_models() if info.name == "toy")
    assert (info.aliases, info.installed) == (("example",), False)
    notes = mt3_infer.transcribe(tone(0.5, 16000), sr=16000, model="toy").notes
    assert [note.pitch for note in notes] == [69]
    assert mt3_infer.transcribe(tone(0.5, 16000), sr=16000, model="example", threshold=0.9).notes == []
    assert mt3_infer.get_model_info("toy").installed


def test_command_lists_it_and_has_its_options(tmp_path: Path) -> None:
    song = write(tmp_path / "song.wav", tone(0.5), 22050)
    listed = CliRunner().invoke(main, ["list", "--json"])
    assert "toy" in [model["name"] for model in json.loads(listed.stdout)]
    done = CliRunner().invoke(main, ["transcribe", str(song), "-m", "toy", "--threshold", "0.1", "-o", "-", "-q"])
    assert done.exit_code == 0, done.output
    assert done.stdout_bytes.startswith(b"MThd")


@pytest.mark.parametrize("shard_seconds", [0, 0.3], ids=["whole", "in shards"])
def test_service_accepts_jobs_for_it_and_a_worker_does_them(
    settings: Settings, sessions: Sessions, mirror: str, shard_seconds: float, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"shard_seconds": shard_seconds})
    storage, queue = make_storage(settings), InMemoryQueue()
    client = create_app(settings, sessions=sessions, storage=storage, queue=queue).test_client()
    assert client.get("/v1/models/toy").json["options"]["threshold"]["default"] == 0.05
    recording = write(tmp_path / "song.wav", tone(1.0), 22050).read_bytes()
    form = {"file": (io.BytesIO(recording), "song.wav"), "model": "example", "options": '{"threshold": 0.1}'}
    assert client.post("/v1/transcriptions", data=form).status_code == 202
    engine = TranscriptionEngine(
        CheckpointStore(tmp_path / "checkpoints", mirror=open_mirror(mirror)), device="auto", max_audio_seconds=60
    )
    runner = Runner(Services(settings, sessions, storage, engine, queue, "host:1", threading.Event()))
    while runner.run_next() is not None:
        pass
    with sessions() as session:
        job = session.scalars(select(Job)).one()
    assert (job.status, job.error_detail, job.note_count) == ("succeeded", None, 1)
