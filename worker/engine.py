"""The networks of this process, loaded on first use and kept in memory."""

from __future__ import annotations

import gc
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from checkpoints.progress import ProgressCallback
from checkpoints.store import CheckpointStore
from mt3_infer.audio import AudioStream, DecodeLimits, open_audio
from mt3_infer.audio.stream import SILENT
from mt3_infer.errors import UnknownModelError
from mt3_infer.exports.soundfont import find_sound_font
from mt3_infer.inference.engine import Occupancy, occupancy_of
from mt3_infer.loading import fetch_evidence_model, load_model
from mt3_infer.model import Model, Progress
from mt3_infer.models import MODELS
from mt3_infer.transcription import Transcription
from shared.logs import get_logger
from worker import metrics
from worker.errors import SilentAudioError, is_out_of_memory

log = get_logger(__name__)

ASSUMED_BATCH = 64  # for a network that cannot be loaded with its default


class TranscriptionEngine:
    """The library as attempts use it: `open` a recording, `fetch` and `load` a model, `transcribe`."""

    def __init__(
        self,
        store: CheckpointStore,
        *,
        device: str,
        max_audio_seconds: float,
        limits: DecodeLimits | None = None,
        estimates: bool = True,
        sound_font: Path | None = None,
    ) -> None:
        self._store = store
        self._device = device
        self._max_audio_seconds = max_audio_seconds
        self._limits = limits
        self._estimates = estimates
        self._sound_font = sound_font
        self._models: dict[str, Model] = {}
        self._full_batch: dict[str, int] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def installed(self) -> dict[str, bool]:
        """Return for each model whether its weights are installed and verified on this machine."""
        store = self._store
        return {
            name: name in store.own or store.is_installed(name) for name in MODELS if name in store.catalog.entries
        }

    @property
    def checkpoint_dir(self) -> Path:
        """Return the folder of the weights."""
        return self._store.root

    def occupancy(self) -> dict[str, Occupancy]:
        """Return how full the batches of each loaded network were."""
        found = {name: occupancy_of(model.network) for name, model in list(self._models.items())}
        return {name: occupancy for name, occupancy in found.items() if occupancy is not None}

    def fetch(self, name: str, progress: ProgressCallback) -> None:
        """Make sure that a model's weights are installed; `progress` is called as bytes arrive, and may raise."""
        if name not in self._models:
            if self._store.own_path(name) is None:
                metrics.measure_fetch(name, progress, lambda counted: self._store.fetch(name, counted))
            if self._estimates:
                fetch_evidence_model(self._store, progress)

    def load(self, name: str, *, halvings: int = 0) -> Model:
        """Return the model, ready to run; it is loaded once, however many threads call this.

        Args:
            halvings: how often the job ran out of memory. The batch size is halved this many times, from now on
                for all jobs of this process: results do not depend on it, and running jobs keep the network that
                they have.
        """
        with self._locks[name]:
            if name not in self._models:
                self._models[name] = self._load_full(name, halvings)
            batch = _batch_size(self._models[name])
            if batch is None:
                return self._models[name]  # it has no batch size to halve
            smaller = max(1, self._full_batch.setdefault(name, batch) >> halvings)
            if smaller < batch:
                del self._models[name]  # free its memory before the next one is loaded
                _collect()
                log.warning("batch_made_smaller", model=name, batch_size=smaller, full=self._full_batch[name])
                self._models[name] = self._load(name, smaller)
            return self._models[name]

    def sound_font(self) -> Path:
        """Return the file that notes are rendered with, fetching it if it is not installed.

        Raises:
            MissingSoundFontError, CheckpointError: it is not there, or cannot be fetched.
        """
        return find_sound_font(self._sound_font, self._store)

    def make_room(self, error: Exception) -> None:
        """Free memory after an out-of-memory error: the frames that the error references, and cached blocks."""
        traceback.clear_frames(error.__traceback__)
        _collect()

    def _load_full(self, name: str, halvings: int) -> Model:
        try:
            return self._load(name, None)
        except Exception as error:
            if not halvings or not is_out_of_memory(error):
                raise
            self.make_room(error)
        self._full_batch[name] = ASSUMED_BATCH
        return self._load(name, max(1, ASSUMED_BATCH >> halvings))

    def _load(self, name: str, batch_size: int | None) -> Model:
        return load_model(name, device=self._device, batch_size=batch_size, store=self._store, auto_download=False)

    def transcribe(
        self,
        model: Model,
        audio: AudioStream,
        options: dict[str, Any],
        progress: Callable[[Progress], None],
        on_result: Callable[[Any], None] | None = None,
    ) -> Transcription:
        """Return the transcription of a recording that was opened for this model.

        Raises:
            MT3Error: the recording or the options are at fault; see its `code`.
            SilentAudioError: the recording is silent.
        """
        transcription = model.transcribe(
            audio, progress=progress, on_result=on_result, estimates=self._estimates, **options
        )
        refuse_silence(audio)
        return transcription

    def open(self, name: str, recording: BinaryIO, sample_rate: int | None = None) -> AudioStream:
        """Open a recording at the sample rate of a model, which need not be loaded, within the service's limits.

        Args:
            sample_rate: another one, in Hz.
        Raises:
            AudioError: it is not a recording, or its header states more than MT3_MAX_AUDIO_SECONDS.
            UnknownModelError: this release has no such model.
        """
        if name not in MODELS:
            raise UnknownModelError(f"There is no model {name!r}; available models: {', '.join(MODELS)}.")
        return open_audio(
            recording,
            sample_rate=sample_rate or MODELS[name].sample_rate,
            max_seconds=self._max_audio_seconds,
            limits=self._limits,
        )


def refuse_silence(audio: AudioStream) -> None:
    """Raise if a recording that was read to its end is silent.

    Raises:
        SilentAudioError
    """
    if audio.is_silent:
        raise SilentAudioError(SILENT)


def _batch_size(model: Model) -> int | None:
    """Return the number of segments that a network processes at once; None if it has no batch size."""
    if "batch_size" not in model.spec.device_options:
        return None
    return getattr(model.network, "batch_size", None)


def _collect() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
