"""Long recordings in shards: any workers may run them, and the result is the same as in one piece."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select, update
from uuid6 import uuid7

from checkpoints.progress import ProgressCallback
from checkpoints.store import CheckpointStore
from mt3_infer.audio import open_audio
from mt3_infer.audio.segments import Segment, SegmentGrid, split_segments
from mt3_infer.loading import load_model
from mt3_infer.model import Model
from mt3_infer.models import MODELS, ModelOptions
from mt3_infer.network import NetworkOutput
from mt3_infer.symbolic.notes import Note
from shared import jobs, work
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.errors import StorageUnavailable
from shared.jobs import NewJob
from shared.kinds import KINDS, SHARD, Claim
from shared.locks import DatabaseLock
from shared.queue import InMemoryQueue
from shared.storage import LocalStorage, make_storage, shard_prefix, upload_prefix
from shared.tables import Job, Phase, Status, WorkItem
from shared.watches import trust_all
from tests.recordings import tone, write
from tests.servers import wait_until
from tests.work import change_items, item, outcomes
from worker.context import Services
from worker.engine import TranscriptionEngine
from worker.runner import Outcome, Runner
from worker.scheduler import Scheduler
from worker.splitting import read_samples, split_samples
from worker.sweeper import Sweeper

ROOT = Path(__file__).parents[3]
MT3_WEIGHTS = Path(os.environ.get("MT3_TEST_WEIGHTS", ROOT.parent / "shared" / "weights")) / "mt3"
GRID = SegmentGrid(sample_rate=22050, hop=22050, length=26050, lead=2000, tail=1)


@dataclass
class FakeNetwork:
    """Returns each segment's index, loudness and, in order, the previous result; hooks may raise or block."""

    device: str = "cpu"
    grid: SegmentGrid = GRID
    in_order: bool = False
    on_segment: Callable[[int], None] = lambda index: None
    inferred: list[int] = field(default_factory=list)

    def infer(
        self, segments: Iterable[Segment], options: ModelOptions, *, previous: list[int] | None = None
    ) -> Generator[list[int]]:
        for segment in segments:
            self.on_segment(segment.index)
            self.inferred.append(segment.index)
            if self.in_order and segment.index:
                assert previous is not None
            loudness = float(np.abs(segment.waveform).sum())
            memory = previous[2] if self.in_order and previous else 0
            previous = [segment.index, segment.samples, (round(loudness * 1000) + 31 * memory) % 1_000_003]
            yield previous

    def collect(self, options: ModelOptions) -> FakeCollector:
        return FakeCollector()


class FakeCollector:
    """Makes a note of each segment, whose numbers are the network's result."""

    def __init__(self) -> None:
        self.results: list[list[int]] = []

    def feed(self, result: list[int]) -> None:
        assert result[0] == len(self.results), "segments come in order, each once"
        self.results.append(result)

    def finish(self, samples: int) -> NetworkOutput:
        notes = [
            Note(index, index + 1 + value / 1e7, value % 128, 1 + length % 127)
            for index, length, value in self.results
        ]
        return NetworkOutput(notes, {"samples": samples})


class OneModelEngine(TranscriptionEngine):
    """An engine with one model, which needs no weights."""

    def __init__(self, network: Any, *, max_audio_seconds: float = 3600, estimates: bool = True) -> None:
        store = CheckpointStore(Path("/nowhere"))
        super().__init__(store, device="cpu", max_audio_seconds=max_audio_seconds, estimates=estimates)
        self.model = Model(MODELS["basic_pitch"], network, "0" * 64, "Apache-2.0")

    def fetch(self, name: str, progress: ProgressCallback) -> None:
        pass

    def load(self, name: str, *, halvings: int = 0) -> Model:
        return self.model


@dataclass
class Bench:
    """A service without processes: tests run the steps of workers and scheduler."""

    settings: Settings
    sessions: Sessions
    storage: LocalStorage
    queue: InMemoryQueue = field(default_factory=InMemoryQueue)

    def add(self, recording: bytes, *, model: str = "basic_pitch") -> UUID:
        job_id = UUID(str(uuid7()))
        key = upload_prefix(job_id) + "audio"
        self.storage.put(key, io.BytesIO(recording), content_type="audio/wav")
        new = NewJob(job_id, "public", model, {}, {}, "song.wav", key, len(recording))
        return jobs.create_job(self.sessions, new)[0].id

    def worker(self, network: Any, *, name: str = "a", **changes: Any) -> Runner:
        engine = changes.pop("engine", None)
        stopping = changes.pop("stopping", threading.Event())
        settings = self.settings.model_copy(update=changes)
        engine = engine or OneModelEngine(network, estimates=settings.estimates)
        services = Services(
            settings=settings,
            sessions=self.sessions,
            storage=self.storage,
            engine=engine,
            queue=self.queue,
            worker=name,
            stopping=stopping,
        )
        return Runner(services)

    def job(self, job_id: UUID) -> Job:
        with self.sessions() as session:
            return jobs.get_job(session, "public", job_id)

    def run_all(self, network: Any, **changes: Any) -> list[str | None]:
        """Run items until nothing is due."""
        outcomes: list[str | None] = []
        while (outcome := self.worker(network, **changes).run_next()) is not None:
            outcomes.append(outcome)
        return outcomes

    def notes(self, job_id: UUID) -> bytes:
        """Return the notes in notes.json, without the provenance before them."""
        return self.notes_json(job_id).split(b"\n", 1)[1]

    def pedals(self, job_id: UUID) -> list[Any]:
        """Return the pedals in notes.json."""
        pedals: list[Any] = json.loads(self.notes_json(job_id))["pedals"]
        return pedals

    def grid(self, job_id: UUID) -> dict[str, Any]:
        """Return beats, bars, tempo, meter and key in notes.json."""
        content = json.loads(self.notes_json(job_id))
        return {name: content[name] for name in ("beats", "downbeats", "meter", "tempo_bpm", "key", "confidence")}

    def notes_json(self, job_id: UUID) -> bytes:
        keys = {artifact["name"]: artifact["key"] for artifact in self.job(job_id).artifacts}
        with self.storage.open(keys["notes.json"]) as file:
            return file.read()

    def attempts(self) -> list[int]:
        """Return the attempt number of each shard."""
        with self.sessions() as session:
            shards = select(WorkItem.attempt).where(WorkItem.kind == SHARD)
            return list(session.scalars(shards.order_by(WorkItem.number)))

    def objects(self, job_id: UUID) -> list[str]:
        return sorted(
            str(path.relative_to(self.storage.root)) for path in self.storage.root.rglob("*") if path.is_file()
        )

    def scheduler(self) -> Scheduler:
        unused: Any = {"queue": None, "redis": None}
        lock = DatabaseLock(self.sessions, "scheduler", holder="a", lease_seconds=60)
        return Scheduler(settings=self.settings, sessions=self.sessions, lock=lock, **unused)

    def sweeper(self, **changes: Any) -> Sweeper:
        lock = DatabaseLock(self.sessions, "sweeper", holder="a", lease_seconds=60)
        settings = self.settings.model_copy(update=changes)
        with self.sessions.begin() as session:
            trust_all(session)
        return Sweeper(settings=settings, sessions=self.sessions, storage=self.storage, lock=lock)


@pytest.fixture
def bench(settings: Settings, sessions: Sessions) -> Bench:
    settings = settings.model_copy(update={"shard_seconds": 3.0, "retry_seconds": 1e-9})
    storage = make_storage(settings)
    assert isinstance(storage, LocalStorage)
    return Bench(settings, sessions, storage)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return ten seconds of noise, without two equal segments."""
    noise = np.random.default_rng(7).uniform(-0.5, 0.5, 10 * 22050).astype(np.float32)
    return write(tmp_path_factory.mktemp("noise") / "noise.wav", noise, 22050).read_bytes()


@pytest.mark.parametrize("in_order", [False, True])
def test_notes_of_shards_equal_those_of_one_piece(bench: Bench, recording: bytes, in_order: bool) -> None:
    whole, sharded = bench.add(recording), bench.add(recording)
    assert bench.worker(FakeNetwork(in_order=in_order), shard_seconds=0).run_next() == "succeeded"
    network = FakeNetwork(in_order=in_order)
    assert bench.run_all(network) == ["succeeded"] * 6, "split, four shards, and the assembly"
    assert bench.notes(sharded) == bench.notes(whole)
    assert network.inferred == list(range(11))
    job = bench.job(sharded)
    assert (job.note_count, job.shards_total) == (11, 4)
    assert job.audio_seconds_total == pytest.approx(10.0)
    assert bench.job(whole).shards_total is None


def test_short_recording_is_transcribed_in_one_piece(bench: Bench, recording: bytes) -> None:
    bench.add(recording)
    assert bench.run_all(FakeNetwork(), shard_seconds=10) == ["succeeded"]


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    samples=st.integers(1, 400),
    hop=st.integers(5, 40),
    overlap=st.integers(0, 30),
    lead=st.integers(0, 5),
    tail=st.integers(0, 3),
    size=st.integers(1, 5),
    block=st.integers(1, 97),
)
def test_every_segment_of_every_shard_has_the_same_samples_as_in_one_piece(
    samples: int, hop: int, overlap: int, lead: int, tail: int, size: int, block: int
) -> None:
    grid = SegmentGrid(sample_rate=16, hop=hop, length=hop + overlap + lead, lead=lead, tail=tail)
    waveform = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    blocks = [waveform[start : start + block] for start in range(0, samples, block)]
    kept: list[bytes] = []

    def keep(number: int, file: BinaryIO) -> None:
        assert number == len(kept)
        kept.append(file.read())

    assert split_samples(iter(blocks), grid, size, keep) == samples
    count = grid.count(samples)
    segments = [
        segment
        for number, audio in enumerate(kept)
        for segment in split_segments(
            read_samples(io.BytesIO(audio), 16),
            grid,
            first=number * size,
            stop=min(number * size + size, count),
        )
    ]
    expected = list(split_segments(blocks, grid))
    assert [s.index for s in segments] == [s.index for s in expected]
    for one, other in zip(segments, expected, strict=True):
        assert one.samples == other.samples
        assert np.array_equal(one.waveform, other.waveform)


def test_basic_pitch_in_shards_gives_identical_bytes(bench: Bench, bach: Path, checkpoint_dir: Path) -> None:
    engine = TranscriptionEngine(CheckpointStore(checkpoint_dir), device="cpu", max_audio_seconds=3600)
    load_model("basic_pitch", store=CheckpointStore(checkpoint_dir))
    whole, sharded = bench.add(bach.read_bytes()), bench.add(bach.read_bytes())
    assert bench.worker(None, engine=engine, shard_seconds=0).run_next() == "succeeded"
    outcomes = bench.run_all(None, engine=engine, shard_seconds=5)
    assert outcomes == ["succeeded"] * 8, "split, six shards, and the assembly"
    assert bench.notes(sharded) == bench.notes(whole)
    assert bench.notes(whole).count(b"onset") > 100
    assert bench.grid(sharded) == bench.grid(whole)
    assert len(bench.grid(whole)["beats"]) > 20


def test_transkun_in_shards_gives_identical_bytes(bench: Bench, checkpoint_dir: Path) -> None:
    """Each shard has one window, which overlaps the next; notes and pedals go on from one to the other."""
    recording = (ROOT / "tests" / "parity" / "data" / "piano_joplin.mp3").read_bytes()
    engine = TranscriptionEngine(CheckpointStore(checkpoint_dir), device="cpu", max_audio_seconds=3600)
    load_model("transkun", store=CheckpointStore(checkpoint_dir))
    whole, sharded = (bench.add(recording, model="transkun") for _ in range(2))
    assert bench.worker(None, engine=engine, shard_seconds=0).run_next() == "succeeded"
    outcomes = bench.run_all(None, engine=engine, shard_seconds=5)
    assert outcomes == ["succeeded"] * 5, "split, three shards, and the assembly"
    assert bench.notes(sharded) == bench.notes(whole)
    assert bench.notes(whole).count(b"onset") > 100
    assert bench.pedals(sharded) == bench.pedals(whole)
    assert len(bench.pedals(whole)) > 10


@pytest.mark.weights
@pytest.mark.skipif(not MT3_WEIGHTS.exists(), reason=f"no published weights in {MT3_WEIGHTS}")
def test_mt3_in_shards_gives_identical_bytes(bench: Bench, bach: Path, tmp_path: Path) -> None:
    with open_audio(bach, sample_rate=16000) as audio:
        waveform = np.concatenate(list(audio))[: 9 * 16000]
    recording = write(tmp_path / "nine_seconds.flac", waveform, 16000, "flac").read_bytes()
    engine = OneModelEngine(load_model("mt3_pytorch", checkpoint_path=MT3_WEIGHTS, device="cpu").network)
    engine.model = Model(MODELS["mt3_pytorch"], engine.model.network, "0" * 64, "Apache-2.0")
    whole, sharded = (bench.add(recording, model="mt3_pytorch") for _ in range(2))
    assert bench.worker(None, engine=engine, shard_seconds=0).run_next() == "succeeded"
    outcomes = bench.run_all(None, engine=engine, shard_seconds=5)
    assert outcomes == ["succeeded"] * 5, "split, three shards, and the assembly"
    assert bench.notes(sharded) == bench.notes(whole)
    assert bench.notes(whole).count(b"onset") > 20


def test_two_workers_share_a_recording(bench: Bench, recording: bytes) -> None:
    bench.add(recording)
    both = threading.Barrier(2, timeout=60)
    assert bench.worker(FakeNetwork()).run_next() == "succeeded"

    def meet(index: int) -> None:
        if index in (0, 3):  # the first segments of two shards: each waits for the other
            both.wait()

    outcomes: list[str | None] = []
    threads = [
        threading.Thread(
            target=lambda name=name: outcomes.extend(bench.run_all(FakeNetwork(on_segment=meet), name=name))
        )
        for name in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["succeeded"] * 5


def test_only_the_shard_of_a_dead_worker_is_repeated(bench: Bench, recording: bytes) -> None:
    whole, job_id = bench.add(recording), bench.add(recording)
    bench.worker(FakeNetwork(), shard_seconds=0).run_next()
    assert bench.worker(FakeNetwork()).run_next() == "succeeded"
    assert bench.worker(FakeNetwork()).run_next() == "succeeded"

    def die(index: int) -> None:
        if index == 4:
            raise SystemExit  # the thread dies: nothing is caught, nothing is written

    with pytest.raises(SystemExit):
        bench.worker(FakeNetwork(on_segment=die)).run_next()
    with bench.sessions.begin() as session:
        session.execute(update(WorkItem).where(WorkItem.number == 1).values(lease_until=now_plus(-1)))
    bench.scheduler().rescue()
    assert bench.run_all(FakeNetwork()) == ["succeeded"] * 4
    assert bench.attempts() == [1, 2, 1, 1]
    assert bench.notes(job_id) == bench.notes(whole)


def test_resumed_worker_finds_its_shard_claimed_by_another(
    bench: Bench, recording: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, other = bench.add(recording), []
    bench.worker(FakeNetwork()).run_next()
    monkeypatch.setattr("shared.work.renew", lambda *_, **__: True)  # its heartbeat stops

    def pause(index: int) -> None:
        if index == 2:
            monkeypatch.undo()
            with bench.sessions.begin() as session:
                session.execute(update(WorkItem).where(WorkItem.kind == SHARD).values(lease_until=now_plus(-1)))
            bench.scheduler().rescue()
            other.extend(bench.run_all(FakeNetwork(), name="b"))

    assert bench.worker(FakeNetwork(on_segment=pause)).run_next() == "lost"
    assert other == ["succeeded"] * 5
    assert bench.job(job_id).status is Status.SUCCEEDED
    assert not [key for key in bench.objects(job_id) if "/1/0/1/" in key], "what the late worker stored is removed"


def test_wake_message_drains_all_due_items(bench: Bench, recording: bytes) -> None:
    """One announcement is enough for all due items, and for those that they enqueue."""
    ids = [bench.add(recording) for _ in range(3)]
    bench.worker(FakeNetwork()).drain()
    assert [bench.job(job_id).status for job_id in ids] == [Status.SUCCEEDED] * 3
    bench.worker(FakeNetwork()).drain()


def test_stopping_worker_claims_nothing_more(bench: Bench, recording: bytes) -> None:
    stopping = threading.Event()
    first, second = bench.add(recording), bench.add(recording)
    network = FakeNetwork(on_segment=lambda index: stopping.set() if index == 10 else None)
    bench.worker(network, stopping=stopping, shard_seconds=0).drain()
    states = [bench.job(job_id).status for job_id in (first, second)]
    assert states == [Status.QUEUED, Status.QUEUED]


def test_cancel_stops_a_shard(bench: Bench, recording: bytes) -> None:
    job_id, stopped = bench.add(recording), threading.Event()
    bench.worker(FakeNetwork()).run_next()

    def cancel(index: int) -> None:
        if index == 0:
            with bench.sessions.begin() as session:
                jobs.cancel_job(session, "public", job_id)
        else:
            stopped.wait(0.2)  # segments continue until the heartbeat notices

    network = FakeNetwork(on_segment=cancel, grid=SegmentGrid(22050, 2205, 2205))
    assert bench.worker(network).run_next() == "lost"
    assert len(network.inferred) < 30
    job = bench.job(job_id)
    assert (job.status, job.shards_total) == (Status.CANCELED, None)


def test_stopping_worker_releases_its_shard_uncounted(bench: Bench, recording: bytes) -> None:
    bench.add(recording)
    stopping = threading.Event()
    bench.worker(FakeNetwork()).run_next()
    network = FakeNetwork(on_segment=lambda index: stopping.set() if index == 1 else None)
    assert bench.worker(network, stopping=stopping).run_next() == "released"
    with bench.sessions() as session:
        counted = select(WorkItem.attempts_counted).where(WorkItem.kind == SHARD)
        assert session.scalars(counted).all() == [0, 0, 0, 0]
    assert bench.run_all(FakeNetwork())[-1] == "succeeded"
    assert bench.attempts() == [2, 1, 1, 1]


def test_worker_that_stops_while_splitting_leaves_nothing(bench: Bench, recording: bytes) -> None:
    job_id, stopping = bench.add(recording), threading.Event()
    worker = bench.worker(FakeNetwork(), stopping=stopping)
    put = bench.storage.put

    def put_and_stop(*arguments: Any, **named: Any) -> Any:
        stopping.set()
        return put(*arguments, **named)

    bench.storage.put = put_and_stop  # type: ignore[method-assign]
    assert worker.run_next() == "released"
    assert bench.objects(job_id) == [f"uploads/{job_id}/audio"]
    assert bench.job(job_id).status is Status.QUEUED
    assert item(bench.sessions, job_id).attempts_counted == 0


def test_a_shard_that_always_fails_fails_the_job_and_retry_keeps_the_others(
    bench: Bench, recording: bytes
) -> None:
    job_id = bench.add(recording)

    def fail(index: int) -> None:
        if index == 4:
            raise ZeroDivisionError

    outcomes = bench.run_all(FakeNetwork(on_segment=fail))
    job = bench.job(job_id)
    assert (job.status, job.error_code) == (Status.FAILED, "internal_error")
    assert outcomes.count("failed") == bench.settings.max_attempts
    before = bench.attempts()
    with bench.sessions.begin() as session:
        jobs.retry_job(session, "public", job_id)
    assert bench.run_all(FakeNetwork())[-1] == "succeeded"
    done = [number for number, attempt in enumerate(before) if attempt == 1]
    assert all(bench.attempts()[number] == 1 for number in done)
    assert len(done) >= 1
    assert bench.attempts()[1] == bench.settings.max_attempts + 1


def test_failed_assembly_is_retried_without_repeating_a_shard(
    bench: Bench, recording: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, network = bench.add(recording), FakeNetwork()

    def fail(*_: Any) -> None:
        raise StorageUnavailable("Storage does not answer.")

    monkeypatch.setattr("worker.handlers.assemble.store_results", fail)
    assert bench.worker(network).run_next() == "succeeded"
    assert [bench.worker(network).run_next() for _ in range(5)] == ["succeeded"] * 4 + ["failed"]
    monkeypatch.undo()
    assert bench.run_all(network) == ["succeeded"]
    assert network.inferred == list(range(11))
    assert outcomes(bench.sessions, job_id)[5:] == ["failed", "succeeded"]


def test_shards_are_removed_when_the_job_has_ended(bench: Bench, recording: bytes) -> None:
    done, gone = bench.add(recording), bench.add(recording)
    while bench.job(done).status is not Status.SUCCEEDED:
        bench.worker(FakeNetwork()).run_next()
    with bench.sessions.begin() as session:
        jobs.delete_job(session, "public", gone)
    bench.sweeper(lease_seconds=-30.0).remove_garbage()
    assert [key.split("/")[0] for key in bench.objects(done)] == ["results", "results", "uploads"]
    assert not [key for key in bench.objects(gone) if str(gone) in key]


def test_only_unneeded_shards_are_orphans(bench: Bench, recording: bytes) -> None:
    job_id = bench.add(recording)
    bench.worker(FakeNetwork()).run_next()
    in_use = bench.objects(job_id)
    lost = shard_prefix(job_id, 9, 0) + "audio", shard_prefix(uuid4(), 1, 0) + "audio"
    for key in lost:
        bench.storage.put(key, io.BytesIO(b"x"), content_type="application/octet-stream")
    bench.sweeper(orphan_hours=24.0).remove_orphans()
    assert set(bench.objects(job_id)) == {*in_use, *lost}, "they are young"
    bench.sweeper(orphan_hours=-24.0).remove_orphans()
    assert bench.objects(job_id) == in_use


@pytest.mark.parametrize(
    ("waveform", "changes", "code"),
    [
        (np.zeros(10 * 22050, np.float32), {}, "silent_audio"),
        (tone(10), {"engine": OneModelEngine(FakeNetwork(), max_audio_seconds=8)}, "audio_too_long"),
    ],
)
def test_limits_apply_while_a_recording_is_split(
    bench: Bench, tmp_path: Path, waveform: np.ndarray[Any, Any], changes: dict[str, Any], code: str
) -> None:
    job_id = bench.add(write(tmp_path / "r.wav", waveform, 22050).read_bytes())
    assert bench.run_all(FakeNetwork(), **changes) == ["failed"]
    job = bench.job(job_id)
    assert (job.status, job.error_code, job.shards_total) == (Status.FAILED, code, None)
    assert bench.objects(job_id) == [f"uploads/{job_id}/audio"]


def test_short_recording_without_a_length_in_its_header_is_one_shard(
    bench: Bench, recording: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, opened = bench.add(recording), TranscriptionEngine.open

    def open_without_length(*arguments: Any) -> Any:
        audio = opened(*arguments)
        audio.duration = None
        return audio

    monkeypatch.setattr(TranscriptionEngine, "open", open_without_length)
    assert bench.run_all(FakeNetwork(), shard_seconds=60) == ["succeeded"] * 3
    assert bench.job(job_id).shards_total == 1


def test_progress_while_splitting_is_seconds_decoded(bench: Bench, recording: bytes) -> None:
    job_id, seen = bench.add(recording), []
    worker = bench.worker(FakeNetwork())
    put = bench.storage.put

    def look(*arguments: Any, **named: Any) -> Any:
        wait_until(lambda: bench.job(job_id).audio_seconds_done > 0, what="progress")
        job = bench.job(job_id)
        seen.append((job.phase, job.audio_seconds_total))
        return put(*arguments, **named)

    bench.storage.put = look  # type: ignore[method-assign]
    assert worker.run_next() == "succeeded"
    assert {phase for phase, _ in seen} == {Phase.DECODING_AUDIO}
    assert seen[0][1] == pytest.approx(10.0)


@pytest.mark.parametrize("kind", list(KINDS))
def test_commit_that_only_seemed_to_fail_loses_nothing(
    bench: Bench, recording: bytes, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    job_id, sessions = bench.add(recording), bench.sessions
    complete = work.complete

    def complete_twice(session: Any, held: Claim, **what: Any) -> bool:
        """Complete the item twice, like a worker that retries after the connection broke during COMMIT."""
        if held.kind == kind:
            with sessions.begin() as other:
                complete(other, held, **what)
        return complete(session, held, **what)

    monkeypatch.setattr(work, "complete", complete_twice)
    assert bench.run_all(FakeNetwork()) == ["succeeded"] * 6
    assert bench.attempts() == [1, 1, 1, 1]
    assert bench.job(job_id).status is Status.SUCCEEDED
    assert len([key for key in bench.objects(job_id) if key.startswith("results/")]) == 2


@pytest.mark.parametrize("in_order", [False, True])
def test_shards_are_announced_as_soon_as_they_can_be_claimed(
    bench: Bench, recording: bytes, in_order: bool
) -> None:
    bench.add(recording)
    network, announced = FakeNetwork(in_order=in_order), []
    while bench.worker(network).run_next() is not None:
        announced.append(bench.queue.notified)
    assert announced == ([1] * 6 if in_order else [4] * 6), "a worker goes on with what it has unblocked"


def test_only_one_of_several_long_recordings_is_split_at_a_time(bench: Bench, recording: bytes) -> None:
    long = [bench.add(recording) for _ in range(3)]
    worker, outcomes, cut = bench.worker(FakeNetwork()), [], []
    while (outcome := worker.run_next()) is not None:
        outcomes.append(outcome)
        keys = bench.storage.list_objects("shards/")
        cut.append(len({entry.key.split("/")[1] for entry in keys if entry.key.endswith("/audio")}))
        bench.sweeper(lease_seconds=0).remove_garbage()
    assert [o for o in outcomes if o is not Outcome.DEFERRED] == ["succeeded"] * 18
    assert outcomes.count(Outcome.DEFERRED) == 2, "each is opened once to see that it is long"
    assert max(cut) == 1
    jobs_done = [bench.job(job_id) for job_id in long]
    assert [(job.status, job.attempts) for job in jobs_done] == [(Status.SUCCEEDED, 1)] * 3
    ended = [job.finished_at for job in jobs_done if job.finished_at]
    assert ended == sorted(ended), "in the order in which they came"
    assert bench.objects(long[1])


@pytest.fixture
def at_every_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for short jobs at every segment, and run them however long they take."""
    monkeypatch.setattr("worker.preemption.WAIT_SECONDS", 0)
    monkeypatch.setattr("worker.preemption.SHARE", 1e9)


def make_due_long_ago(bench: Bench, *job_ids: UUID) -> None:
    with bench.sessions.begin() as session:
        session.execute(update(WorkItem).where(WorkItem.job_id.in_(job_ids)).values(run_after=now_plus(-60)))


@pytest.mark.usefixtures("at_every_segment")
def test_waiting_short_job_preempts_a_shard(bench: Bench, recording: bytes, tmp_path: Path) -> None:
    """One worker runs a shard of nine segments when two short jobs arrive."""
    clip = write(tmp_path / "clip.wav", tone(1), 22050).read_bytes()
    alone = bench.add(recording)
    bench.run_all(FakeNetwork(), shard_seconds=0)
    long = bench.add(recording)
    added: list[UUID] = []
    done_before: list[list[Status]] = []

    def on_segment(index: int) -> None:
        if index == 4 and not added:
            added.extend([bench.add(clip), bench.add(clip)])
            make_due_long_ago(bench, *added)
        if index == 6:
            done_before.append([bench.job(job_id).status for job_id in added])

    network = FakeNetwork(on_segment=on_segment)
    assert bench.run_all(network, shard_seconds=9.9) == ["succeeded"] * 4
    assert done_before == [[Status.SUCCEEDED, Status.SUCCEEDED]]
    assert bench.notes(long) == bench.notes(alone), "the long one goes on where it was"
    assert bench.attempts() == [1, 1]


@pytest.mark.usefixtures("at_every_segment")
def test_long_recording_is_not_split_while_it_preempts_a_shard(bench: Bench, recording: bytes) -> None:
    first, second = bench.add(recording), bench.add(recording)
    make_due_long_ago(bench, first, second)
    worker = bench.worker(FakeNetwork(), shard_seconds=9.9)
    assert worker.run_next() == "succeeded"
    assert item(bench.sessions, second).is_long
    assert (bench.job(second).status, bench.job(second).shards_total) == (Status.QUEUED, None)
    bench.run_all(FakeNetwork(), shard_seconds=9.9)
    assert bench.job(first).status is Status.SUCCEEDED
    assert bench.job(second).status is Status.SUCCEEDED


@pytest.mark.usefixtures("at_every_segment")
def test_preempting_job_that_fails_does_not_affect_the_shard(
    bench: Bench, recording: bytes, tmp_path: Path
) -> None:
    bench.add(recording)
    text = bench.add(b"This is a text.")
    make_due_long_ago(bench, text)
    assert bench.run_all(FakeNetwork(), shard_seconds=9.9)[-1] == "succeeded"
    failed = bench.job(text)
    assert (failed.status, failed.error_code) == (Status.FAILED, "undecodable_audio")


@pytest.mark.usefixtures("at_every_segment")
def test_retried_job_does_not_preempt_a_shard(bench: Bench, recording: bytes, tmp_path: Path) -> None:
    """It may have killed its worker: the shard would use up its attempts with it."""
    clip = write(tmp_path / "clip.wav", tone(1), 22050).read_bytes()
    long, tried = bench.add(recording), bench.add(clip)
    worker = bench.worker(FakeNetwork(), shard_seconds=9.9)
    change_items(bench.sessions, tried, run_after=now_plus(60))
    assert worker.run_next() == "succeeded"
    change_items(bench.sessions, tried, run_after=now_plus(-60), attempts_counted=1, served_at=now_plus())
    assert worker.run_next() == "succeeded"
    assert bench.job(tried).status is Status.QUEUED
    bench.run_all(FakeNetwork(), shard_seconds=9.9)
    assert {bench.job(job_id).status for job_id in (long, tried)} == {Status.SUCCEEDED}


@pytest.mark.usefixtures("at_every_segment")
def test_progress_of_a_preempting_job_counts_for_the_shard(bench: Bench, recording: bytes) -> None:
    """Both the lease and the time of the last progress are renewed, so that the shard is not rescued."""
    long, short = bench.add(recording), bench.add(recording)
    seen: list[bool] = []

    def on_segment(index: int) -> None:
        if index == 0:
            with bench.sessions.begin() as session:
                session.execute(update(WorkItem).values(progress_at=now_plus(-600)))
            change_items(bench.sessions, short, run_after=now_plus(-60))
        if index == 10 and not seen:  # the short job's last one
            wait_until(lambda: bool(moved()), what="the shard's movement")
            seen.append(True)

    def moved() -> bool:
        with bench.sessions() as session:
            recent = select(WorkItem.id).where(WorkItem.kind == SHARD, WorkItem.progress_at > now_plus(-60))
            return session.scalar(recent) is not None

    network = FakeNetwork(on_segment=on_segment)
    change_items(bench.sessions, short, run_after=now_plus(60))
    worker = bench.worker(network, shard_seconds=9.9)
    assert worker.run_next() == "succeeded"
    worker = bench.worker(network, shard_seconds=0)
    while worker.run_next() is not None:
        pass
    assert seen == [True]
    assert {bench.job(job_id).status for job_id in (long, short)} == {Status.SUCCEEDED}


def test_short_jobs_overtake_the_long_one_that_came_before_them(
    bench: Bench, recording: bytes, tmp_path: Path
) -> None:
    """Order of completion with one worker: ten short jobs behind a long one of eleven shards."""
    bench.add(recording)
    second = write(tmp_path / "second.wav", tone(1), 22050).read_bytes()
    worker = bench.worker(FakeNetwork(), shard_seconds=1)
    assert worker.run_next() == "succeeded"
    short = [bench.add(second) for _ in range(10)]
    assert worker.run_next() == "succeeded", "it was served before they came"
    assert [worker.run_next() for _ in range(10)] == ["succeeded"] * 10
    assert all(bench.job(job_id).status is Status.SUCCEEDED for job_id in short)
    assert bench.run_all(FakeNetwork(), shard_seconds=1)[-1] == "succeeded"
