"""The recording as Opus, for browsers that cannot play the file that was uploaded.

It is made by the decoder that the notes come from, so that every sound is where the notes are: silence where the
file has none, and nothing of an encoder's delay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from mt3_infer.audio import AudioStream, open_audio
from mt3_infer.exports import Export
from mt3_infer.exports.options import ExportOptions
from mt3_infer.exports.sound import ENCODINGS, Stereo, encode

ENCODING = "opus"
SAMPLE_RATE = ENCODINGS[ENCODING][2]


def write_recording(export: Export[ExportOptions]) -> None:
    """Write the recording, mono.

    Raises:
        AudioError: it cannot be decoded.
    """
    assert export.audio is not None
    with export.path.open("wb") as file:
        if isinstance(export.audio, AudioStream):
            _write(export.audio, file, export)
        else:
            with open_audio(export.audio, sample_rate=SAMPLE_RATE) as audio:
                _write(audio, file, export)


def _write(audio: AudioStream, file: BinaryIO, export: Export[ExportOptions]) -> None:
    if audio.sample_rate != SAMPLE_RATE:
        raise ValueError(f"The recording must be opened at {SAMPLE_RATE} Hz.")
    encode(_blocks(audio, export), file, ENCODING, "")


def _blocks(audio: AudioStream, export: Export[ExportOptions]) -> Iterator[Stereo]:
    duration = audio.duration or export.transcription.duration or 1.0
    for block in audio:
        yield np.repeat(np.clip(block, -1, 1)[:, np.newaxis], 2, axis=1)
        export.progress(min(1.0, audio.seconds / duration))
