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
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias

from mt3_infer.errors import AudioWarning, InvalidOptionError
from mt3_infer.models import ModelOptions, ModelSpec
from mt3_infer.network import Network, NetworkOutput
from mt3_infer.transcription import Provenance, Transcription

if TYPE_CHECKING:
    from mt3_infer.audio import AudioStream, Waveform

    class SupportsArray(Protocol):
        """A NumPy array, a tensor, or anything else that NumPy can read as an array."""

        @property
        def __array__(self) -> Callable[..., Any]: ...

    Audio: TypeAlias = str | PathLike[str] | BinaryIO | SupportsArray | AudioStream

DISTRIBUTION = "mt3-infer-service"

DEFAULT_MODEL = "mt3_pytorch"

DEFAULT_SAMPLE_RATE = 16_000
"""Of a waveform that comes without one, in Hz: what most of the networks take."""


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
        from mt3_infer.inputs import open_recording
        from mt3_infer.segments import split_segments

        checked = self.spec.check_options(options)
        _check_progress(progress)
        started = time.monotonic()
        grid = self.network.grid
        collector = self.network.collect(checked)
        with open_recording(audio, sr, sample_rate=self.spec.sample_rate, max_seconds=max_seconds) as stream:
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
            warnings=stream.warnings,
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
    model: str | Model = DEFAULT_MODEL,
    progress: Callable[[Progress], None] | None = None,
    max_seconds: float | None = None,
    device: str = "auto",
    dtype: str | None = None,
    batch_size: int | None = None,
    checkpoint_path: str | Path | None = None,
    **options: Any,
) -> Transcription:
    """Turn a recording into notes. On first use the weights are fetched; the model stays loaded for the next call.

    Args:
        audio: a file of any common format (path or binary file object), or a waveform of shape (S,), or with
            channels (S, C) or (C, S): the shorter axis is taken as the channels. Integers are scaled
            to [-1, 1] by the range of their type. Or an `AudioStream` at the model's sample rate.
        sr: sample rate in Hz of a waveform, 16,000 if it is left out; files know their own.
        model: a name or alias (`mt3-infer list` shows them), or a model that `load_model` returned. The two
            models that were used last are kept, for all threads, until `clear_cache` is called.
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
    if not isinstance(model, str | Model):
        raise InvalidOptionError(
            f"model cannot be of type {type(model).__name__}: pass a name, or what load_model returned."
        )
    if isinstance(model, Model):
        return model.transcribe(audio, sr, progress=progress, max_seconds=max_seconds, **options)
    from mt3_infer.inputs import open_recording
    from mt3_infer.loading import get_model_spec, keep_model

    # Whatever is wrong with the arguments is found before weights are fetched.
    spec = get_model_spec(model)
    spec.check_options(options)
    _check_progress(progress)
    with open_recording(audio, sr, sample_rate=spec.sample_rate, max_seconds=max_seconds) as stream:
        loaded = keep_model(
            model, device=device, dtype=dtype, batch_size=batch_size, checkpoint_path=checkpoint_path
        )
        return loaded.transcribe(stream, progress=progress, **options)


def _check_progress(progress: Any) -> None:
    if progress is not None and not callable(progress):
        raise InvalidOptionError("progress must be a function that takes a Progress, or None.")


def library_version() -> str:
    """The version of the installed distribution, or "unknown" in a bare source tree."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
