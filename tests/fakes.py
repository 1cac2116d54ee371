"""Fakes for tests: a fixed transcription of three notes, and an engine that a test can control."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from checkpoints.progress import FetchProgress, ProgressCallback
from mt3_infer.audio import AudioStream
from mt3_infer.exports.soundfont import find_sound_font
from mt3_infer.model import Model, Progress
from mt3_infer.symbolic.notes import Note
from mt3_infer.transcription import Provenance, Transcription
from worker.engine import TranscriptionEngine

THREE_NOTES = [Note(0.0, 0.5, 60, 90), Note(0.5, 1.0, 64, 80), Note(1.0, 2.0, 67, 70)]


def transcription(notes: list[Note] = THREE_NOTES, duration: float = 2.0) -> Transcription:
    return Transcription(
        notes=notes,
        duration=duration,
        provenance=Provenance(
            model="basic_pitch",
            weights_sha256="0" * 64,
            license="Apache-2.0",
            library_version="0",
            device="cpu",
            seconds_taken=0.1,
            options={},
            counters={},
        ),
    )


@dataclass
class FakeEngine:
    """An engine that passes through an attempt's phases; each hook may raise or block."""

    on_fetch: Callable[[], None] = lambda: None
    on_load: Callable[[], None] = lambda: None
    on_half: Callable[[], None] = lambda: None
    recordings: list[bytes] = field(default_factory=list)
    halvings: list[int] = field(default_factory=list)
    made_room: int = 0
    running: threading.Event = field(default_factory=threading.Event)

    def fetch(self, name: str, progress: ProgressCallback) -> None:
        at = FetchProgress(name, "weights.bin", 50_000_000, 200_000_000, 10_000_000.0, waiting=True)
        progress(at)
        self.on_fetch()
        progress(at)

    def load(self, name: str, *, halvings: int = 0) -> Model:
        self.halvings.append(halvings)
        self.on_load()
        return cast(Model, None)

    def open(self, name: str, recording: BinaryIO, sample_rate: int | None = None) -> AudioStream:
        self.recordings.append(recording.read())
        return AudioStream([], sample_rate=22050, duration=2.0)

    def transcribe(
        self,
        model: Model,
        audio: AudioStream,
        options: dict[str, Any],
        progress: Callable[[Progress], None],
        on_result: Callable[[Any], None] | None = None,
    ) -> Transcription:
        progress(Progress(1.0, 2.0))
        self.running.set()
        self.on_half()
        progress(Progress(2.0, 2.0))
        return transcription()

    def sound_font(self) -> Path:
        return find_sound_font()

    def make_room(self, error: Exception) -> None:
        self.made_room += 1

    def as_engine(self) -> TranscriptionEngine:
        return cast(TranscriptionEngine, self)
