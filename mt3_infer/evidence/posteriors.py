"""Posteriors of Basic Pitch, quantized."""

from __future__ import annotations

import numpy as np

from mt3_infer.audio import Waveform
from mt3_infer.evidence.tracks import Frames

LEVELS = 63
"""The posterior 1; 0 is 0."""

PITCHES = 88


def quantize(frames: Waveform, onsets: Waveform) -> Frames:
    """Return posteriors of frames and onsets, each of shape (T, 88), as one array of shape (T, 176)."""
    both = np.concatenate([frames, onsets], axis=1)
    levels: Frames = np.rint(LEVELS * np.clip(both, 0, 1)).astype(np.uint8)
    return levels
