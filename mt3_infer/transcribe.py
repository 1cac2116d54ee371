"""Joins the stages: a recording → segments → network → results → notes, with progress and the way to cancel.

Nothing heavy is imported before the first transcription.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

from mt3_infer.errors import AudioWarning, InvalidOptionError
from mt3_infer.models import ModelOptions, ModelSpec
from mt3_infer.network import Network, NetworkOutput
from mt3_infer.transcription import Provenance, Transcription

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mt3_infer.audio import AudioStream, Waveform

    Audio: TypeAlias = str | PathLike[str] | BinaryIO | NDArray[np.number[Any]] | AudioStream

DISTRIBUTION = "mt3-infer-service"


@dataclass(frozen=True)
class Progress:
    """How far a transcription has come, in seconds of audio; the total is None where unknown."""

    seconds_done: float
    seconds_total: float | None


@dataclass(frozen=True)
class Model:
    """A network with what is known about its weights."""

    spec: ModelSpec
    network: Network[Any]
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
        from mt3_infer.segments import split_segments

        checked = self.spec.check_options(options)
        started = time.monotonic()
        grid = self.network.grid
        collector = self.network.collect(checked)
        with _open(audio, sr, sample_rate=self.spec.sample_rate, max_seconds=max_seconds) as stream:
            heard = _Meter(stream)
            with closing(self.network.read(split_segments(heard, grid), checked)) as results:
                for done, result in enumerate(results, start=1):
                    collector.feed(result)
                    if progress is not None:
                        seconds = min(done * grid.hop, heard.samples) / grid.sample_rate
                        progress(Progress(seconds, stream.duration))
        output = collector.finish(heard.samples)
        return self.sign(
            output,
            stream.seconds,
            checked,
            seconds_taken=time.monotonic() - started,
            warnings=getattr(stream, "warnings", ()),
        )

    def sign(
        self,
        output: NetworkOutput,
        duration: float,
        options: ModelOptions,
        *,
        seconds_taken: float,
        warnings: Iterable[AudioWarning] = (),
    ) -> Transcription:
        """Add the provenance and the warnings to the notes of a recording that lasts `duration` seconds."""
        return Transcription(
            notes=output.notes,
            duration=duration,
            provenance=Provenance(
                model=self.spec.name,
                weights_sha256=self.weights_sha256,
                licence=self.licence,
                library_version=library_version(),
                device=self.network.device,
                seconds_taken=round(seconds_taken, 3),
                options=options.model_dump(),
                counters=dict(output.counters),
            ),
            warnings=tuple(warnings),
        )


class _Meter:
    """Passes blocks on and counts their samples."""

    def __init__(self, blocks: Iterable[Waveform]) -> None:
        self._blocks = blocks
        self.samples = 0

    def __iter__(self) -> Iterator[Waveform]:
        for block in self._blocks:
            self.samples += len(block)
            yield block


def transcribe(
    audio: Audio,
    sr: int | None = None,
    *,
    model: str | Model = "basic_pitch",
    progress: Callable[[Progress], None] | None = None,
    max_seconds: float | None = None,
    device: str = "auto",
    dtype: str | None = None,
    batch_size: int | None = None,
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
        dtype, batch_size: see `mt3_infer.load_model`; count like `device`.
        checkpoint_path: weights of your own, instead of the published ones; counts like `device`.
        options: those of the model, as `onset_threshold=0.4`.
    Raises:
        AudioError: the recording cannot be used; its branches say why.
        UnknownModelError, InvalidOptionError: names and values that do not exist.
        CheckpointError: the weights cannot be had.
    """
    if isinstance(model, str):
        from mt3_infer.loading import load_model

        model = load_model(
            model, device=device, dtype=dtype, batch_size=batch_size, checkpoint_path=checkpoint_path
        )
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
