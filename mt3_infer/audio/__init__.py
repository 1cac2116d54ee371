"""Audio from anywhere as mono float32 at the sample rate that a network takes: the one decoder, the one resampler.

stream      blocks of samples, what files and arrays become
isolation   decodes a file in a child process, within limits
decode      what runs there: containers, clocks, damage
headers     what a file's own bytes state
levels      channels, scales, values that are no samples
arrays      waveforms from memory
"""

from __future__ import annotations

from os import PathLike
from typing import BinaryIO

from mt3_infer.audio.arrays import array_audio
from mt3_infer.audio.isolation import DecodeLimits, FileStream
from mt3_infer.audio.levels import Waveform
from mt3_infer.audio.stream import AudioStream

__all__ = ["AudioStream", "DecodeLimits", "Waveform", "array_audio", "open_audio"]


def open_audio(
    source: str | PathLike[str] | BinaryIO,
    *,
    sample_rate: int,
    max_seconds: float | None = None,
    limits: DecodeLimits | None = None,
) -> AudioStream:
    """Open a recording of any common format: WAV, FLAC, MP3, Ogg, Opus, M4A, the sound of a video, and others.

    The default audio track is taken. Channels are averaged before resampling. What an encoder put before and
    after the recording for its own purposes is dropped. Sound has its place on the file's own clock: where
    packets are missing or damaged there is silence, and `warnings` report it.

    Args:
        source: a path, or a binary file; it is read from its beginning and left open.
        sample_rate: of the blocks, in Hz.
        max_seconds: refuse what is longer, or unpacks to more than such a recording may.
        limits: of time and memory for opening and decoding.
    Raises:
        AudioError: no recording, or of a kind that is not supported.
        NoAudioStreamError, EmptyAudioError, TruncatedAudioError, ProtectedAudioError, CostlyAudioError,
            AudioTooLongError: see there.
        OSError: the path cannot be opened or read.
    """
    return FileStream(source, sample_rate=sample_rate, max_seconds=max_seconds, limits=limits or DecodeLimits())
