"""The model `auto`: the best one whose weights are installed, decided when a job is accepted."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.tables import ModelReport

AUTO = "auto"
PREFERENCE = ("mt3_pytorch", "basic_pitch")
"""Best first. The last one is used if none is installed: its weights are small and fetched within seconds."""


def choose(session: Session, admitted: Collection[str]) -> str:
    """Return the model of `PREFERENCE` that a job gets now, of those that the service admits."""
    candidates = [name for name in PREFERENCE if name in admitted]
    installed = set(
        session.scalars(
            select(ModelReport.name).where(ModelReport.name.in_(candidates), ModelReport.installed.is_(True))
        )
    )
    return next((name for name in candidates if name in installed), candidates[-1])
