"""Turn samples as a file or an array holds them into one clean channel on the scale that networks expect.

Values are questioned here: samples that are no numbers, floats on an integer's scale, a constant offset,
channels that cancel each other out when mixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mt3_infer.errors import AudioError, AudioWarning

Waveform: TypeAlias = NDArray[np.float32]
"""Mono, shape (S,), nominally in [-1, 1]."""

LOUDEST = 8.0  # 18 dB over full scale: mixes in float go over 1, but not so far
RARE = 1e-3  # share of samples beyond LOUDEST that are outliers; where there are more, the scale is another
OUTLIERS = 1e-5  # share of samples that a scale need not hold
SCALES = (7, 15, 23, 31)  # bits: values up to 2^bits are full scale
SMALL_SCALES = (15, 23)  # of integers of 32 and 64 bits that hold samples of 16 and 24
FAR_QUIETER = 10 ** (-10 / 10)  # power of a mix in which the channels cancel, by that of unrelated ones
SILENT = 1e-6  # power of a channel without sound, by that of the loudest
FADE_SECONDS = 0.05  # from the mix to the loudest channel and back
OFFSET = 0.02  # mean of a second of sound that no music has: a constant offset
MIN_RATE = 1000  # Hz; below it nothing is a recording


@dataclass(frozen=True)
class Raw:
    """Samples as they come out of a decoder or an array.

    Attributes:
        rate: Hz.
        samples: shape (S, C), of any integer or float type.
        low: channels that carry only low effects (LFE), which a mix leaves out.
    """

    rate: int
    samples: NDArray[Any]
    low: tuple[int, ...] = ()


class Scale:
    """Finds the scale of samples that may not be on that of their type, by a histogram of their exponents."""

    def __init__(self) -> None:
        self._counts = np.zeros(128, np.int64)  # by the power of two that a value does not reach, from 2^-64 on
        self._unusable = 0
        self._total = 0

    def add(self, samples: NDArray[Any]) -> None:
        """Count some samples."""
        with np.errstate(invalid="ignore"):  # signaling NaN
            values = np.abs(samples.astype(np.float64, copy=False)).ravel()
        usable = np.isfinite(values)
        self._total += values.size
        self._unusable += values.size - int(np.count_nonzero(usable))
        # Shrunk a little, so that the lowest integer (-32,768) counts as one of 16 bits.
        exponents = np.frexp(values[usable & (values > 0)] * (1 - 1e-6))[1]
        self._counts += np.bincount(np.clip(exponents + 64, 0, 127), minlength=128)

    def find_float_divisor(self) -> float:
        """Return what float samples are to be divided by: 1, or the full scale of an integer type.

        Raises:
            AudioError: most are no numbers, or fit no scale.
        """
        if self._total and self._unusable * 2 > self._total:
            raise AudioError("Most samples are not numbers (NaN or infinite). Export the recording again.")
        if self._share_beyond(3) <= RARE:
            return 1.0
        for bits in SCALES:
            if self._share_beyond(bits) <= OUTLIERS:
                return float(2**bits)
        raise AudioError("The samples are far beyond full scale. Scale them to the range from -1 to 1.")

    def find_integer_divisor(self, bits: int) -> float:
        """Return full scale of integers of so many bits: that of fewer where all are so small."""
        if bits < 32 or not self._counts.any():
            return float(2 ** (bits - 1))
        for small in (*SMALL_SCALES, 31):
            if self._share_beyond(small) == 0:
                return float(2 ** min(small, bits - 1))
        return float(2 ** (bits - 1))

    def _share_beyond(self, bits: int) -> float:
        """Return the share of samples, of those that are not zero, that are larger than 2^bits."""
        count = int(self._counts.sum())
        return float(self._counts[64 + bits + 1 :].sum()) / count if count else 0.0


class Mixer:
    """Mixes channels down, a second at a time; where they cancel out, takes the loudest instead.

    Attributes:
        muted: samples that were no numbers, or outliers, and became silence.
        usable: samples that are numbers.
        canceled_seconds: for how long the loudest channel was taken.
        divisor: what float samples, or integers of more than 16 bits, are divided by; None for their type's scale.
    """

    def __init__(self, divisor: float | None = None) -> None:
        self.divisor = divisor
        self.muted = 0
        self.usable = 0
        self.canceled_seconds = 0.0
        self._used: tuple[int, ...] = ()
        self._active: set[int] = set()

    def mix(self, raw: Raw) -> Waveform:
        """Return one channel of samples of shape (S, C), in [-1, 1]."""
        samples = self._clean(raw.samples)
        kept = [c for c in range(samples.shape[1]) if c not in raw.low] or list(range(samples.shape[1]))
        if len(kept) == 1 or not len(samples):
            return _mean(samples[:, kept], self.divisor)
        before, self._used = self._used, self._choose(samples, kept)
        if self._used != tuple(kept) and len(self._used) == 1:
            self.canceled_seconds += len(samples) / raw.rate
        after = self._mean_of(samples, self._used)
        if before == self._used or not before or max(before) >= samples.shape[1]:
            return after
        start = self._mean_of(samples, before)
        fade = np.minimum(1, np.arange(len(after), dtype=np.float32) / max(1, int(FADE_SECONDS * raw.rate)))
        faded: Waveform = start + (after - start) * fade
        return faded

    def _mean_of(self, samples: NDArray[Any], channels: tuple[int, ...]) -> Waveform:
        is_all = channels == tuple(range(samples.shape[1]))
        return _mean(samples if is_all else samples[:, list(channels)], self.divisor)

    def _choose(self, samples: NDArray[Any], kept: list[int]) -> tuple[int, ...]:
        """Return the channels to average: all with sound, or the loudest where they cancel each other out."""
        powers = {c: float(np.mean(np.square(self._mean_of(samples, (c,)), dtype=np.float64))) for c in kept}
        loudest = max(kept, key=lambda c: powers[c])
        if len(kept) > 2:  # stereo in a file of six channels is not to come out quieter for the silent four
            self._active |= {c for c in kept if powers[c] > SILENT * powers[loudest] > 0}
        mixed = tuple(c for c in kept if c in self._active) or tuple(kept) if len(kept) > 2 else tuple(kept)
        if len(mixed) == 1 or powers[loudest] < 1e-9:
            return mixed
        power = float(np.mean(np.square(self._mean_of(samples, mixed), dtype=np.float64)))
        independent = sum(powers[c] for c in mixed) / len(mixed) ** 2  # power of a mix of unrelated channels
        is_single = len(self._used) == 1
        if power >= FAR_QUIETER * (2 if is_single else 1) * independent:
            return mixed
        # What was taken before is kept as long as it is not far quieter: no switching to and fro.
        if is_single and powers.get(self._used[0], 0) > powers[loudest] / 4:
            return self._used
        return (loudest,)

    def _clean(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Silence floats that are no samples."""
        if samples.dtype.kind != "f":
            self.usable += samples.size
            return samples
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(samples) <= LOUDEST * (self.divisor or 1.0))
        count = int(np.count_nonzero(bad))
        self.muted += count
        self.usable += samples.size - count
        return np.where(bad, np.zeros(1, samples.dtype), samples) if count else samples


def _mean(samples: NDArray[Any], divisor: float | None) -> Waveform:
    """Average the channels of (S, C); integers become [-1, 1)."""
    kind, bits = samples.dtype.kind, samples.dtype.itemsize * 8
    mean = samples.mean(axis=1, dtype=np.float32 if bits <= 32 and kind == "f" else np.float64)
    if kind == "u":
        mean = mean / 2 ** (bits - 1) - 1
    elif kind == "i" or divisor not in (None, 1.0):
        mean = mean / (divisor or 2 ** (bits - 1))
    mono: Waveform = mean.astype(np.float32, copy=False)
    return mono


class OffsetRemover:
    """Takes a constant offset off a waveform, second by second; what has none passes unchanged.

    Attributes:
        offset: that was found last.
        was_found: whether there was any.
    """

    def __init__(self) -> None:
        self.offset = 0.0
        self.was_found = False
        self._has_begun = False

    def remove(self, waveform: Waveform, rate: int) -> Waveform:
        """Return the waveform without its offset."""
        if len(waveform) * 2 >= rate or not self._has_begun:  # the mean of less does not determine an offset
            mean = float(np.mean(waveform, dtype=np.float64)) if len(waveform) else 0.0
            if abs(mean - self.offset) > OFFSET:
                self.offset = mean if abs(mean) > OFFSET else 0.0
                self.was_found = True
        self._has_begun = True
        return waveform - np.float32(self.offset) if self.offset else waveform


def gather(pieces: Iterable[Raw]) -> Iterator[Raw]:
    """Join small pieces of one kind to about a second each, so that what follows has less to do."""
    held: list[NDArray[Any]] = []
    length = 0
    first: Raw | None = None
    for piece in pieces:
        is_same = first is not None and (
            (piece.rate, piece.low, piece.samples.dtype, piece.samples.shape[1])
            == (first.rate, first.low, first.samples.dtype, first.samples.shape[1])
        )
        if first is not None and (not is_same or length >= first.rate):
            yield Raw(first.rate, np.concatenate(held), first.low)
            held, length, first = [], 0, None
        first = first or piece
        held.append(piece.samples)
        length += len(piece.samples)
    if first is not None:
        yield Raw(first.rate, np.concatenate(held), first.low)


def level_warnings(mixer: Mixer, remover: OffsetRemover, seconds: float) -> list[AudioWarning]:
    """Return a warning for each correction of the samples."""
    warnings = []
    if mixer.divisor is not None and mixer.divisor != 1.0:
        bits = round(np.log2(mixer.divisor)) + 1
        detail = f"The samples are in the range of {bits}-bit integers: they were divided by {mixer.divisor:,.0f}."
        warnings.append(AudioWarning("rescaled", detail))
    if mixer.muted:
        some = "1 sample is" if mixer.muted == 1 else f"{mixer.muted:,} samples are"
        warnings.append(
            AudioWarning("samples_muted", f"{some} not a number or far too loud, and replaced with silence.")
        )
    if mixer.canceled_seconds:
        warnings.append(
            AudioWarning(
                "channels_cancel",
                f"The channels nearly cancel out when mixed to mono, for {mixer.canceled_seconds:.1f} of"
                f" {seconds:.1f} s: the loudest channel was used there.",
            )
        )
    if remover.was_found:
        warnings.append(AudioWarning("offset_removed", "The samples had a constant offset, which was removed."))
    return warnings
