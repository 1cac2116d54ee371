"""Recordings for tests, made on the spot with PyAV."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def read_mono(path: Path, sample_rate: int = 44100) -> NDArray[np.float32]:
    """All samples of a file, mono, shape (S,)."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
    with av.open(str(path)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def encode(
    samples: NDArray[np.float32], sample_rate: int, container: str, codec: str, bit_rate: int | None = None
) -> bytes:
    """Mono samples of shape (S,) as a file of some format."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=sample_rate, layout="mono")
        if bit_rate:
            stream.bit_rate = bit_rate
        _encode_into(output, stream, samples, sample_rate)
    return buffer.getvalue()


def silent_video(seconds: float = 1.0) -> bytes:
    """An MP4 with a picture and no sound."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(int(10 * seconds)):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def _encode_into(output: object, stream: object, samples: NDArray[np.float32], sample_rate: int) -> None:
    resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=sample_rate)  # type: ignore[attr-defined]
    for start in range(0, len(samples), 1024):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
        for resampled in resampler.resample(frame):
            output.mux(stream.encode(resampled))  # type: ignore[attr-defined]
    output.mux(stream.encode(None))  # type: ignore[attr-defined]
