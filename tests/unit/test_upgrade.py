"""A database of the previous release with jobs in every state is upgraded in place, and each job ends correctly.

The rows are those that the earlier code left: jobs and shards that workers claimed themselves.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from uuid6 import uuid7

from migrations import upgrade
from mt3_infer.symbolic.results import pack
from shared import jobs, work
from shared.config import Settings
from shared.db import Sessions, make_engine, make_sessions
from shared.kinds import ASSEMBLE, SHARD, TRANSCRIBE
from shared.progress import shards_progress
from shared.storage import LocalStorage, make_storage, shard_prefix
from shared.tables import Status
from tests.recordings import write
from tests.unit.test_migrations import empty  # noqa: F401 - a fixture
from tests.unit.worker.test_long_recordings import Bench, FakeNetwork
from tests.work import claim, item, states

BEFORE = "0008"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime.now(UTC) + timedelta(hours=1)
SECONDS = 10.0

TIMES = ("run_after", "served_at", "created_at", "started_at", "finished_at", "lease_until")
OLD_JOBS = sa.table(
    "jobs",
    sa.column("id", sa.Uuid()),
    *[sa.column(name) for name in ("owner", "status", "model", "upload_key", "upload_bytes", "worker", "phase")],
    *[sa.column(name) for name in ("error_code", "error_detail", "attempt", "attempts_charged", "planned_by")],
    *[sa.column(name) for name in ("samples", "shards_total", "shards_done", "continuations", "note_count")],
    *[sa.column(name, sa.JSON()) for name in ("options", "client_metadata", "artifacts")],
    *[sa.column(name, sa.Double()) for name in ("audio_seconds_done", "audio_seconds_total")],
    *[sa.column(name, sa.DateTime(timezone=True)) for name in TIMES],
    sa.column("is_long", sa.Boolean()),
)
OLD_SHARDS = sa.table(
    "shards",
    sa.column("job_id", sa.Uuid()),
    *[sa.column(name) for name in ("number", "first", "stop", "status", "attempt", "attempts_charged", "worker")],
    *[sa.column(name) for name in ("audio_key", "result_key", "error_code", "error_detail")],
    *[sa.column(name, sa.Double()) for name in ("seconds", "seconds_done")],
    *[sa.column(name, sa.DateTime(timezone=True)) for name in TIMES if name not in ("created_at", "served_at")],
)
OLD_ATTEMPTS = sa.table(
    "attempts",
    sa.column("job_id", sa.Uuid()),
    *[sa.column(name) for name in ("number", "worker", "outcome", "error_code", "error_detail")],
    *[sa.column(name, sa.DateTime(timezone=True)) for name in ("started_at", "finished_at")],
)


@pytest.fixture
def old(empty: Settings) -> Iterator[Engine]:  # noqa: F811
    """Return a database as the previous release has it."""
    upgrade(empty, BEFORE)
    engine = make_engine(empty)
    yield engine
    engine.dispose()


@dataclass
class OldService:
    """Writes rows and files as the previous release did."""

    engine: Engine
    bench: Bench
    recording: bytes
    reference: list[tuple[bytes, bytes]] = field(default_factory=list)  # for each shard: its input and its results

    def add(self, status: str, *, outcomes: tuple[str | None, ...] = (), **values: Any) -> UUID:
        job_id = UUID(str(uuid7()))
        key = f"uploads/{job_id}/audio"
        self.bench.storage.put(key, io.BytesIO(self.recording), content_type="audio/wav")
        row = {
            "id": job_id,
            "owner": "public",
            "status": status,
            "model": "basic_pitch",
            "options": {},
            "client_metadata": {},
            "artifacts": [],
            "upload_key": key,
            "upload_bytes": len(self.recording),
            "attempt": len(outcomes),
            "attempts_charged": len(outcomes),
            "continuations": 0,
            "audio_seconds_done": 0.0,
            "run_after": NOW,
            "created_at": NOW,
            "is_long": False,
        }
        with self.engine.begin() as connection:
            connection.execute(sa.insert(OLD_JOBS).values(row | values))
            for number, outcome in enumerate(outcomes, start=1):
                ended = {"outcome": outcome, "finished_at": None if outcome is None else NOW}
                attempt = {"job_id": job_id, "number": number, "worker": "old", "started_at": NOW}
                connection.execute(sa.insert(OLD_ATTEMPTS).values(attempt | ended))
        return job_id

    def split(self, job_id: UUID, shard_states: list[str], *, attempt: int = 1, **values: Any) -> UUID:
        """Split an existing job, and leave its shards in these states."""
        split = {
            "planned_by": attempt,
            "samples": 220500,
            "shards_total": len(shard_states),
            "shards_done": shard_states.count("succeeded"),
            "audio_seconds_total": SECONDS,
        }
        with self.engine.begin() as connection:
            changed = sa.update(OLD_JOBS).where(OLD_JOBS.c.id == job_id)
            connection.execute(changed.values(split | values))
            for number, state in enumerate(shard_states):
                connection.execute(sa.insert(OLD_SHARDS).values(self._shard(job_id, attempt, number, state)))
        return job_id

    def _shard(self, job_id: UUID, attempt: int, number: int, state: str) -> dict[str, Any]:
        audio, results = self.reference[number]
        prefix = shard_prefix(job_id, attempt, number)
        self.bench.storage.put(prefix + "audio", io.BytesIO(audio), content_type="x/y")
        is_done = state == "succeeded"
        if is_done:
            self.bench.storage.put(prefix + "1/results", io.BytesIO(results), content_type="x/y")
        tried = int(state not in ("waiting", "queued"))
        return {
            "job_id": job_id,
            "number": number,
            "first": 3 * number,
            "stop": min(3 * number + 3, 11),
            "seconds": min(3.0, SECONDS - 3 * number),
            "seconds_done": 0.0,
            "status": state,
            "audio_key": prefix + "audio",
            "result_key": prefix + "1/results" if is_done else None,
            "attempt": tried,
            "attempts_charged": 3 * tried if state == "failed" else tried,
            "worker": "old" if state == "processing" else None,
            "lease_until": LATER if state == "processing" else None,
            "run_after": NOW,
            "started_at": NOW if tried else None,
            "finished_at": NOW if is_done else None,
            "error_code": "internal_error" if state == "failed" else None,
        }


@pytest.fixture
def service(settings: Settings, sessions: Sessions, old: Engine, tmp_path: Any) -> OldService:
    settings = settings.model_copy(update={"shard_seconds": 3.0, "retry_seconds": 1e-9})
    storage = make_storage(settings)
    assert isinstance(storage, LocalStorage)
    noise = np.random.default_rng(7).uniform(-0.5, 0.5, round(SECONDS * 22050)).astype(np.float32)
    recording = write(tmp_path / "noise.wav", noise, 22050).read_bytes()
    service = OldService(old, Bench(settings, make_sessions(old), storage), recording)
    service.reference = list(reference(Bench(settings, sessions, storage), recording))
    return service


def reference(bench: Bench, recording: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Return what this release stores for each shard, from a separate database; the previous one did the same."""
    job_id = bench.add(recording)
    for _ in range(5):
        bench.worker(FakeNetwork()).run_next()
    with bench.sessions() as session:
        shards = work.list_items(session, job_id, SHARD)
    for shard in shards:
        assert shard.input_key is not None
        assert shard.result_key is not None
        with bench.storage.open(shard.input_key) as audio, bench.storage.open(shard.result_key) as results:
            yield audio.read(), results.read()


def test_every_job_of_the_previous_release_ends_correctly(service: OldService) -> None:
    bench, add, split = service.bench, service.add, service.split
    lost = {"worker": "old", "lease_until": LATER}
    waiting = {
        "queued": add("queued"),
        "tried": add("queued", outcomes=("lost", "failed"), error_code="internal_error"),
        "running, at its last attempt": add("processing", outcomes=("lost", "lost", None), **lost),
        "held back": add("queued", outcomes=("held_back",), attempts_charged=0, continuations=1, is_long=True),
        "in shards": split(
            add("processing", outcomes=("handed_over",), attempts_charged=0),
            ["succeeded", "processing", "queued", "queued"],
        ),
        "being assembled": split(
            add("processing", outcomes=("handed_over", "lost", None), attempts_charged=2, continuations=1, **lost),
            ["succeeded"] * 4,
        ),
        "retried in shards": split(
            add("queued", outcomes=("handed_over",), attempts_charged=0),
            ["succeeded", "queued", "succeeded", "queued"],
        ),
        "claimed after a retry": split(
            add("processing", outcomes=("lost", "handed_over", None), attempts_charged=1, **lost),
            ["succeeded", "queued", "succeeded", "queued"],
            attempt=2,
        ),
    }
    ended = {
        "failed": add("failed", outcomes=("failed",), error_code="undecodable_audio", finished_at=NOW),
        "canceled": add("canceled", outcomes=("canceled",), finished_at=NOW),
        "failed in shards": split(
            add("failed", outcomes=("handed_over",), error_code="internal_error", finished_at=NOW),
            ["succeeded", "failed", "queued", "queued"],
        ),
        "failed at its assembly": split(
            add("failed", outcomes=("handed_over", "failed"), continuations=1, finished_at=NOW),
            ["succeeded"] * 4,
        ),
    }
    artifacts = [{"name": "notes.json", "key": "results/x/2/notes.json"}]
    succeeded = add("succeeded", outcomes=("handed_over", "succeeded"), continuations=1, artifacts=artifacts)
    split(succeeded, ["succeeded"] * 4)

    upgrade(settings_of(service))
    assert {name: bench.job(job_id).status for name, job_id in ended.items()} == {
        "failed": Status.FAILED,
        "canceled": Status.CANCELED,
        "failed in shards": Status.FAILED,
        "failed at its assembly": Status.FAILED,
    }
    assert bench.job(succeeded).artifacts == artifacts
    assert bench.job(succeeded).attempts == 1
    assert states(bench.sessions, succeeded) == [("succeeded", 1)] * 4
    with bench.sessions() as session:
        progress = shards_progress(session, [bench.job(succeeded)], NOW)[succeeded]
        assert (progress.done, progress.total, progress.seconds_done) == (4, 4, SECONDS)
    assert item(bench.sessions, waiting["running, at its last attempt"]).attempts_counted == 2
    assert item(bench.sessions, waiting["held back"]).is_long

    bench.sweeper(orphan_hours=-24.0).remove_orphans()
    network = FakeNetwork()
    bench.worker(network).drain()
    assert {name: bench.job(job_id).status for name, job_id in waiting.items()} == dict.fromkeys(
        waiting, Status.SUCCEEDED
    )
    whole, long = 11, {"in shards": 8, "being assembled": 0, "retried in shards": 5, "claimed after a retry": 5}
    assert len(network.inferred) == 4 * whole + sum(long.values()), "finished shards are not read again"
    for job_id in ended.values():
        with bench.sessions.begin() as session:
            jobs.retry_job(session, "public", job_id)
    bench.worker(network).drain()
    every = waiting | ended
    assert {bench.job(job_id).status for job_id in every.values()} == {Status.SUCCEEDED}
    split_before = {*long, "failed in shards", "failed at its assembly"}
    for names in (split_before, every.keys() - split_before):
        assert len({bench.notes(every[name]) for name in names}) == 1, "as if nothing had happened"
    assert b'"confidence": null' in bench.notes(waiting["in shards"]), "its first shard recorded no evidence"
    assert b'"confidence": null' not in bench.notes(waiting["queued"])


def test_in_order_shards_of_the_previous_release_continue_in_order(service: OldService) -> None:
    bench = service.bench
    service.reference = [(audio, pack([[3 * n + 2, 0, n]])) for n, (audio, _) in enumerate(service.reference)]
    job_id = service.split(
        service.add("processing", outcomes=("handed_over",), attempts_charged=0),
        ["succeeded", "queued", "waiting", "waiting"],
    )
    upgrade(settings_of(service))
    sessions = bench.sessions
    assert claim(sessions, job_id, SHARD, 2) is None
    assert claim(sessions, job_id, TRANSCRIBE) is None
    assert claim(sessions, job_id, ASSEMBLE) is None
    network = FakeNetwork(in_order=True)
    assert [bench.worker(network).run_next() for _ in range(3)] == ["succeeded"] * 3
    assert network.inferred == list(range(3, 11))


def settings_of(service: OldService) -> Settings:
    url = service.engine.url.render_as_string(hide_password=False)
    return service.bench.settings.model_copy(update={"database_url": url})
