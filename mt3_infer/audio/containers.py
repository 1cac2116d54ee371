"""Open a part of a file in FFmpeg, choose its track, and decode it frame by frame.

Containers and codecs are on a list; nothing that a file names (a playlist's entries, an address) is opened;
pictures and video are not decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import av
import av.error
import numpy as np
from av.packet import Packet
from numpy.typing import NDArray

from mt3_infer.audio.clocks import STREAMS, Clock, seconds_of
from mt3_infer.audio.files import File, Part, View
from mt3_infer.audio.frames import ends_inside_mp3_frame, find_block, mp3_seconds, strip_tags
from mt3_infer.audio.levels import MIN_RATE, Raw
from mt3_infer.audio.resampling import MAX_SAMPLE_RATE
from mt3_infer.audio.timeline import MAX_SILENCE_SECONDS, OVERLAP_SECONDS, Report
from mt3_infer.errors import AudioError, AudioTooLongError, NoAudioStreamError, TruncatedAudioError

CONTAINERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nut,"
    "ogg,rm,tak,truehd,tta,voc,w64,wav,wv"
)
"""Names of FFmpeg's demuxers; "mov" is MP4, M4A and 3GP too, "matroska" WebM, "mpeg" VOB."""
CODECS = (
    "aac,aac_latm,ac3,alac,amrnb,amrwb,ape,cook,dca,dsd_lsbf,dsd_lsbf_planar,dsd_msbf,dsd_msbf_planar,eac3,flac,mlp,"
    "mp1,mp1float,mp2,mp2float,mp3,mp3float,mpc7,mpc8,nellymoser,opus,ra_144,ra_288,real_144,real_288,speex,tak,"
    "truehd,tta,vorbis,wavpack,wmalossless,wmapro,wmav1,wmav2,"
    "adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_swf,adpcm_yamaha,gsm,gsm_ms,"
    "pcm_alaw,pcm_mulaw,pcm_bluray,pcm_dvd,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_s8,pcm_u8,"
    "pcm_s16be,pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32be,pcm_s32le,pcm_u16be,pcm_u16le,pcm_u24be,pcm_u24le"
)
"""Names of FFmpeg's decoders. No video and no picture decoder is among them, so that none is ever opened."""

CHECKED = frozenset(["flac", "wavpack", "tta"])
"""Codecs whose frames carry a checksum. FFmpeg checks it only where asked to, and noise would pass for sound."""

ZERO_CLOCKS = frozenset(["asf", "avi", "flv", "matroska", "mov", "nut"])
"""Containers whose clock begins with the recording; in others it may begin anywhere."""

EXACT = frozenset(["aiff", "ape", "au", "caf", "flac", "mov", "mpc8", "tta", "wav", "w64", "wv"])
"""Containers whose headers count the samples. In others the stated length may be stale, or of another track."""

MISSING_SECONDS = 0.5
"""A recording may end so much before the length in its header: encoders count their own delay and padding."""

MAX_CHANNELS = 64

MAX_PLANES = 8  # PyAV reads no further pointers of a frame than these
MAX_DAMAGED = 1000  # packets, of a file of which most is damaged
MAX_STALLED = 50  # errors of a demuxer in a row that bring no packet
WAYS_OUT = "Convert it to WAV, FLAC, MP3, OGG or M4A."
UNSUPPORTED = f"Unsupported or corrupt audio file. {WAYS_OUT}"


@dataclass
class OpenPart:
    """A part of a file, open in FFmpeg.

    Attributes:
        origin: seconds of the container's clock at which the recording begins.
        duration: seconds that are stated for the track, or None.
        is_exact: whether that counts samples.
    """

    file: File
    part: Part
    container: av.container.InputContainer
    track: av.AudioStream
    names: frozenset[str]
    duration: float | None
    is_exact: bool
    is_stated: bool
    origin: float
    last_byte: int = 0

    @classmethod
    def open(cls, file: File, part: Part) -> OpenPart:
        """Open a part and choose its track.

        Raises:
            AudioError: no recording, or of a kind that is not supported.
        """
        container = _open_container(file, part)
        track = _choose_track(container)
        names = frozenset(container.format.name.split(","))
        start = (container.start_time or 0) / av.time_base
        is_zero = not names.isdisjoint(ZERO_CLOCKS) and 0 <= start <= MAX_SILENCE_SECONDS
        duration = part.stated_seconds or seconds_of(track.duration, track.time_base) or _tagged_duration(track)
        is_stated = duration is not None
        if duration is None and container.duration is not None:
            duration = container.duration / av.time_base
            is_stated = len(container.streams) == 1 and "matroska" in names
        if "mp3" in names:  # FFmpeg divides the file's size by a bit rate where it doubts the count
            stated = mp3_seconds(file, part)
            is_stated = stated is not None
            if stated is not None and abs(stated - (duration or 0.0)) > MISSING_SECONDS:
                duration = stated
        elif not names.isdisjoint(STREAMS | {"mpegts", "mpeg"}):
            is_stated = False  # guessed by bit rate, or taken from the last packets
        is_exact = is_stated and not names.isdisjoint(EXACT)
        return cls(
            file=file,
            part=part,
            container=container,
            track=track,
            names=names,
            duration=duration,
            is_exact=is_exact,
            is_stated=is_stated,
            origin=0.0 if is_zero or -OVERLAP_SECONDS < start < 0 else start,
        )

    @property
    def codec(self) -> str:
        """Name of the decoder."""
        return str(self.track.codec_context.codec.name)

    @property
    def raw_kind(self) -> str | None:
        """ "f" or "i" where the track's samples are floats or wide integers as their maker left them."""
        codec = self.codec
        if codec.startswith(("pcm_f", "wavpack")):
            format_name = self.track.codec_context.format
            return "f" if format_name is not None and format_name.name.startswith(("flt", "dbl")) else None
        return "i" if codec.startswith("pcm_s32") else None

    def frames(self, report: Report, limit: float) -> Iterator[tuple[float | None, Raw]]:
        """Yield each frame with its time on the recording's clock, None if only its position determines it.

        Damaged packets are passed over while sound ones outnumber them.
        """
        clock = Clock(self.file, self.part, names=self.names, codec=self.codec, origin=self.origin)
        for packet in self._packets(report, clock):
            try:
                frames = packet.decode()
            except av.error.EOFError:
                continue
            except av.error.FFmpegError as error:
                self._raise_if_ours(error)
                clock.fail(packet)
                report.damage(clock.now)
                if report.bad > MAX_DAMAGED and report.bad > report.good:
                    break
                continue
            for frame in cast("list[av.AudioFrame]", frames):
                report.good += 1
                report.bad_at_end = 0
                _refuse_absurd(frame)
                at, skipped = clock.place(packet, frame)
                samples = read_samples(frame)
                if samples.nbytes > limit:
                    raise AudioTooLongError(
                        "The recording is too long: one frame decodes to more data than is allowed."
                    )
                yield at, Raw(frame.sample_rate, samples[skipped:], _low_channels(frame))
        if report.bad > report.good:
            raise AudioError(f"The recording is damaged and cannot be decoded. {WAYS_OUT}")

    def _packets(self, report: Report, clock: Clock) -> Iterator[Packet[Any]]:
        """Yield the track's packets. After an error of the demuxer its iterator is dead: take a fresh one."""
        stalled = 0
        while stalled < MAX_STALLED:
            try:
                for packet in self.container.demux(self.track):
                    if packet.size:
                        stalled = 0
                        if packet.pos is not None and packet.pos >= 0:
                            self.last_byte = max(self.last_byte, packet.pos + packet.size)
                        if clock.is_index(packet):
                            continue
                    yield _without_tags(packet) if "mp3" in self.names else packet
            except av.error.EOFError:
                pass
            except (av.error.FFmpegError, IndexError) as error:  # IndexError: a stream that came on the way
                self._raise_if_ours(error)
                if not stalled:
                    report.damage(clock.now)
                stalled += 1
                if "wv" not in self.names:
                    continue
            if not self._resume():
                return

    def _resume(self) -> bool:
        """Open the rest of a WavPack file, whose demuxer gives up at damage; its blocks know their place."""
        end = self.part.end - self.part.start
        if "wv" not in self.names or not 0 < self.last_byte < end - 32:
            return False
        following = find_block(self.file, self.part.start + self.last_byte, self.part.end)
        if following is None:
            return False
        self.part = replace(self.part, start=following)
        self.last_byte = 0
        try:
            self.container = _open_container(self.file, self.part)
            self.track = _choose_track(self.container)
        except AudioError:
            self.last_byte = 32
            return self._resume()
        return True

    def _raise_if_ours(self, error: Exception) -> None:
        """Raise what reading the file raised: a disk that fails is not the recording's fault."""
        if self.file.failure is not None:
            raise self.file.failure from error
        if isinstance(error, MemoryError):
            raise error

    def is_cut(self) -> bool:
        """Return True if the bytes show that the end of the file is missing."""
        if self.part.is_cut or self.part.missing_seconds > MISSING_SECONDS:
            return True
        if "mp3" in self.names and self.last_byte:
            # The last frame that begins must be whole.
            view = View(self.file, self.part)
            end = view.seek(0, 2)
            view.seek(max(0, end - 4096))
            tail = view.read()
            return ends_inside_mp3_frame(tail)
        return False


def _open_container(file: File, part: Part) -> av.container.InputContainer:
    """Probe a part for the containers of the list."""
    try:
        return av.open(
            View(file, part),
            mode="r",
            metadata_errors="ignore",
            options={
                "format_whitelist": CONTAINERS,
                "codec_whitelist": CODECS,
                "protocol_whitelist": "none",  # the file is open already, and nothing else may be
            },
        )
    except (av.error.FFmpegError, ValueError) as error:
        if file.failure is not None:
            raise file.failure from error
        if isinstance(error, MemoryError):
            raise
        if part.is_cut:
            raise TruncatedAudioError("The recording is cut off. Copy or upload it again.") from error
        if file.at(part.start, 8)[4:] == b"ftyp":  # the index is at the end of most of them
            message = "The MP4 or M4A file is cut off or broken. Copy or upload it again."
            raise TruncatedAudioError(message) from error
        raise AudioError(UNSUPPORTED) from error


def _choose_track(container: av.container.InputContainer) -> av.AudioStream:
    """Return the default audio track, or the first one, that a decoder of the list can read."""
    tracks = container.streams.audio
    if not tracks:
        raise NoAudioStreamError("The file has no audio track. Choose a file with audio.")
    known = CODECS.split(",")
    by_default = sorted(tracks, key=lambda track: not track.disposition & av.stream.Disposition.default)
    for track in by_default:
        context = track.codec_context
        if context is not None and context.codec.name in known:
            context.thread_count = 1
            if context.codec.name in CHECKED:
                context.options = {"err_detect": "crccheck+explode"}
            return track
    if any(track.codec_context is None for track in tracks):
        raise AudioError(f"The audio codec is not supported. {WAYS_OUT}")
    raise AudioError(f"The audio codec {tracks[0].codec_context.codec.name} is not supported. {WAYS_OUT}")


def _tagged_duration(track: av.AudioStream) -> float | None:
    """Return the duration that Matroska files have in a tag of the track, such as 00:00:24.478000000."""
    try:
        hours, minutes, seconds = track.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (KeyError, ValueError):
        return None


def _without_tags(packet: Packet[Any]) -> Packet[Any]:
    """Return a packet whose frame comes first: the decoder takes a tag before it for damage."""
    data = bytes(packet)
    stripped = strip_tags(data)
    if len(stripped) == len(data):
        return packet
    copy: Packet[Any] = Packet(stripped)
    copy.pts, copy.dts, copy.time_base, copy.duration = packet.pts, packet.dts, packet.time_base, packet.duration
    copy.stream = packet.stream
    return copy


def _refuse_absurd(frame: av.AudioFrame) -> None:
    rate, channels = frame.sample_rate, frame.layout.nb_channels
    if not (MIN_RATE <= rate <= MAX_SAMPLE_RATE and 0 < channels <= MAX_CHANNELS):
        raise AudioError(f"The file states {channels} channels at {rate} Hz, which is not supported. {WAYS_OUT}")


def read_samples(frame: av.AudioFrame) -> NDArray[Any]:
    """Return the samples of a frame, shape (S, C)."""
    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels > MAX_PLANES:
        packed = av.AudioResampler(frame.format.packed.name, frame.layout, frame.sample_rate)
        return np.concatenate([part.to_ndarray().reshape(-1, channels) for part in packed.resample(frame)])
    array = frame.to_ndarray()
    return array.T if frame.format.is_planar else array.reshape(-1, channels)


def _low_channels(frame: av.AudioFrame) -> tuple[int, ...]:
    if frame.layout.nb_channels < 3:
        return ()
    return tuple(i for i, channel in enumerate(frame.layout.channels) if channel.name.startswith("LFE"))
