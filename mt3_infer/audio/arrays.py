"""Waveforms from memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt3_infer.audio.levels import MIN_RATE, Mixer, OffsetRemover, Raw, Scale, Waveform, gather, level_warnings
from mt3_infer.audio.resampling import MAX_SAMPLE_RATE, refuse_longer, resample
from mt3_infer.audio.stream import AudioStream
from mt3_infer.errors import AudioError, EmptyAudioError, InvalidOptionError


def array_audio(
    waveform: NDArray[np.number[Any]], sr: int, *, sample_rate: int, max_seconds: float | None = None
) -> AudioStream:
    """Take a waveform from memory.

    Args:
        waveform: shape (S,), (S, C) or (C, S): the shorter axis is taken as the channels, the second of two
            equal ones. Floats as they are; integers are scaled to [-1, 1] by the range of their type. Samples of
            16 or 24 bits in a wider integer type, or of any integer type as floats, are scaled by their own range.
        sr: its sample rate in Hz.
        sample_rate: of the blocks, in Hz.
        max_seconds: refuse what is longer.
    Raises:
        AudioError: another shape or type, samples that fit no scale, or none that is a number.
        InvalidOptionError: an impossible sample rate.
        EmptyAudioError, AudioTooLongError: see there.
    """
    array = np.asarray(waveform)
    if array.ndim not in (1, 2) or array.dtype.kind not in "iuf":
        raise AudioError(
            f"A waveform of shape {array.shape} and type {array.dtype} cannot be used:"
            " pass numbers of shape (S,), (S, C) or (C, S)."
        )
    if not MIN_RATE <= sr <= MAX_SAMPLE_RATE:
        raise InvalidOptionError(
            f"sr={sr} is not a valid sample rate. Pass the waveform's rate in Hz, such as 44100."
        )
    if array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T
    if array.size == 0:
        raise EmptyAudioError("The waveform has no samples.")
    duration = len(array) / sr
    refuse_longer(duration, max_seconds)
    return _ArrayStream(array[:, None] if array.ndim == 1 else array, int(sr), sample_rate, duration)


class _ArrayStream(AudioStream):
    """A waveform of shape (S, C), a second at a time."""

    def __init__(self, array: NDArray[Any], rate: int, sample_rate: int, duration: float) -> None:
        super().__init__(sample_rate=sample_rate, duration=duration)
        self._array = array
        self._rate = rate
        self._mixer = Mixer(_find_divisor(array))
        self._remover = OffsetRemover()

    def _generate(self) -> Iterator[Waveform]:
        yield from resample(self._mono(), self.sample_rate)
        if not self._mixer.usable:
            raise AudioError("All samples of the waveform are NaN or infinite, not numbers.")
        self.warnings = level_warnings(self._mixer, self._remover, self.seconds)

    def _mono(self) -> Iterator[tuple[int, Waveform]]:
        for raw in gather(Raw(self._rate, part) for part in _parts(self._array, self._rate)):
            self.seconds += len(raw.samples) / raw.rate
            samples = self._remover.remove(self._mixer.mix(raw), raw.rate)
            self.peak = max(self.peak, float(np.abs(samples).max(initial=0)))
            yield raw.rate, samples


def _find_divisor(array: NDArray[Any]) -> float | None:
    """Return what samples are to be divided by, None for the range of their type."""
    bits = array.dtype.itemsize * 8
    if array.dtype.kind == "u" or (array.dtype.kind == "i" and bits < 32):
        return None
    scale = Scale()
    for part in _parts(array, 1 << 20):
        scale.add(part)
    if array.dtype.kind == "f":
        return scale.find_float_divisor()
    divisor = scale.find_integer_divisor(bits)
    return None if divisor == 2.0 ** (bits - 1) else divisor


def _parts(array: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    for start in range(0, len(array), size):
        yield array[start : start + size]
