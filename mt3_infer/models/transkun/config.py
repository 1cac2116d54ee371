"""The published network of Transkun 2.0: its grid, sizes and tracks, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from mt3_infer.audio.segments import SegmentGrid
from mt3_infer.audio.spectrogram import NormalizedSpectrogramConfig

SAMPLE_RATE = 44_100  # Hz
HOP = 1024  # samples from frame to frame, 23.2 ms
FRAME_SECONDS = HOP / SAMPLE_RATE

WINDOW_HOP_FRAMES = 345  # 8 s, rounded up to whole frames
GRID = SegmentGrid(
    SAMPLE_RATE, hop=WINDOW_HOP_FRAMES * HOP, length=16 * SAMPLE_RATE, lead=8 * SAMPLE_RATE, tail=8 * SAMPLE_RATE
)
"""Windows of 16 s, the first of which begins 8 s before the recording.

The published code goes on for another 8 s, with windows that hold nothing but silence.
"""

FRAMES = -(-GRID.length // HOP) + 1  # 691; frame t lies around sample t × HOP of the window
LAST_FRAME = round(GRID.length / HOP)
"""An event that ends before this frame of a window, 689, certainly ends in it."""

FIRST_START = GRID.lead // HOP
"""The frame of the first window, 344, from which on it is decoded."""

PEDALS = (64, 67)
"""MIDI controllers: sustain and soft."""

LOWEST_PITCH = 21  # A0
PITCHES = 88
TRACKS = len(PEDALS) + PITCHES
"""Sequences of intervals that are decoded for a window: the pedals, then the keys."""

TRACK_POSITIONS = (*(-controller for controller in PEDALS), *range(LOWEST_PITCH, LOWEST_PITCH + PITCHES))
"""The positions along the pitch axis for which the network learned an embedding of each track."""


@dataclass(frozen=True)
class TranskunConfig:
    """Sizes of the network.

    Attributes:
        mel: of the spectrograms; the low bands are narrower than a bin.
        learned_windows: spectrograms beside that with a Hann window, each with a learned Gaussian window.
        width: of the first convolution; tokens are four times as wide.
        patch: frames that a token spans.
        velocities: MIDI velocities that are told apart.
    """

    mel: NormalizedSpectrogramConfig = field(
        default_factory=lambda: NormalizedSpectrogramConfig(
            sample_rate=SAMPLE_RATE, hop_length=HOP, n_fft=4096, n_mels=229, low_edge=30.0, high_edge=8000.0
        )
    )
    learned_windows: int = 5
    width: int = 64
    patch: int = 8
    heads: int = 8
    layers: int = 6
    groups: int = 4  # of channels that are normalized together
    hidden: int = 512  # of the networks for velocities and refined times
    velocities: int = 128

    @property
    def d_model(self) -> int:
        """Width of a token, 256."""
        return 4 * self.width
