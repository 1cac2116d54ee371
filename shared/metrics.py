"""The endpoint of Prometheus metrics of processes that serve no HTTP otherwise: worker and scheduler."""

from __future__ import annotations

import shutil
from pathlib import Path

from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.config import Settings
from shared.logs import get_logger

log = get_logger(__name__)

SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)  # buckets for requests
LONG_SECONDS = (0.1, 0.5, 1, 2.5, 5, 15, 30, 60, 120, 300, 900, 3600)  # buckets for attempts


def serve_metrics(settings: Settings, *collectors: Collector) -> None:
    """Serve `/metrics` on MT3_METRICS_PORT, if it is set, from a thread of its own.

    A port that is taken, as by a second worker on the machine, is only logged: work does not depend on it.
    """
    if not settings.metrics_port:
        return
    for collector in collectors:
        REGISTRY.register(collector)
    try:
        start_http_server(settings.metrics_port, settings.metrics_host)
    except OSError as error:
        log.warning("metrics_unavailable", port=settings.metrics_port, error=str(error))


def disk_metrics(disks: dict[str, Path]) -> list[Metric]:
    """Return size and free room of the file systems that some folders are on."""
    size = GaugeMetricFamily("mt3_disk_bytes", "Size of the file system.", labels=["disk"])
    free = GaugeMetricFamily("mt3_disk_free_bytes", "Free room of the file system.", labels=["disk"])
    for name, folder in disks.items():
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent  # it is made on first use
        usage = shutil.disk_usage(folder)
        size.add_metric([name], usage.total)
        free.add_metric([name], usage.free)
    return [size, free]
