"""Basic Pitch's windows and frames, as published."""

from __future__ import annotations

from mt3_infer.audio import Waveform
from mt3_infer.audio.segments import SegmentGrid

SAMPLE_RATE = 22050  # Hz
HOP = 256  # samples from frame to frame
WINDOW_SAMPLES = 2 * SAMPLE_RATE - HOP  # 43844
WINDOW_FRAMES = 2 * (SAMPLE_RATE // HOP)  # 172
EDGE_FRAMES = 15  # left away at each end of a window
WINDOW_HOP = WINDOW_SAMPLES - 2 * EDGE_FRAMES * HOP  # 36164 samples from window to window
LOWEST_PITCH = 21  # A0

# The edge frames that are left away of the first window lie before the recording, as silence.
GRID = SegmentGrid(
    SAMPLE_RATE, hop=WINDOW_HOP, length=WINDOW_SAMPLES, lead=EDGE_FRAMES * HOP, tail=EDGE_FRAMES * HOP
)

Posteriors = tuple[Waveform, Waveform]
"""Posteriors of frames and of onsets, each of shape (T, 88)."""
