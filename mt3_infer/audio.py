"""Any recording → mono float32 at the sample rate that a network hears: the one decoder, the one resampler.

Files come from strangers. Containers and codecs are on a list; nothing that a file names (a playlist's entries,
an address) is opened; pictures and video are not decoded; length is counted while decoding, in seconds and in
bytes, because a header can claim anything. Memory stays the same however long the recording.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import av
import av.error
import numpy as np
import soxr
from numpy.typing import NDArray

from mt3_infer import headers
from mt3_infer.errors import (
    AudioError,
    AudioTooLongError,
    EmptyAudioError,
    InvalidOptionError,
    NoAudioStreamError,
    TruncatedAudioError,
)

Waveform = NDArray[np.float32]
"""Mono, shape (S,), nominally in [-1, 1]."""

Piece = tuple[int, Waveform]
"""Sample rate in Hz and the mono samples that have it."""

CONTAINERS = "aac,aiff,amr,asf,au,avi,caf,flac,matroska,mov,mp3,ogg,w64,wav,wv"
"""Names of FFmpeg's demuxers; "mov" is MP4, M4A and 3GP too, "matroska" WebM."""

CODECS = (
    "aac,ac3,alac,amrnb,amrwb,eac3,flac,mp2,mp2float,mp3,mp3float,opus,vorbis,wavpack,wmalossless,wmapro,wmav1,wmav2,"
    "adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,pcm_alaw,pcm_mulaw,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_s8,pcm_u8,"
    "pcm_s16be,pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32be,pcm_s32le"
)
"""Names of FFmpeg's decoders. No video and no picture decoder is among them, so that none is ever opened."""

KEPT_DURATION = frozenset(["aiff", "caf", "flac", "mov", "wav", "wv"])
"""Containers whose headers count the samples. Others are measured by their last page, or guessed by bit rate."""

MISSING_SECONDS = 0.5
"""A recording may end so much before the length in its header: encoders count their own delay and padding."""

BYTES_PER_SECOND = 48_000 * 8 * 4
"""Decoded bytes allowed for each second allowed: 8 channels at 48 kHz, or 2 at 192 kHz, of 4 bytes."""

MAX_SAMPLE_RATE = 768_000  # Hz; the fastest that converters are sold for
MAX_CHANNELS = 64
MAX_DAMAGED = 1000  # packets, of a file of which most is damaged
LOUDEST = 1e3  # full scale is 1; a float file may hold anything

WAYS_OUT = "convert it to WAV, FLAC, MP3, OGG or M4A"


class AudioStream:
    """A recording as mono blocks, to be run through once.

    Attributes:
        duration: seconds that the file's header declares, or None; of an array the true length.
        seconds: length of what was decoded so far.
        peak: largest absolute sample that was decoded so far.

    Iterating gives float32 blocks of shape (S,) at `sample_rate`, of about a second each. It raises an
    `AudioError` where the recording turns out to be empty, cut off, too long or broken.
    """

    def __init__(
        self,
        pieces: Iterable[Piece],
        *,
        sample_rate: int,
        duration: float | None,
        max_seconds: float | None = None,
        must_last: float | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.sample_rate = sample_rate
        self.duration = duration
        self.seconds = 0.0
        self.peak = 0.0
        self._pieces = pieces
        self._max_seconds = max_seconds
        self._must_last = must_last
        self._close = close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __iter__(self) -> Iterator[Waveform]:
        _refuse_longer(self.duration, self._max_seconds)
        yield from _resample(self._watch(), self.sample_rate)
        if self.seconds == 0:
            raise EmptyAudioError("The recording lasts 0 seconds: check that it was saved to the end.")
        if self._must_last is not None and self.seconds < self._must_last - MISSING_SECONDS:
            raise TruncatedAudioError(
                f"The recording is cut off: of the {self._must_last:.1f} s that its header promises,"
                f" {self.seconds:.1f} s are there. Copy or upload it again."
            )

    def _watch(self) -> Iterator[Piece]:
        """Pass the pieces on, cleaned, and keep count of them."""
        for rate, samples in _gather(self._pieces):
            self.seconds += len(samples) / rate
            _refuse_longer(self.seconds, self._max_seconds)
            # Float formats can hold NaN, infinity and numbers that overflow in the network's squares.
            clean = np.clip(np.nan_to_num(samples), -LOUDEST, LOUDEST)
            self.peak = max(self.peak, float(np.abs(clean).max(initial=0)))
            yield rate, clean


def open_audio(
    source: str | PathLike[str] | BinaryIO, *, sample_rate: int, max_seconds: float | None = None
) -> AudioStream:
    """Open a recording of any common format: WAV, FLAC, MP3, OGG, Opus, M4A, the sound of an MP4, and others.

    The first audio track is taken. Channels are averaged before resampling. What an encoder put before and
    after the recording for its own purposes is left away where the file says so.

    Args:
        source: a path, or a binary file that can seek; it is read from its beginning and left open.
        sample_rate: of the blocks, in Hz.
        max_seconds: refuse what is longer, or unpacks to more than such a recording may.
    Raises:
        AudioError: no recording, or of a kind that is not supported.
        NoAudioStreamError, EmptyAudioError, TruncatedAudioError, AudioTooLongError: see there.
        OSError: the path cannot be opened.
    """
    file: BinaryIO
    if isinstance(source, str | PathLike):
        file = Path(source).open("rb")  # noqa: SIM115  the stream closes it
        close_file = file.close
    else:
        file, close_file = source, lambda: None
    try:
        counts_mp3_frames = headers.counts_mp3_frames(file)
        missing = headers.missing_bytes(file)
        is_cut = headers.ends_inside_ogg_page(file)
        container = _open_container(file)
    except BaseException:
        close_file()
        raise

    def close() -> None:
        container.close()
        close_file()

    try:
        track = _choose_track(container)
        duration = _seconds(track.duration, track.time_base)
        if duration is None and container.duration is not None:
            duration = container.duration / av.time_base
        byte_rate = (track.codec_context.bit_rate or 0) / 8
        if is_cut or missing > MISSING_SECONDS * byte_rate > 0:
            raise TruncatedAudioError("The recording is cut off: its end is missing. Copy or upload it again.")
        is_kept = _counts_samples(container, counts_mp3_frames)
        _refuse_longer(duration if is_kept else None, max_seconds)
        return AudioStream(
            _decode(container, track, max_seconds),
            sample_rate=sample_rate,
            duration=duration,
            max_seconds=max_seconds,
            must_last=duration if is_kept else None,
            close=close,
        )
    except BaseException:
        close()
        raise


def array_audio(
    waveform: NDArray[np.number[Any]], sr: int, *, sample_rate: int, max_seconds: float | None = None
) -> AudioStream:
    """Take a waveform from memory.

    Args:
        waveform: shape (S,), (S, C) or (C, S): the shorter axis is taken as the channels, the second of two
            equal ones. Floats as they are; integers are scaled to [-1, 1] by the range of their type.
        sr: its sample rate in Hz.
        sample_rate: of the blocks, in Hz.
        max_seconds: refuse what is longer.
    Raises:
        AudioError: another shape or type, or an impossible sample rate.
        EmptyAudioError, AudioTooLongError: see there.
    """
    array = np.asarray(waveform)
    if array.ndim not in (1, 2) or array.dtype.kind not in "iuf":
        raise AudioError(
            f"A waveform of shape {array.shape} and type {array.dtype} cannot be used:"
            " hand over numbers of shape (S,), (S, C) or (C, S)."
        )
    if not 0 < sr <= MAX_SAMPLE_RATE:
        raise InvalidOptionError(f"sr={sr} is no sample rate: give the waveform's in Hz, as 44100.")
    if array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T
    if array.shape[0] == 0 or array.size == 0:
        raise EmptyAudioError("The waveform has no samples.")
    pieces = ((int(sr), _mono(part[:, None] if part.ndim == 1 else part)) for part in _parts(array, int(sr)))
    duration = len(array) / sr
    _refuse_longer(duration, max_seconds)
    return AudioStream(pieces, sample_rate=sample_rate, duration=duration, max_seconds=max_seconds)


def _open_container(file: BinaryIO) -> av.container.InputContainer:
    """Probe a file for the containers of the list."""
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    if not head:
        raise EmptyAudioError("The file is empty (0 bytes): check that it was saved or uploaded to the end.")
    try:
        return av.open(
            file,
            mode="r",
            metadata_errors="ignore",
            options={
                "format_whitelist": CONTAINERS,
                "codec_whitelist": CODECS,
                "protocol_whitelist": "none",  # the file is open already, and nothing else may be
            },
        )
    except (av.error.FFmpegError, ValueError) as error:
        if head[4:8] == b"ftyp":  # MP4 and M4A: what tells where the sound is comes last in most of them
            raise TruncatedAudioError(
                "The MP4 or M4A file is cut off or broken: copy or upload it again."
            ) from error
        raise AudioError(f"The file is no recording that can be read: {WAYS_OUT}.") from error


def _choose_track(container: av.container.InputContainer) -> av.AudioStream:
    """The first audio track that a decoder of the list can read."""
    tracks = container.streams.audio
    if not tracks:
        raise NoAudioStreamError("The file holds no sound: choose one with an audio track.")
    for track in tracks:
        context = track.codec_context
        if context is not None and context.codec.name in CODECS.split(","):
            return track
    raise AudioError(f"The sound is coded in a way that is not supported: {WAYS_OUT}.")


def _counts_samples(container: av.container.InputContainer, counts_mp3_frames: bool) -> bool:
    """Whether the header says how long the track is, rather than FFmpeg guessing it."""
    names = container.format.name.split(",")
    if "mp3" in names:
        return counts_mp3_frames
    if "matroska" in names:  # says it of all tracks together
        return len(container.streams) == 1
    return not KEPT_DURATION.isdisjoint(names)


def _decode(
    container: av.container.InputContainer, track: av.AudioStream, max_seconds: float | None
) -> Iterator[Piece]:
    """Decode a track frame by frame. Damaged packets are passed over while sound ones outnumber them."""
    limit = math.inf if max_seconds is None else (max_seconds + 1) * BYTES_PER_SECOND
    total = good = bad = 0
    packets = container.demux(track)
    while True:
        try:
            packet = next(packets)
            frames = packet.decode()
        except StopIteration:
            break
        except av.error.EOFError:
            break
        except av.error.FFmpegError:
            bad += 1
            if bad > MAX_DAMAGED and bad > good:
                break
            continue
        for frame in frames:
            assert isinstance(frame, av.AudioFrame)
            good += 1
            _refuse_absurd(frame)
            samples = _planes(frame)
            total += samples.nbytes
            if total > limit:
                raise AudioTooLongError(f"The recording unpacks to more than {max_seconds:g} s of sound may.")
            yield frame.sample_rate, _mono(samples)
    if bad > good:
        raise AudioError(f"The recording is damaged and cannot be decoded: {WAYS_OUT}.")


def _refuse_absurd(frame: av.AudioFrame) -> None:
    rate, channels = frame.sample_rate, frame.layout.nb_channels
    if not (0 < rate <= MAX_SAMPLE_RATE and 0 < channels <= MAX_CHANNELS):
        raise AudioError(f"The file claims {channels} channels at {rate} Hz, which no recording has: {WAYS_OUT}.")


def _planes(frame: av.AudioFrame) -> NDArray[Any]:
    """Samples of a frame, shape (S, C)."""
    array = frame.to_ndarray()
    return array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)


def _mono(samples: NDArray[Any]) -> Waveform:
    """Average the channels of (S, C); integers become [-1, 1)."""
    kind, bits = samples.dtype.kind, samples.dtype.itemsize * 8
    with np.errstate(over="ignore", invalid="ignore"):  # of floats; they are cleaned afterwards
        mean = samples.mean(axis=1, dtype=np.float32 if bits <= 32 and kind == "f" else np.float64)
        if kind == "u":
            mean = mean / 2 ** (bits - 1) - 1
        elif kind == "i":
            mean = mean / 2 ** (bits - 1)
        mono: Waveform = mean.astype(np.float32, copy=False)
        return mono


def _parts(array: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    for start in range(0, len(array), size):
        yield array[start : start + size]


def _gather(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Join small pieces of one sample rate to about a second each, so that what follows has less to do."""
    held: list[Waveform] = []
    rate = 0
    for new_rate, samples in pieces:
        if held and (new_rate != rate or sum(map(len, held)) >= rate):
            yield rate, np.concatenate(held)
            held = []
        rate = new_rate
        held.append(samples)
    if held:
        yield rate, np.concatenate(held)


def _resample(pieces: Iterable[Piece], sample_rate: int) -> Iterator[Waveform]:
    """Bring pieces to one sample rate; a recording may change its own on the way (joined OGG files do)."""
    resampler: soxr.ResampleStream | None = None
    rate = 0
    for new_rate, samples in pieces:
        if resampler is not None and new_rate != rate:
            yield resampler.resample_chunk(samples[:0], last=True)
            resampler = None
        if resampler is None:
            rate = new_rate
            resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
        block = resampler.resample_chunk(samples)
        if len(block):
            yield block
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _seconds(ticks: int | None, time_base: Any) -> float | None:
    return None if ticks is None or time_base is None else float(ticks * time_base)


def _refuse_longer(seconds: float | None, max_seconds: float | None) -> None:
    if seconds is not None and max_seconds is not None and seconds > max_seconds:
        raise AudioTooLongError(
            f"The recording is longer than the {max_seconds:g} s that are allowed: cut it into parts."
        )
