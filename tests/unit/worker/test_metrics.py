"""Metrics of workers and schedulers: what is counted, and that it never stops the work."""

from __future__ import annotations

import io
import socket
import threading
import urllib.request
from pathlib import Path

from prometheus_client import REGISTRY

from checkpoints.errors import OfflineError
from checkpoints.progress import FetchProgress, ProgressCallback
from mt3_infer.inference.engine import Engine, Occupancy, Request, SingleStep, occupancy_of
from shared.config import Settings
from shared.db import Sessions
from shared.metrics import serve_metrics
from shared.queue import InMemoryQueue
from shared.storage import make_storage
from tests.fakes import FakeEngine
from tests.servers import free_port
from tests.work import add_job, must_claim
from worker.context import Services
from worker.metrics import EngineCollector, measure_fetch
from worker.runner import Runner
from worker.scheduler_metrics import QueueCollector


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def run_one(settings: Settings, sessions: Sessions, engine: FakeEngine) -> None:
    storage = make_storage(settings)
    job_id = add_job(sessions)
    storage.put(f"uploads/{job_id}/audio", io.BytesIO(b"sound"), content_type="audio/wav")
    services = Services(
        settings=settings,
        sessions=sessions,
        storage=storage,
        engine=engine.as_engine(),
        queue=InMemoryQueue(),
        worker="host:1",
        stopping=threading.Event(),
    )
    assert Runner(services).run_next() is not None


def test_attempts_are_counted_by_outcome_and_code(settings: Settings, sessions: Sessions) -> None:
    def refuse() -> None:
        raise OfflineError("No weights.")

    succeeded = {"kind": "transcribe", "outcome": "succeeded", "code": ""}
    failed = {"kind": "transcribe", "outcome": "failed", "code": OfflineError.code}
    before = value("mt3_attempts_total", **succeeded), value("mt3_attempts_total", **failed)
    run_one(settings, sessions, FakeEngine())
    run_one(settings, sessions, FakeEngine(on_fetch=refuse))
    assert (value("mt3_attempts_total", **succeeded), value("mt3_attempts_total", **failed)) == (
        before[0] + 1,
        before[1] + 1,
    )
    assert value("mt3_items_in_hand", kind="transcribe") == 0
    assert value("mt3_attempt_seconds_count", kind="transcribe") >= 2


def test_speed_is_counted_by_model_and_device(settings: Settings, sessions: Sessions) -> None:
    before = value("mt3_audio_seconds_total", model="basic_pitch", device="cpu")
    run_one(settings, sessions, FakeEngine())
    assert value("mt3_audio_seconds_total", model="basic_pitch", device="cpu") == before + 2.0
    assert value("mt3_realtime_factor", model="basic_pitch", device="cpu") > 0


def test_fetch_counts_only_bytes_that_this_process_downloads() -> None:
    def fetch(progress: ProgressCallback) -> None:
        for done, waiting in ((0, True), (400, True), (400, False), (700, False), (1000, False)):
            progress(FetchProgress("m", "f", done, 1000, 0.0, waiting))

    measure_fetch("counted", lambda at: None, fetch)
    assert value("mt3_checkpoint_fetched_bytes_total", model="counted") == 600, "400 were there or another's"
    assert value("mt3_checkpoint_fetches_total", model="counted", outcome="installed") == 1
    measure_fetch("counted", lambda at: None, lambda progress: None)
    assert value("mt3_checkpoint_fetches_total", model="counted", outcome="installed") == 1, "nothing was fetched"


def test_occupancy_is_that_of_the_steps() -> None:
    class Network:
        engine: Engine[int, int] = Engine(SingleStep(lambda batch: batch, slots=4), add_at_once=4)

        def __init__(self) -> None:
            self._engine = self.engine

    network = Network()
    assert list(network.engine.generate(Request(n) for n in range(6))) == [*range(6)]
    occupancy = occupancy_of(network)
    assert occupancy is not None
    assert (occupancy.slots, occupancy.slot_steps) == (4, 6)
    assert 2 <= occupancy.steps <= 6
    assert occupancy_of(object.__new__(type("Bare", (), {}))) is None


class OneModel:
    def occupancy(self) -> dict[str, Occupancy]:
        return {"m": Occupancy(8, 10, 60)}


def test_collectors_export_engine_queue_and_disks(settings: Settings, sessions: Sessions, tmp_path: Path) -> None:
    add_job(sessions)
    must_claim(sessions, add_job(sessions))
    settings = settings.model_copy(update={"max_stored_bytes": 1000})
    engine = EngineCollector(OneModel(), tmp_path / "not" / "there")  # type: ignore[arg-type]
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in [*engine.collect(), *QueueCollector(settings, sessions).collect()]
        for sample in metric.samples
    }
    assert found["mt3_batch_slot_steps_total", "m"] == 60
    assert found["mt3_items", "transcribe", "queued"] == found["mt3_items", "transcribe", "processing"] == 1
    assert found["mt3_queue_audio_seconds", "queued"] > 0
    assert found["mt3_workers",] == 0
    assert found["mt3_database_up",] == 1
    assert (found["mt3_quota_used_bytes",], found["mt3_quota_bytes",]) == (20, 1000)
    assert found["mt3_disk_free_bytes", "checkpoints"] > 0
    assert found["mt3_disk_bytes", "storage"] >= found["mt3_disk_free_bytes", "storage"]


def test_without_a_database_the_scheduler_still_exports_that(settings: Settings, sessions: Sessions) -> None:
    class Away:
        def __call__(self) -> None:
            raise OSError("no database")

    metrics = {metric.name: metric for metric in QueueCollector(settings, Away()).collect()}  # type: ignore[arg-type]
    assert metrics["mt3_database_up"].samples[0].value == 0
    assert "mt3_items" not in metrics


def test_metrics_are_served_on_their_port(settings: Settings) -> None:
    port = free_port()
    serve_metrics(settings.model_copy(update={"metrics_port": port}))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"mt3_attempts_total" in answer.read()


def test_port_that_is_taken_stops_nothing(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serve_metrics(settings.model_copy(update={"metrics_port": taken.getsockname()[1]}))
