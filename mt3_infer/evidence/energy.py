"""Energy of a recording by pitch and by band, in decibels: a constant-Q transform in windows.

Source: Brown and Puckette, An Efficient Algorithm for the Calculation of a Constant Q Transform (1992). Low
pitches have filters shorter than constant Q would give them, so that an attack stays within a quarter of a second.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from mt3_infer.audio import Waveform

SAMPLE_RATE = 22050  # Hz
HOP = 512  # samples from frame to frame
FRAMES = 71  # of a window: 1.64 s, and a part of a frame more
MARGIN = SAMPLE_RATE * 9 // 50  # samples of context before and after these frames
LOWEST_PITCH = 21  # A0
PITCHES = 88
BANDS = ((30, 110), (110, 250), (250, 600), (600, 1500), (1500, 3500), (3500, 6000), (6000, 10500))
"""In Hz, for drums."""
COLUMNS = PITCHES + len(BANDS)

FLOOR = -120  # dB, stored as 0; each unit above it is a decibel
QUALITY = 16.8  # the center of a filter over its width: a semitone
WIDENING = 15.0  # Hz by which each filter is wider
SHORTEST = 512  # samples of a filter
BAND_FFT = 1024  # samples
PADDING = 8192  # samples of silence on either side of a window, more than any filter needs

Energies = NDArray[np.uint8]


def window_energies(window: Waveform) -> Energies:
    """Return the energies of the middle of a window of 2 s.

    There is no matrix product in it: BLAS would start threads beside those of the network.

    Args:
        window: 44,100 samples at 22,050 Hz.
    Returns:
        Decibels above `FLOOR`, shape (71, 95): 88 pitches from A0, then `BANDS`.
    """
    padded = np.pad(window, PADDING)
    amplitudes = np.empty((FRAMES, COLUMNS))
    spectra: dict[int, NDArray[np.complex128]] = {}
    for column, (length, first, filtered) in enumerate(_filters()):
        if length not in spectra:
            spectra[length] = np.fft.rfft(_frames(padded, length))
        amplitudes[:, column] = np.abs((spectra[length][:, first : first + len(filtered)] * filtered).sum(axis=1))
    power = np.abs(np.fft.rfft(_frames(padded, BAND_FFT) * _hann(BAND_FFT))) ** 2
    frequencies = np.fft.rfftfreq(BAND_FFT, 1 / SAMPLE_RATE)
    for column, (low, high) in enumerate(BANDS, start=PITCHES):
        amplitudes[:, column] = np.sqrt(power[:, (frequencies >= low) & (frequencies < high)].sum(axis=1))
    decibels = 20 * np.log10(np.maximum(amplitudes, 1e-6)) - FLOOR
    energies: Energies = np.clip(np.rint(decibels), 0, 255).astype(np.uint8)
    return energies


def _frames(padded: Waveform, length: int) -> Waveform:
    """Return the samples around each frame, shape (71, length)."""
    starts = PADDING + MARGIN - length // 2 + HOP * np.arange(FRAMES)
    return np.lib.stride_tricks.sliding_window_view(padded, length)[starts]


@cache
def _filters() -> list[tuple[int, int, NDArray[np.complex128]]]:
    """Return for each pitch the length of its FFT, its first frequency bin, and its filter from there on."""
    return [_filter(440 * 2 ** ((LOWEST_PITCH + column - 69) / 12)) for column in range(PITCHES)]


def _filter(frequency: float) -> tuple[int, int, NDArray[np.complex128]]:
    length = int(np.clip(QUALITY * SAMPLE_RATE / (frequency + WIDENING), SHORTEST, 2 * MARGIN))
    fft = 1 << (length - 1).bit_length()
    wave = np.zeros(fft, np.complex128)
    time = np.arange(length) - length // 2
    wave[fft // 2 + time] = _hann(length) * np.exp(2j * np.pi * frequency / SAMPLE_RATE * time)
    spectrum: NDArray[np.complex128] = np.fft.fft(wave).conj()[: fft // 2 + 1] / fft
    bins = np.flatnonzero(np.abs(spectrum) > 1e-3 * np.abs(spectrum).max())
    return fft, int(bins[0]), spectrum[bins[0] : bins[-1] + 1]


def _hann(length: int) -> NDArray[np.float64]:
    """Return a Hann window of unit sum."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    scaled: NDArray[np.float64] = window / window.sum()
    return scaled
