"""Probes: `/livez` responds if the process runs, `/readyz` checks its dependencies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apiflask import APIBlueprint
from sqlalchemy import text

from shared import startup, worker_registry
from shared.logs import get_logger
from web.access import needs
from web.schemas import Readiness
from web.services import services
from web.workload import Workload, works_with

log = get_logger(__name__)
NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "Not ready.",
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{Readiness.__name__}"}}},
    }
}
blueprint = APIBlueprint("health", __name__, tag="Health")


@blueprint.get("/livez")
@blueprint.doc(summary="Liveness probe", description="Responds as long as the process runs.")
@works_with(Workload.LIVENESS)
@needs(None)
def livez() -> dict[str, str]:
    """Respond."""
    return {"status": "alive"}


@blueprint.get("/readyz")
@blueprint.output(Readiness, description="Ready.")
@blueprint.doc(
    summary="Readiness probe",
    description="Checks the database, the queue and the storage. Workers are listed but not required.",
    responses=NOT_READY,
)
@works_with(Workload.READINESS)
@needs(None)
def readyz() -> tuple[dict[str, Any], int]:
    """Check every dependency. Without workers the service is ready: jobs wait in the database."""
    checks = {"database": _check(_database), "queue": _check(_redis), "storage": _check(_storage)}
    is_ready = all(state == "ok" for state in checks.values())
    body: dict[str, Any] = {"status": "ready" if is_ready else "not ready", "checks": checks}
    if checks["database"] == "ok":
        body["workers"] = _workers()
    return body, 200 if is_ready else 503


def _workers() -> dict[str, Any]:
    """Return the number of workers seen recently, and when the last one was seen."""
    with services().sessions() as session:
        count, last = worker_registry.count_workers(session)
    return {"present": count, "last_seen_at": last.isoformat().replace("+00:00", "Z") if last else None}


def _check(dependency: Callable[[], None]) -> str:
    try:
        dependency()
    except Exception as error:
        log.warning("not_ready", dependency=dependency.__name__.strip("_"), error=str(error).splitlines()[:1])
        return "unavailable"
    return "ok"


def _database() -> None:
    with services().sessions() as session:
        session.execute(text("SELECT 1"))


def _redis() -> None:
    startup.check_redis(services().settings)


def _storage() -> None:
    services().storage.check()
