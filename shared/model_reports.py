"""Model reports: workers record which weights are installed and how fast each model runs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, update
from sqlalchemy.orm import Session

from shared.db import now_plus
from shared.tables import ModelReport


def report_model(session: Session, name: str, *, installed: bool, realtime_factor: float | None) -> None:
    """Record the state of a model on a worker; without a new speed, keep the last one measured."""
    values: dict[str, Any] = {"installed": installed, "updated_at": now_plus()}
    if realtime_factor is not None:
        values["realtime_factor"] = realtime_factor
    updated = session.execute(update(ModelReport).where(ModelReport.name == name).values(values))
    if updated.rowcount == 0:  # type: ignore[attr-defined]
        session.execute(insert(ModelReport).values(name=name, **values))
