"""Networks resident in this process, loaded on first use and kept."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, BinaryIO

from checkpoints.progress import ProgressCallback
from checkpoints.store import CheckpointStore
from mt3_infer.audio import AudioStream, open_audio
from mt3_infer.loading import Model, load_model
from mt3_infer.models import MODELS
from mt3_infer.transcribe import Progress
from mt3_infer.transcription import Transcription
from worker.errors import SilentAudioError

SILENCE_PEAK = 1e-4  # -80 dBFS: below the noise of 14 bits, nobody means this to be heard


class TranscriptionEngine:
    """What an attempt needs of the library: `prepare` a model, then `transcribe` with it."""

    def __init__(self, store: CheckpointStore, *, device: str, max_audio_seconds: float) -> None:
        self._store = store
        self._device = device
        self._max_audio_seconds = max_audio_seconds
        self._models: dict[str, Model] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def installed(self) -> dict[str, bool]:
        """Which models' weights are verified on this machine."""
        return {name: self._store.is_installed(name) for name in MODELS}

    def fetch(self, name: str, progress: ProgressCallback) -> None:
        """Make sure that a model's weights are here; `progress` is called as bytes arrive, and may raise."""
        if name not in self._models:
            self._store.fetch(name, progress)

    def load(self, name: str) -> Model:
        """The network, ready to run; loaded once, however many threads ask."""
        with self._locks[name]:
            if name not in self._models:
                self._models[name] = load_model(name, device=self._device, store=self._store, auto_download=False)
            return self._models[name]

    def transcribe(
        self,
        model: Model,
        recording: BinaryIO,
        options: dict[str, Any],
        progress: Callable[[Progress], None],
    ) -> Transcription:
        """Notes of a recording.

        Raises:
            MT3Error: the recording or the options are at fault; its `code` says how.
            SilentAudioError: the recording holds no sound at all.
        """
        with self.open(model, recording) as audio:
            transcription = model.transcribe(audio, progress=progress, **options)
        refuse_silence(audio)
        return transcription

    def open(self, model: Model, recording: BinaryIO) -> AudioStream:
        """A recording as the model hears it, within the limits of this service; from its beginning."""
        return open_audio(recording, sample_rate=model.spec.sample_rate, max_seconds=self._max_audio_seconds)


def refuse_silence(audio: AudioStream) -> None:
    """Raise if a recording that was run through held no sound.

    Raises:
        SilentAudioError
    """
    if audio.peak < SILENCE_PEAK:
        raise SilentAudioError(
            "The recording is silent from beginning to end: check that the right track was exported."
        )
