"""Alive: this process answers. Ready: the parts that it needs answer too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apiflask import APIBlueprint
from sqlalchemy import text

from shared import startup, worker_registry
from shared.logs import get_logger
from web.parts import parts
from web.schemas import Readiness
from web.workload import Workload, works_with

log = get_logger(__name__)
blueprint = APIBlueprint("health", __name__, tag="Health")


@blueprint.get("/livez")
@blueprint.doc(summary="Is this process alive")
@works_with(Workload.LIVENESS)
def livez() -> dict[str, str]:
    """Yes, if this answers."""
    return {"status": "alive"}


@blueprint.get("/readyz")
@blueprint.output(Readiness, description="All of them.")
@blueprint.doc(summary="Are database, queue and storage within reach", responses={503: "Not all of them."})
@works_with(Workload.READINESS)
def readyz() -> tuple[dict[str, Any], int]:
    """Each part, and whether all are there. Jobs are accepted without the queue: they wait in the database.

    Workers are told of, and nothing more: that none is there is no reason to turn recordings away.
    """
    checks = {"database": _check(_database), "queue": _check(_redis), "storage": _check(_storage)}
    is_ready = all(state == "ok" for state in checks.values())
    body: dict[str, Any] = {"status": "ready" if is_ready else "not ready", "checks": checks}
    if checks["database"] == "ok":
        body["workers"] = _workers()
    return body, 200 if is_ready else 503


def _workers() -> dict[str, Any]:
    """How many were seen lately, and when the last one was."""
    with parts().sessions() as session:
        count, last = worker_registry.count_workers(session)
    return {"present": count, "last_seen_at": last.isoformat().replace("+00:00", "Z") if last else None}


def _check(part: Callable[[], None]) -> str:
    try:
        part()
    except Exception as error:
        log.warning("not_ready", part=part.__name__.strip("_"), error=str(error).splitlines()[:1])
        return "unavailable"
    return "ok"


def _database() -> None:
    with parts().sessions() as session:
        session.execute(text("SELECT 1"))


def _redis() -> None:
    startup.check_redis(parts().settings)


def _storage() -> None:
    parts().storage.check()
