"""Model reports: workers record which weights are installed, are being fetched or cannot be, and model speeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from shared.db import now_plus
from shared.tables import ModelReport
from shared.worker_registry import count_workers


def report_model(
    session: Session,
    name: str,
    *,
    installed: bool,
    realtime_factor: float | None = None,
    download: dict[str, Any] | None = None,
    error: str | None = None,
) -> None:
    """Record the state of a model on a worker; without a new speed, keep the last one measured.

    Args:
        download: progress of fetching it in the background, as the fields of `shared.kinds.Download`.
        error: one sentence for users, if it could not be fetched in the background.
    """
    values: dict[str, Any] = {
        "installed": installed,
        "updated_at": now_plus(),
        "download": download,
        "error": error,
    }
    if realtime_factor is not None:
        values["realtime_factor"] = realtime_factor
    updated = session.execute(update(ModelReport).where(ModelReport.name == name).values(values))
    if updated.rowcount == 0:  # type: ignore[attr-defined]
        session.execute(insert(ModelReport).values(name=name, **values))


def report_installed(session: Session, installed: Mapping[str, bool]) -> None:
    """Record which weights a worker has as it starts. Reports of other workers that are present stay."""
    others, _ = count_workers(session)
    reported = select(ModelReport.name).where(ModelReport.installed.is_(True))
    known = set(session.scalars(reported)) if others else set()
    for name, is_installed in installed.items():
        if is_installed or name not in known:
            report_model(session, name, installed=is_installed)
