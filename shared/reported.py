"""The columns of a job in which the progress of an attempt is stored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import func

from shared.db import now_plus
from shared.kinds import Progress
from shared.tables import Job, Phase


def reported_columns(progress: Progress) -> dict[str, Any]:
    """Return what a job's row is to have, by column."""
    values: dict[str, Any] = {
        "phase": progress.phase,
        "audio_seconds_done": progress.audio_seconds_done,
        "download": asdict(progress.download) if progress.download else None,
    }
    if progress.audio_seconds_total is not None:  # else keep that of an earlier attempt
        values["audio_seconds_total"] = progress.audio_seconds_total
    if progress.phase is Phase.TRANSCRIBING:
        values["transcribing_since"] = func.coalesce(Job.transcribing_since, now_plus())
    return values
