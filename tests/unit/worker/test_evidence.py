"""Evidence in shards: decided once for a recording, stored beside the results, and no reason to fail."""

# ruff: noqa: F401, F811 - fixtures of another module

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import select, update

from checkpoints.progress import FetchProgress
from checkpoints.store import CheckpointStore
from mt3_infer.audio import Waveform
from mt3_infer.models import MODELS
from mt3_infer.models.basic_pitch.config import Posteriors
from shared.kinds import SHARD
from shared.tables import WorkItem
from tests.unit.worker.test_long_recordings import (
    Bench,
    FakeNetwork,
    OneModelEngine,
    bench,
    recording,
)
from worker.context import Context, evidence_key
from worker.engine import TranscriptionEngine


def posteriors(windows: Waveform) -> Posteriors:
    """Stand for Basic Pitch."""
    loudness = float(np.abs(windows).mean())
    return np.full((142, 88), loudness, np.float32), np.full((142, 88), 1 - loudness, np.float32)


def engine(*, has_basic_pitch: bool, estimates: bool = True) -> OneModelEngine:
    made = OneModelEngine(FakeNetwork(), estimates=estimates)
    object.__setattr__(made.model, "posteriors", lambda: posteriors if has_basic_pitch else None)
    return made


def result(bench: Bench, job_id: UUID) -> tuple[str, bytes, list[float | None]]:
    """Return the estimator, the notes as they are stored, and their confidence."""
    keys = {artifact["name"]: artifact["key"] for artifact in bench.job(job_id).artifacts}
    with bench.storage.open(keys["notes.json"]) as file:
        content = json.loads(file.read())
    confidence = [note["confidence"] for note in content["notes"]]
    return content["provenance"]["estimator"], bench.notes(job_id), confidence


def in_one_piece(bench: Bench, recording: bytes, **changes: Any) -> tuple[str, bytes, list[float | None]]:
    job_id = bench.add(recording)
    assert bench.worker(None, engine=engine(**changes), shard_seconds=0).run_next() == "succeeded"
    return result(bench, job_id)


def test_shards_use_basic_pitch_if_it_was_there_when_the_recording_was_split(
    bench: Bench,
    recording: bytes,
) -> None:
    job_id = bench.add(recording)
    bench.run_all(None, engine=engine(has_basic_pitch=True))
    assert result(bench, job_id) == in_one_piece(bench, recording, has_basic_pitch=True)
    assert result(bench, job_id)[0] == "1/posteriors"


def test_shards_do_not_use_it_if_it_came_later(bench: Bench, recording: bytes) -> None:
    job_id = bench.add(recording)
    bench.worker(None, engine=engine(has_basic_pitch=False)).run_next()
    bench.run_all(None, engine=engine(has_basic_pitch=True))
    assert result(bench, job_id) == in_one_piece(bench, recording, has_basic_pitch=False)
    assert result(bench, job_id)[0] == "1/energies"


def test_all_notes_do_without_it_if_one_worker_does_not_have_it(
    bench: Bench,
    recording: bytes,
) -> None:
    job_id = bench.add(recording)
    for has_basic_pitch in (True, True, False):
        bench.worker(None, engine=engine(has_basic_pitch=has_basic_pitch)).run_next()
    bench.run_all(None, engine=engine(has_basic_pitch=True))
    assert result(bench, job_id) == in_one_piece(bench, recording, has_basic_pitch=False)


def forget_evidence(bench: Bench, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a shard as a release without evidence split it."""
    with bench.sessions.begin() as session:
        payload = session.scalars(
            select(WorkItem.payload).where(WorkItem.kind == SHARD, WorkItem.number == number)
        ).one()
        without = {name: value for name, value in payload.items() if name != "evidence"}
        session.execute(
            update(WorkItem).where(WorkItem.kind == SHARD, WorkItem.number == number).values(payload=without)
        )


def lose_evidence(bench: Bench, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker of a release without evidence run a shard, for which it stores none."""
    store = Context.store

    def store_results_only(context: Context, where: str, *content: Any) -> Any:
        if context.claim.number == number and where == evidence_key(where):
            return {}
        return store(context, where, *content)

    monkeypatch.setattr(Context, "store", store_results_only)


def store_other_evidence(bench: Bench, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker of a later release run one shard."""
    monkeypatch.setattr("mt3_infer.evidence.recorder.VERSION", 1000)
    bench.worker(None, engine=engine(has_basic_pitch=True)).run_next()
    monkeypatch.undo()


@pytest.mark.parametrize("change", [forget_evidence, lose_evidence, store_other_evidence])
def test_results_of_other_releases_assemble_to_the_notes_of_the_network(
    bench: Bench,
    recording: bytes,
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
) -> None:
    job_id = bench.add(recording)
    assert bench.worker(None, engine=engine(has_basic_pitch=True)).run_next() == "succeeded"
    change(bench, 2, monkeypatch)
    assert set(bench.run_all(None, engine=engine(has_basic_pitch=True))) == {"succeeded"}
    estimator, notes, confidence = result(bench, job_id)
    assert (estimator, set(confidence)) == ("", {None})
    assert notes == in_one_piece(bench, recording, has_basic_pitch=True, estimates=False)[1]


def test_setting_turns_estimates_off(bench: Bench, recording: bytes) -> None:
    job_id = bench.add(recording)
    bench.run_all(None, engine=engine(has_basic_pitch=True), estimates=False)
    assert result(bench, job_id)[0] == ""
    assert not [key for key in bench.objects(job_id) if "evidence" in key]
    assert result(bench, job_id) == in_one_piece(bench, recording, has_basic_pitch=True, estimates=False)


def test_model_is_ready_though_basic_pitch_cannot_be_fetched(
    checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, offline=True)
    fetched: list[str] = []
    fetch = CheckpointStore.fetch

    def fetch_one(self: CheckpointStore, name: str, *arguments: Any) -> Any:
        fetched.append(name)
        return fetch(self, name, *arguments) if name == "basic_pitch" else tmp_path

    monkeypatch.setattr(CheckpointStore, "fetch", fetch_one)

    def progress(at: FetchProgress) -> None:
        pass

    assert "mt3_pytorch" in MODELS
    workers = TranscriptionEngine(store, device="cpu", max_audio_seconds=60)
    for _ in range(2):
        workers.fetch("mt3_pytorch", progress)
    assert fetched == ["mt3_pytorch", "basic_pitch", "mt3_pytorch"], "what failed is not tried again"
    assert "without Basic Pitch" in caplog.text

    TranscriptionEngine(store, device="cpu", max_audio_seconds=60, estimates=False).fetch("mt3_pytorch", progress)
    assert fetched[3:] == ["mt3_pytorch"]
