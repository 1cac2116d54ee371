"""Makes recordings to decode: any codec and container, from a recording or from tones."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray


def tone(seconds: float, rate: int = 22050, pitch: float = 440.0) -> NDArray[np.float32]:
    """A sine at half of full scale, shape (S,)."""
    times = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)


def write(path: Path, waveform: NDArray[np.float32], rate: int, codec: str = "pcm_s16le", **options: Any) -> Path:
    """Encode a waveform of shape (S,), the same on both channels, or (C, S) with a `layout` of C channels."""
    layout = options.setdefault("layout", "stereo")
    planes = np.broadcast_to(waveform, (av.AudioLayout(layout).nb_channels, waveform.shape[-1]))
    minutes = range(0, planes.shape[1], 60 * rate)  # a frame cannot hold hours
    frames = (_frame(planes[:, at : at + 60 * rate], rate, layout) for at in minutes)
    return _encode(path, frames, codec, rate, **options)


def _frame(planes: NDArray[np.float32], rate: int, layout: str) -> av.AudioFrame:
    packed = np.ascontiguousarray(planes.T).reshape(1, -1)  # a frame has pointers to eight planes only
    frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    frame.sample_rate = rate
    return frame


def encode(source: Path, target: Path, codec: str, rate: int, **options: Any) -> Path:
    """Encode a copy of a recording."""
    with av.open(str(source)) as container:
        return _encode(target, container.decode(audio=0), codec, rate, **options)


def remux(source: Path, target: Path, *, without: tuple[float, float], kind: str | None = None) -> Path:
    """Copy a recording without the packets of a stretch, as from a broken connection: clocks go on."""
    with av.open(str(source)) as before, av.open(str(target), "w", format=kind) as after:
        track = before.streams.audio[0]
        copy = after.add_stream_from_template(track)
        start = float((track.start_time or 0) * (track.time_base or 0))
        for packet in before.demux(track):
            if packet.dts is None or packet.pts is None:
                continue
            if not without[0] <= float(packet.pts * packet.time_base) - start < without[1]:
                packet.stream = copy
                after.mux(packet)
    return target


def _encode(
    path: Path,
    frames: Iterator[av.AudioFrame],
    codec: str,
    rate: int,
    *,
    bit_rate: int = 0,
    muxer: dict[str, str] | None = None,
    kind: str | None = None,
    layout: str = "stereo",
    starts_at: float = 0.0,
    video: bool = False,
) -> Path:
    with av.open(str(path), "w", format=kind, options=muxer or {}) as container:
        picture = _add_picture(container) if video else None
        stream: Any = container.add_stream(codec, rate=rate, options={"strict": "-2"})
        stream.layout = layout
        if bit_rate:
            stream.bit_rate = bit_rate
        if picture is not None:
            _show_picture(container, picture)
        converter = av.AudioResampler(stream.codec_context.codec.audio_formats[0].name, layout, rate)
        position = round(starts_at * rate)
        for frame in [*frames, None]:
            for part in converter.resample(frame):
                part.pts, part.time_base = position, Fraction(1, rate)
                position += part.samples
                container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def write_silent_video(path: Path) -> Path:
    """A video without an audio track."""
    with av.open(str(path), "w") as container:
        _show_picture(container, _add_picture(container))
    return path


def _add_picture(container: Any) -> Any:
    stream = container.add_stream("mpeg4", rate=10)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    return stream


def _show_picture(container: Any, stream: Any) -> None:
    """A second of darkness."""
    for number in range(10):
        frame = av.VideoFrame.from_ndarray(np.zeros((96, 64), np.uint8), format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, 10)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
