"""The public functions: transcribe a recording; list, download and load models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import CheckpointError, CheckpointNotFoundError
from mt3_infer.cache import clear_cache
from mt3_infer.errors import InvalidOptionError
from mt3_infer.loading import (
    ModelInfo,
    download_model,
    get_model_info,
    get_model_spec,
    keep_model,
    list_models,
    load_model,
)
from mt3_infer.model import DEFAULT_MODEL, Model, Progress, check_progress
from mt3_infer.transcription import Transcription

if TYPE_CHECKING:
    from mt3_infer.model import Audio

__all__ = [
    "CheckpointError",
    "CheckpointNotFoundError",
    "ModelInfo",
    "clear_cache",
    "download_model",
    "get_model_info",
    "list_models",
    "load_model",
    "transcribe",
]


def transcribe(
    audio: Audio,
    sr: int | None = None,
    *,
    model: str | Model = DEFAULT_MODEL,
    progress: Callable[[Progress], None] | None = None,
    max_seconds: float | None = None,
    estimates: bool = True,
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
        estimates: False to leave out confidence, and to keep the network's velocities: saves 0.03 s of one CPU per
            second of audio.
        device: "auto", "cpu", "cuda" or "cuda:1"; applies only if `model` is a name.
        dtype, batch_size: see `mt3_infer.load_model`; apply like `device`.
        checkpoint_path: your own weights instead of the published ones; applies like `device`.
        options: those of the model, as `onset_threshold=0.4`.
    Raises:
        AudioError: the recording cannot be used; the subclasses name the reason.
        UnknownModelError, InvalidOptionError: names and values that do not exist.
        CheckpointError: the weights are not available.
    """
    if not isinstance(model, str | Model):
        raise InvalidOptionError(
            f"model cannot be of type {type(model).__name__}: pass a name, or what load_model returned."
        )
    if isinstance(model, Model):
        return model.transcribe(
            audio, sr, progress=progress, max_seconds=max_seconds, estimates=estimates, **options
        )
    from mt3_infer.inputs import open_recording

    # Whatever is wrong with the arguments is found before weights are fetched.
    spec = get_model_spec(model)
    spec.check_options(options)
    check_progress(progress)
    with open_recording(audio, sr, sample_rate=spec.sample_rate, max_seconds=max_seconds) as stream:
        loaded = keep_model(
            model, device=device, dtype=dtype, batch_size=batch_size, checkpoint_path=checkpoint_path
        )
        return loaded.transcribe(stream, progress=progress, estimates=estimates, **options)
