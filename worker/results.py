"""The artifacts of a job: its notes as MIDI and as JSON."""

from __future__ import annotations

from dataclasses import asdict

from mt3_infer.transcription import Transcription
from shared.kinds import Result
from shared.tables import Phase
from worker.context import Context


def store_results(context: Context, transcription: Transcription, prefix: str) -> Result:
    """Store the artifacts of a job under a prefix that no other attempt uses."""
    context.heartbeat.report(Phase.WRITING_RESULTS, done=transcription.duration)
    artifacts = [
        context.store(prefix + "transcription.mid", transcription.to_midi(), "audio/midi"),
        context.store(prefix + "notes.json", transcription.to_json().encode(), "application/json"),
    ]
    return Result(
        artifacts,
        note_count=len(transcription.notes),
        audio_seconds=transcription.duration,
        warnings=[asdict(warning) for warning in transcription.warnings],
    )
