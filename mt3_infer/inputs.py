"""Open the recording that is passed to `transcribe`: a path, a file, a pipe or a waveform.

What cannot be used is refused with a sentence that names what to pass instead.
"""

from __future__ import annotations

import os
import re
import reprlib
import stat
import sys
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mt3_infer.audio import AudioStream, array_audio, open_audio
from mt3_infer.errors import AudioError, InvalidOptionError

DEFAULT_SAMPLE_RATE = 16_000
"""The sample rate in Hz of a waveform without one: that of most networks."""

USABLE = "pass a path, a binary file object, or a waveform as a NumPy array or tensor"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def open_recording(audio: Any, sr: Any, *, sample_rate: int, max_seconds: float | None = None) -> AudioStream:
    """Open a recording as a stream at a network's sample rate.

    Args:
        audio: see `mt3_infer.transcribe`.
        sr: sample rate of a waveform, in Hz; `DEFAULT_SAMPLE_RATE` if it is None.
        sample_rate: of the stream, in Hz.
        max_seconds: refuse what is longer.
    Raises:
        AudioError: it cannot be used as a recording.
        InvalidOptionError: the sample rate or the limit is none, or `sr` is given for a file.
        OSError: the path cannot be opened.
    """
    _check_limit(max_seconds)
    if hasattr(audio, "__array__"):
        rate = _checked_rate(sr)
        return array_audio(_as_array(audio), rate, sample_rate=sample_rate, max_seconds=max_seconds)
    if sr is not None and (_is_file(audio) or isinstance(audio, str | PathLike | AudioStream)):
        raise InvalidOptionError("A file knows its own sample rate: leave out sr, or pass a waveform.")
    if not isinstance(audio, AudioStream):
        return open_audio(_source(audio), sample_rate=sample_rate, max_seconds=max_seconds)
    if audio.sample_rate != sample_rate:
        raise AudioError(
            f"The stream has {audio.sample_rate} Hz, and the model needs {sample_rate} Hz:"
            f" open it with sample_rate={sample_rate}."
        )
    return audio


def _is_file(audio: Any) -> bool:
    return hasattr(audio, "read")


def _source(audio: Any) -> Path | BinaryIO:
    """Return the path or the binary file; refuse everything else."""
    if isinstance(audio, str | PathLike):
        return _checked_path(audio)
    if isinstance(audio, bytes | bytearray | memoryview):
        raise AudioError("Bytes are no recording: pass io.BytesIO(data), or a path as text.")
    if isinstance(audio, list | tuple):
        raise AudioError(_about_sequence(audio))
    if not _is_file(audio):
        raise AudioError(f"A recording cannot be of type {type(audio).__name__}: {USABLE}.")
    try:
        nothing = audio.read(0)
    except (OSError, ValueError, TypeError) as error:
        raise AudioError("The file object cannot be read: pass one that is open for reading.") from error
    if not isinstance(nothing, bytes | bytearray):
        raise AudioError("The file is open as text: open it in binary mode, open(path, 'rb').")
    file: BinaryIO = audio
    return file


def _checked_path(audio: str | PathLike[Any]) -> Path:
    path = os.fspath(audio)
    if not isinstance(path, str):
        raise AudioError("A path of bytes cannot be used: pass it as text, os.fsdecode(path).")
    if not path:
        raise AudioError("The path is empty: pass the path of a recording.")
    if "\0" in path:
        raise AudioError("The path contains a null character, which no file name may.")
    if _URL.match(path) and not Path(path).exists():
        raise AudioError(f"{path} is a URL: download the recording and pass its path.")
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise AudioError(f"{path} is a folder: pass the path of one recording.")
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise AudioError(f"{path} is a device, not a recording: pass the path of a file or of a pipe.")
    return Path(path)


def _about_sequence(audio: list[Any] | tuple[Any, ...]) -> str:
    if len(audio) == 2 and sum(hasattr(part, "__array__") for part in audio) == 1:
        return "A pair of waveform and sample rate cannot be used: pass transcribe(waveform, sr=sample_rate)."
    if any(isinstance(part, str | PathLike) for part in audio):
        return "Only one recording is transcribed at a time: call transcribe once for each path."
    return f"A {type(audio).__name__} of samples cannot be used: pass numpy.asarray(samples, dtype=numpy.float32)."


def _as_array(audio: Any) -> NDArray[Any]:
    try:
        if (torch := sys.modules.get("torch")) is not None and isinstance(audio, torch.Tensor):
            # NumPy knows neither gradients nor bfloat16.
            tensor = audio.detach().cpu()
            if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
                tensor = tensor.float()
            return np.asarray(tensor.numpy())
        if isinstance(audio, np.ma.MaskedArray) and np.ma.is_masked(audio):
            raise AudioError("Some samples of the waveform are masked: pass waveform.filled(0).")
        return np.asarray(audio)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise AudioError(f"A waveform of type {type(audio).__name__} cannot be read: {USABLE}.") from error


def _checked_rate(sr: Any) -> int:
    if sr is None:
        return DEFAULT_SAMPLE_RATE
    is_number = isinstance(sr, int | float | np.integer | np.floating) and not isinstance(sr, bool)
    if not is_number or not np.isfinite(sr) or sr != int(sr) or sr <= 0:
        raise InvalidOptionError(
            f"sr={reprlib.repr(sr)} is no sample rate: pass the waveform's, a whole number of Hz such as 44100."
        )
    return int(sr)


def _check_limit(max_seconds: Any) -> None:
    is_number = isinstance(max_seconds, int | float) and not isinstance(max_seconds, bool)
    if max_seconds is not None and not (is_number and max_seconds > 0):
        raise InvalidOptionError(
            f"max_seconds={reprlib.repr(max_seconds)} is no limit: pass a positive number of seconds, or None."
        )
