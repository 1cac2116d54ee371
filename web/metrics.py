"""`/metrics` of the web server, for Prometheus: the sum of all its processes."""

from __future__ import annotations

import os
from typing import Any

from apiflask import APIBlueprint
from flask import Response

from shared.tables import Scope
from web.access import needs
from web.workload import Workload, works_with

ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "The text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
blueprint = APIBlueprint("metrics", __name__, tag="Health")


@blueprint.get("/metrics")
@blueprint.doc(
    summary="Metrics",
    description="For Prometheus. With keys, it needs one with the scope `admin`. Workers and schedulers "
    "serve theirs on MT3_METRICS_PORT.",
    responses=ANSWER,
)
@needs(Scope.ADMIN)
@works_with(Workload.LIVENESS)
def metrics() -> Response:
    """Return the metrics."""
    from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
