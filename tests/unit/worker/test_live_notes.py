"""Notes of running jobs: published segment by segment, in shards and across deaths, and true in the end."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from checkpoints.store import CheckpointStore
from mt3_infer.loading import load_model
from mt3_infer.models import ModelOptions
from mt3_infer.network import NetworkOutput
from mt3_infer.settled import SettledNotes
from mt3_infer.symbolic.notes import Note
from shared import note_stream
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.jobs import cancel_job, retry_job
from shared.storage import LocalStorage, make_storage
from shared.tables import Status, WorkItem, WorkStatus
from tests.recordings import write
from tests.unit.worker.test_long_recordings import GRID, Bench, FakeNetwork, OneModelEngine
from tests.work import rescue
from worker import live_notes
from worker.engine import TranscriptionEngine

SEGMENTS = 11


class Died(BaseException):
    """The worker is gone, and with it the attempt."""


@dataclass
class LiveNetwork(FakeNetwork):
    """A note of half a second in each segment. With `corrected`, the final notes have other velocities."""

    corrected: bool = False

    def collect(self, options: ModelOptions) -> LiveCollector:  # type: ignore[override]
        return LiveCollector(self.corrected)


@dataclass
class LiveCollector:
    corrected: bool
    results: list[list[int]] = field(default_factory=list)

    def feed(self, result: list[int]) -> None:
        self.results.append(result)

    def finish(self, samples: int) -> NetworkOutput:
        is_whole = self.corrected and samples < len(self.results) * GRID.hop
        notes = [Note(n, n + 0.5, result[0], 100 if is_whole else 50) for n, result in enumerate(self.results)]
        return NetworkOutput(notes, {})


@dataclass
class Follower:
    """A client that reads the stream, and keeps what was sent and not withdrawn."""

    sessions: Sessions
    job_id: UUID
    cursor: int = 0
    sent: int = 0
    notes: dict[int, dict[str, Any]] = field(default_factory=dict)

    def read(self) -> list[int]:
        """Read on; return the pitches of all notes."""
        with self.sessions() as session:
            for event in note_stream.read_events(session, self.job_id, after=self.cursor):
                assert event.number == self.cursor + 1
                self.cursor, content = event.number, json.loads(event.text)
                for note_id in content.get("ids", ()):
                    del self.notes[note_id]
                added = {note.pop("id"): note for note in content.get("notes", ())}
                assert not set(added) & set(self.notes)
                self.notes |= added
                self.sent += len(added)
        return sorted(note["pitch"] for note in self.notes.values())

    def assert_final(self, bench: Bench) -> None:
        self.read()
        final = json.loads(bench.notes_json(self.job_id))["notes"]
        key = json.dumps
        assert sorted(self.notes.values(), key=key) == sorted(final, key=key)
        assert bench.job(self.job_id).status is Status.SUCCEEDED


@pytest.fixture
def bench(settings: Settings, any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A service that publishes after each segment, and keeps the notes of the network."""
    monkeypatch.setattr(live_notes, "SECONDS", 0.0)
    monkeypatch.setattr(live_notes, "SHARE", 1e9)
    settings = settings.model_copy(update={"shard_seconds": 3.0, "retry_seconds": 1e-9, "estimates": False})
    storage = make_storage(settings)
    assert isinstance(storage, LocalStorage)
    return Bench(settings, any_sessions, storage)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Ten seconds of noise: 11 segments."""
    noise = np.random.default_rng(7).uniform(-0.5, 0.5, 10 * 22050).astype(np.float32)
    return write(tmp_path_factory.mktemp("noise") / "noise.wav", noise, 22050).read_bytes()


@pytest.mark.parametrize("corrected", [False, True])
def test_notes_come_while_the_recording_is_transcribed(bench: Bench, recording: bytes, corrected: bool) -> None:
    job_id = bench.add(recording)
    follower = Follower(bench.sessions, job_id)
    seen: dict[int, list[int]] = {}
    network = LiveNetwork(on_segment=lambda index: seen.update({index: follower.read()}), corrected=corrected)
    assert bench.run_all(network, shard_seconds=0) == ["succeeded"]
    assert seen[0] == seen[1] == []
    assert seen[9] == list(range(8)), "those of all segments before the one that was done last"
    follower.assert_final(bench)
    assert len(follower.notes) == SEGMENTS
    assert follower.sent == (SEGMENTS + 10 if corrected else SEGMENTS)


@pytest.mark.parametrize("seed", range(4))
def test_shards_in_any_order_with_deaths_send_each_note_once(bench: Bench, recording: bytes, seed: int) -> None:
    chance = random.Random(seed)
    job_id = bench.add(recording)
    assert bench.worker(LiveNetwork()).run_next() == "succeeded", "split"
    follower, deaths = Follower(bench.sessions, job_id), 0

    def die_at_times(_: int) -> None:
        nonlocal deaths
        follower.read()
        if deaths < 4 and chance.random() < 0.3:
            deaths += 1
            raise Died

    for attempt in count():
        assert attempt < 20
        shuffle(bench, chance)
        try:
            outcome = bench.worker(
                LiveNetwork(on_segment=die_at_times), max_attempts=9, name=f"w{attempt}"
            ).run_next()
        except Died:
            expire_leases(bench)
            continue
        if outcome is None:
            break
    assert deaths
    follower.assert_final(bench)
    assert follower.sent == SEGMENTS, "what an attempt sent before its death is not sent again"


def test_corrections_of_another_attempt_are_withdrawn_and_sent(bench: Bench, recording: bytes) -> None:
    """The attempt after a death may see other notes, as on another device."""
    job_id = bench.add(recording)
    follower = Follower(bench.sessions, job_id)

    def die(index: int) -> None:
        if index == 8:
            raise Died

    with pytest.raises(Died):
        bench.run_all(LiveNetwork(on_segment=die), shard_seconds=0)
    assert follower.read() == list(range(7))
    expire_leases(bench)
    seen: list[list[int]] = []

    class Louder(LiveNetwork):
        def collect(self, options: ModelOptions) -> LiveCollector:  # type: ignore[override]
            collector = LiveCollector(False)
            collector.results.append([99])  # one more note, at the beginning: all others come a second later
            return collector

    louder = Louder(on_segment=lambda _: seen.append(follower.read()))
    assert bench.run_all(louder, shard_seconds=0) == ["succeeded"]
    assert seen[3] == [0, 2, 3, 4, 5, 6, 99], "what comes later is not judged yet"
    follower.assert_final(bench)


def test_retry_after_cancel_goes_on_with_the_stream(bench: Bench, recording: bytes) -> None:
    job_id = bench.add(recording)
    follower = Follower(bench.sessions, job_id)

    def cancel(index: int) -> None:
        if index == 9:
            follower.read()
            with bench.sessions.begin() as session:
                cancel_job(session, "public", job_id)
        elif index > 9:
            raise Died

    with pytest.raises(Died):
        bench.run_all(LiveNetwork(on_segment=cancel))
    assert follower.sent > 3
    with bench.sessions.begin() as session:
        retry_job(session, "public", job_id)
    bench.run_all(LiveNetwork(), shard_seconds=5)
    follower.assert_final(bench)
    assert follower.sent == SEGMENTS


@pytest.mark.parametrize("what", ["find", "publish", "plan"])
def test_failure_to_publish_does_not_disturb_the_attempt(
    bench: Bench, recording: bytes, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise OperationalError("SELECT", {}, Exception("database is gone"))

    if what == "find":
        monkeypatch.setattr(SettledNotes, "find", fail)
    elif what == "publish":
        monkeypatch.setattr(note_stream, "publish", fail)
    else:
        monkeypatch.setattr(note_stream, "plan_ending", _once(fail, note_stream.plan_ending))
    job_id = bench.add(recording)
    assert bench.run_all(LiveNetwork()) == ["succeeded"] * 6
    follower = Follower(bench.sessions, job_id)
    follower.assert_final(bench)


def test_publishing_pauses_after_a_failure_and_repeats_nothing(
    bench: Bench, recording: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the transaction was committed before it seemed to fail."""
    calls: list[int] = []

    def publish(session: Session, *arguments: Any) -> Any:
        calls.append(len(calls))
        added = real(session, *arguments)
        if len(calls) == 2:
            session.commit()
            raise OperationalError("COMMIT", {}, Exception("connection lost"))
        return added

    real = note_stream.publish
    monkeypatch.setattr(note_stream, "publish", publish)
    monkeypatch.setattr(live_notes, "FAILURE_SECONDS", 0.0)
    job_id = bench.add(recording)
    assert bench.run_all(LiveNetwork(), shard_seconds=0) == ["succeeded"]
    follower = Follower(bench.sessions, job_id)
    follower.assert_final(bench)
    assert follower.sent == SEGMENTS
    assert len(calls) > 5


def test_publishing_takes_a_small_share_of_the_time(
    bench: Bench, recording: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_notes, "SHARE", 0.05)
    now, published = count(), []

    class Slow(live_notes.LiveNotes):
        def _publish(self) -> None:
            published.append(next(now))

    bench.add(recording)
    claim = bench.worker(LiveNetwork())._claim(max_attempts=3)
    assert claim is not None
    model = OneModelEngine(LiveNetwork()).load("basic_pitch")
    live = Slow(bench.sessions, claim, model, clock=lambda: float(next(now)))
    for segment in range(200):
        live.feed([segment, 0, 0])
    assert 5 <= len(published) <= 10, "each takes 2 s of this clock, and each segment one"


@pytest.mark.parametrize(("estimates", "most"), [(False, 1.6), (True, 2.6)])
def test_basic_pitch_sends_notes_that_are_nearly_the_final_ones(
    bench: Bench, bach: Path, checkpoint_dir: Path, estimates: bool, most: float
) -> None:
    """Velocities and confidence are estimated in the end, when all notes are sent once more."""
    store = CheckpointStore(checkpoint_dir)
    engine = TranscriptionEngine(store, device="cpu", max_audio_seconds=3600, estimates=estimates)
    load_model("basic_pitch", store=store)
    job_id = bench.add(bach.read_bytes())
    bench.run_all(None, engine=engine, shard_seconds=10, estimates=estimates)
    follower = Follower(bench.sessions, job_id)
    follower.assert_final(bench)
    assert len(follower.notes) > 100
    assert follower.sent <= most * len(follower.notes)


def _once(failing: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    """Fail at the first call only."""
    functions: Iterator[Callable[..., Any]] = iter([failing])
    return lambda *arguments: next(functions, real)(*arguments)


def shuffle(bench: Bench, chance: random.Random) -> None:
    """Put the items that wait in another order."""
    with bench.sessions.begin() as session:
        waiting = WorkItem.status == WorkStatus.QUEUED
        for item_id in [item.id for item in session.query(WorkItem).where(waiting)]:
            at = now_plus(-chance.random())
            session.execute(update(WorkItem).where(WorkItem.id == item_id).values(served_at=at))


def expire_leases(bench: Bench) -> None:
    with bench.sessions.begin() as session:
        held = update(WorkItem).where(WorkItem.status == WorkStatus.PROCESSING)
        session.execute(held.values(lease_until=now_plus(-1)))
    assert rescue(bench.sessions, max_attempts=9)[0]
