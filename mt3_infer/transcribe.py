"""Joins the stages: a recording → mono blocks → network → notes, with progress and the way to cancel.

Nothing heavy is imported before the first transcription.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias, cast

from mt3_infer.errors import InvalidOptionError
from mt3_infer.models import ModelOptions, ModelSpec
from mt3_infer.notes import Note
from mt3_infer.transcription import Provenance, Transcription

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mt3_infer.audio import AudioStream, Waveform

    Audio: TypeAlias = str | PathLike[str] | BinaryIO | NDArray[np.number[Any]] | AudioStream

DISTRIBUTION = "mt3-infer-service"


@dataclass(frozen=True)
class NetworkOutput:
    """What a network made of a recording.

    Attributes:
        notes: sorted, see `mt3_infer.notes.sort_notes`.
        counters: odd output that was counted instead of raised, as `{"invalid_tokens": 2}`.
    """

    notes: list[Note]
    counters: Mapping[str, int]


class Network(Protocol):
    """A network on a device, ready to run; the same one may serve several threads."""

    device: str

    def transcribe(
        self, blocks: Iterable[Waveform], options: ModelOptions, progress: Callable[[float], None]
    ) -> NetworkOutput:
        """Turn a recording into notes.

        Args:
            blocks: mono float32 at the model's sample rate, in pieces of any length.
            options: of the type that the model's row names.
            progress: called with the seconds of audio done after each batch. It may raise, to cancel.
        """


@dataclass(frozen=True)
class Progress:
    """How far a transcription has come, in seconds of audio; the total is None where unknown."""

    seconds_done: float
    seconds_total: float | None


@dataclass(frozen=True)
class Model:
    """A network with what is known about its weights."""

    spec: ModelSpec
    network: Network
    weights_sha256: str
    licence: str

    def transcribe(
        self,
        audio: Audio,
        sr: int | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        max_seconds: float | None = None,
        **options: Any,
    ) -> Transcription:
        """Transcribe one recording; see `mt3_infer.transcribe` for arguments and errors."""
        checked = self.spec.check_options(options)
        started = time.monotonic()
        with _open(audio, sr, sample_rate=self.spec.sample_rate, max_seconds=max_seconds) as stream:

            def report(seconds_done: float) -> None:
                if progress is not None:
                    progress(Progress(seconds_done, stream.duration))

            output = self.network.transcribe(stream, checked, report)
        return Transcription(
            notes=output.notes,
            duration=stream.seconds,
            provenance=Provenance(
                model=self.spec.name,
                weights_sha256=self.weights_sha256,
                licence=self.licence,
                library_version=library_version(),
                device=self.network.device,
                seconds_taken=round(time.monotonic() - started, 3),
                options=checked.model_dump(),
                counters=dict(output.counters),
            ),
        )


def transcribe(
    audio: Audio,
    sr: int | None = None,
    *,
    model: str | Model = "basic_pitch",
    progress: Callable[[Progress], None] | None = None,
    max_seconds: float | None = None,
    device: str = "auto",
    checkpoint_path: str | Path | None = None,
    **options: Any,
) -> Transcription:
    """Turn a recording into notes; weights are fetched on first use.

    Args:
        audio: a file of any common format (path or binary file object), or a waveform of shape (S,), or with
            channels (S, C) or (C, S): the shorter axis is taken as the channels. Integers are scaled
            to [-1, 1] by the range of their type. Or an `AudioStream` at the model's sample rate.
        sr: sample rate in Hz of a waveform; files know their own.
        model: a name or alias (`mt3-infer list` shows them), or a model that `load_model` gave. To transcribe
            more than one recording, load it once.
        progress: called after each batch. What it raises ends the transcription and reaches the caller.
        max_seconds: refuse longer recordings.
        device: "auto", "cpu", "cuda" or "cuda:1"; counts only where `model` is a name.
        checkpoint_path: weights of your own, instead of the published ones; counts like `device`.
        options: those of the model, as `onset_threshold=0.4`.
    Raises:
        AudioError: the recording cannot be used; its branches say why.
        UnknownModelError, InvalidOptionError: names and values that do not exist.
        CheckpointError: the weights cannot be had.
    """
    if isinstance(model, str):
        from mt3_infer.loading import load_model

        model = load_model(model, device=device, checkpoint_path=checkpoint_path)
    return model.transcribe(audio, sr, progress=progress, max_seconds=max_seconds, **options)


def library_version() -> str:
    """The version of the installed distribution, or "unknown" in a bare source tree."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


def _open(audio: Audio, sr: int | None, *, sample_rate: int, max_seconds: float | None) -> AudioStream:
    from mt3_infer.audio import AudioStream, array_audio, open_audio

    if hasattr(audio, "__array__"):
        if sr is None:
            raise InvalidOptionError("A waveform needs its sample rate: transcribe(waveform, sr=44100).")
        return array_audio(
            cast("NDArray[np.number[Any]]", audio), sr, sample_rate=sample_rate, max_seconds=max_seconds
        )
    if sr is not None:
        raise InvalidOptionError("A file knows its own sample rate: leave out sr, or hand over a waveform.")
    if isinstance(audio, AudioStream):
        return audio
    return open_audio(audio, sample_rate=sample_rate, max_seconds=max_seconds)
