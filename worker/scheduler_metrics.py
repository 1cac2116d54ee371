"""Metrics of a scheduler process: the state of the queue as the database has it, workers, leases, disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prometheus_client import Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared import backlog, worker_registry
from shared.config import Settings
from shared.db import Sessions
from shared.kinds import KINDS
from shared.logs import get_logger
from shared.metrics import disk_metrics
from shared.stored import StoredTotal

log = get_logger(__name__)

MEASURE_SECONDS = 4.0  # scrapes in quick succession share one measurement
QUOTA_SECONDS = 30.0  # adding up what is stored takes longer

LEASES_EXPIRED = Counter("mt3_leases_expired", "Items taken back from a lost or hanging worker.", ["kind"])
ATTEMPTS_EXHAUSTED = Counter("mt3_attempts_exhausted", "Items that failed for lack of attempts.", ["kind"])
STORED_BYTES = Gauge("mt3_stored_bytes", "Bytes in storage, by the last search of all of it.", ["folder"])
UNKNOWN_BYTES = Gauge("mt3_unknown_bytes", "Bytes of unknown jobs, kept as the database may be older.")
for kind in KINDS:  # so that the first one is an increase
    LEASES_EXPIRED.labels(kind)
    ATTEMPTS_EXHAUSTED.labels(kind)


class QueueCollector(Collector):
    """Reads the queue from the database at a scrape. Any scheduler may be scraped, the active one or not."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self._settings = settings
        self._sessions = sessions
        self._stored = StoredTotal(sessions, settings.max_stored_bytes, seconds=QUOTA_SECONDS)
        self._lock = threading.Lock()
        self._measured: tuple[float, list[Metric]] = (float("-inf"), [])

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; those of the queue are absent while the database is unavailable."""
        with self._lock:
            at, metrics = self._measured
            if time.monotonic() - at > MEASURE_SECONDS:
                metrics = self._measure()
                self._measured = (time.monotonic(), metrics)
        return metrics

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not read the database."""
        return []

    def _measure(self) -> list[Metric]:
        up = GaugeMetricFamily("mt3_database_up", "1 if the database answered.")
        metrics: list[Metric] = [up]
        if (folder := _storage_folder(self._settings)) is not None:
            metrics += disk_metrics({"storage": folder})
        try:
            with self._sessions() as session:
                work = backlog.measure(session)
                workers, _ = worker_registry.count_workers(session)
            quota = self._quota_metrics()
        except Exception as error:
            log.warning("metrics_incomplete", error=str(error).splitlines()[:1])
            up.add_metric([], 0)
            return metrics
        up.add_metric([], 1)
        return [*metrics, *_queue_metrics(work, workers), *quota]

    def _quota_metrics(self) -> list[Metric]:
        if self._stored.limit is None:
            return []
        used = self._stored.measure()
        return [
            GaugeMetricFamily("mt3_quota_used_bytes", "Recordings and results of all owners.", used),
            GaugeMetricFamily("mt3_quota_bytes", "What they may have: MT3_MAX_STORED_BYTES.", self._stored.limit),
        ]


def _queue_metrics(work: backlog.Backlog, workers: int) -> list[Metric]:
    items = GaugeMetricFamily("mt3_items", "Work items in the database.", labels=["kind", "status"])
    for (kind, status), count in work.items.items():
        items.add_metric([kind, status], count)
    audio = GaugeMetricFamily(
        "mt3_queue_audio_seconds", "Seconds of audio still to be transcribed.", labels=["status"]
    )
    for status, seconds in work.audio_seconds.items():
        audio.add_metric([status], seconds)
    return [
        items,
        audio,
        GaugeMetricFamily("mt3_queue_oldest_item_seconds", "Age of the oldest due item.", work.oldest_due),
        GaugeMetricFamily("mt3_queue_oldest_job_seconds", "Age of the oldest job not started.", work.oldest_job),
        GaugeMetricFamily("mt3_workers", "Workers seen in the last 25 s.", workers),
    ]


def _storage_folder(settings: Settings) -> Path | None:
    """Return the folder of local storage; None for S3."""
    parts = urlsplit(settings.storage_url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None
