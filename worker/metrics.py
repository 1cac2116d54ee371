"""Metrics of a worker process: attempts, the speed of networks, how full their batches are, downloads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from checkpoints.errors import CheckpointError
from checkpoints.progress import FetchProgress, ProgressCallback
from shared.kinds import Claim
from shared.metrics import LONG_SECONDS, disk_metrics

if TYPE_CHECKING:
    from worker.engine import TranscriptionEngine

ATTEMPTS = Counter("mt3_attempts", "Attempts that ended here.", ["kind", "outcome", "code"])
ATTEMPT_SECONDS = Histogram(
    "mt3_attempt_seconds", "Duration of attempts that ended here.", ["kind"], buckets=LONG_SECONDS
)
IN_HAND = Gauge("mt3_items_in_hand", "Attempts that run in this process.", ["kind"])
LEASES_LOST = Counter("mt3_leases_lost", "Attempts that found their item canceled or held by another.", ["kind"])
AUDIO_SECONDS = Counter("mt3_audio_seconds", "Seconds of audio transcribed.", ["model", "device"])
INFERENCE_SECONDS = Counter("mt3_inference_seconds", "Seconds spent transcribing.", ["model", "device"])
REALTIME_FACTOR = Gauge(
    "mt3_realtime_factor", "Seconds of audio per second, in the latest attempt.", ["model", "device"]
)
FETCHES = Counter("mt3_checkpoint_fetches", "Downloads of weights that ended.", ["model", "outcome"])
FETCHED_BYTES = Counter("mt3_checkpoint_fetched_bytes", "Bytes of weights downloaded.", ["model"])


@contextmanager
def running(claim: Claim) -> Iterator[None]:
    """Count an attempt among those in hand, and measure it."""
    with IN_HAND.labels(claim.kind).track_inprogress(), ATTEMPT_SECONDS.labels(claim.kind).time():
        yield


def count_attempt(claim: Claim, outcome: str, code: str = "") -> None:
    """Count an attempt that ended; `code` is that of the failure, if it failed."""
    ATTEMPTS.labels(claim.kind, outcome, code).inc()
    if outcome == "lost":
        LEASES_LOST.labels(claim.kind).inc()


def measure_speed(model: str, device: str, audio_seconds: float, elapsed: float) -> None:
    """Record how long it took to transcribe some audio."""
    AUDIO_SECONDS.labels(model, device).inc(audio_seconds)
    INFERENCE_SECONDS.labels(model, device).inc(max(elapsed, 0.0))
    REALTIME_FACTOR.labels(model, device).set(audio_seconds / max(elapsed, 1e-6))


def measure_fetch(model: str, progress: ProgressCallback, fetch: Callable[[ProgressCallback], object]) -> None:
    """Run a fetch of weights; count its bytes, and its outcome if it downloaded anything or failed."""
    first: FetchProgress | None = None
    done = 0

    def count(at: FetchProgress) -> None:
        nonlocal first, done
        if not at.waiting:
            first = first or at
            FETCHED_BYTES.labels(model).inc(max(0, at.bytes_done - max(done, first.bytes_done)))
            done = at.bytes_done
        progress(at)

    try:
        fetch(count)
    except CheckpointError as error:
        FETCHES.labels(model, error.code).inc()
        raise
    if first is not None:
        FETCHES.labels(model, "installed").inc()


class EngineCollector(Collector):
    """Reads at each scrape how full the batches of the loaded networks were, and the room for checkpoints."""

    def __init__(self, engine: TranscriptionEngine, checkpoint_dir: Path) -> None:
        self._engine = engine
        self._checkpoint_dir = checkpoint_dir

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        slots = GaugeMetricFamily("mt3_batch_slots", "Segments that a batch has room for.", labels=["model"])
        steps = CounterMetricFamily("mt3_batch_steps", "Steps of the network.", labels=["model"])
        used = CounterMetricFamily(
            "mt3_batch_slot_steps", "Segments in the batch, over all steps.", labels=["model"]
        )
        for model, batch in self._engine.occupancy().items():
            slots.add_metric([model], batch.slots)
            steps.add_metric([model], batch.steps)
            used.add_metric([model], batch.slot_steps)
        return [slots, steps, used, *disk_metrics({"checkpoints": self._checkpoint_dir})]
