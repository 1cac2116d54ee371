"""Compute the time of a decoded frame from time stamps, skipped bytes and codec delays."""

from __future__ import annotations

from typing import Any

from av import AudioFrame
from av.packet import Packet

from mt3_infer.audio.files import File, Part
from mt3_infer.audio.frames import frame_bytes, is_layer_2, is_mp3_index, skip_tags

NO_CLOCKS = frozenset(["avi", "rm"])
"""Containers that count chunks instead of keeping time."""
COUNTED = frozenset(["aiff", "au", "caf", "voc", "wav"])
"""Containers whose clock counts samples: for plain samples it adds nothing."""

STREAMS = frozenset(["aac", "ac3", "dts", "dtshd", "eac3", "mp3", "truehd"])
"""Containers that are nothing but frames: their clock stops while bytes are skipped."""

CODEC_DELAYS = {
    "aac": 1024,
    "ac3": 256,
    "dca": 512,
    "eac3": 256,
    "mp2": 481,
    "mp2float": 481,
    "mp3": 1105,
    "mp3float": 1105,
    "opus": 312,
    "real_144": 160,
    "wmav1": 2048,
    "wmav2": 2048,
}
"""Samples that the usual encoder of a codec puts in front, where the file does not say; measured with FFmpeg's."""

MAX_SKIPPED = 4 << 20  # bytes of damage in which the next ADTS frame is looked for


class Clock:
    """Determines when a frame sounds on the recording's clock, and how much of it is the encoder's delay."""

    def __init__(self, file: File, part: Part, *, names: frozenset[str], codec: str, origin: float) -> None:
        self._file = file
        self._part = part
        self._names = names
        self._codec = codec
        is_counted = codec.startswith("pcm") and not names.isdisjoint(COUNTED)
        self._has_clock = names.isdisjoint(NO_CLOCKS) and not is_counted
        is_wrapped = "wav" in names and not codec.startswith(("pcm", "adpcm", "gsm"))
        self._is_stream = is_wrapped or not names.isdisjoint(STREAMS)
        self._delay: int | None = None  # samples still to take off; None before the first frame
        self._shift = 0.0  # seconds, of indexes of joined files
        self._lost = 0.0  # frames that would fill the bytes that held none
        self._next_byte: int | None = None
        self._pending = 0.0  # the same, after the packet in hand
        self._frame_seconds = 0.0
        self._bytes = self._size = 0.0  # of all frames, and of the last one
        self._packets = 0  # how many frames there were
        self._first_packet: float | None = None
        self._is_first_packet = True
        self._origin = origin
        self._rate = 0  # of the last frame
        self.now = 0.0  # seconds of the recording at which what comes next begins

    def is_index(self, packet: Packet[Any]) -> bool:
        """Count a packet's bytes; return True if it holds no sound, as the first frame of a joined MP3."""
        if self._is_first_packet:
            self._first_packet = seconds_of(packet.pts, packet.time_base)
            if self._codec.startswith("mp3") and is_layer_2(
                bytes(packet)
            ):  # transport streams do not distinguish them
                self._codec = "mp2"
            self._is_first_packet = False
        elif "mp3" in self._names and is_mp3_index(bytes(packet)):
            # Another recording begins, with the silence of its encoder.
            self._next_byte = None
            self._delay = CODEC_DELAYS["mp3"]
            self._shift -= (seconds_of(packet.duration, packet.time_base) or 0.0) + (
                self._delay / self._rate if self._rate else 0.0
            )
            return True
        self._lost += self._pending
        self._pending = 0.0
        if self._is_stream and packet.pos is not None and packet.pos >= 0:
            self._count_skipped(packet)
        return False

    def _count_skipped(self, packet: Packet[Any]) -> None:
        """Turn bytes that hold no frame into time, at the bit rate so far: a stream has no other clock.

        They come with the frame before them, or lie between two packets.
        """
        file, base = self._file, self._part.start - len(self._part.prefix)
        self._frame_seconds = seconds_of(packet.duration, packet.time_base) or 0.0
        usual = self._bytes / self._packets if self._packets else packet.size
        size = frame_bytes(self._codec, bytes(packet)[:8]) or (packet.size if packet.size < 2 * usual else usual)
        begin = self._find(packet) if "aac" in self._names else (packet.pos or 0) + base
        end = begin + packet.size
        passed = end - skip_tags(file, min(begin + round(size), end), end)
        if self._next_byte is not None and begin > self._next_byte:
            between = begin - skip_tags(file, self._next_byte, begin)
            self._lost += between / usual if between > 0.5 * usual else 0.0
        if self._packets and passed > 0.5 * usual:
            self._pending = passed / usual
        self._next_byte = end
        self._size = size
        self._bytes += size
        self._packets += 1

    def fail(self, packet: Packet[Any]) -> None:
        """Count a packet that could not be decoded as bytes that were passed over: it may be no frame at all."""
        if not self._is_stream or self._packets < 2 or packet.pos is None:
            return
        self._bytes -= self._size
        self._packets -= 1
        self._pending = packet.size / (self._bytes / self._packets) - 1

    def _find(self, packet: Packet[Any]) -> int:
        """Return where an ADTS packet lies in the file: FFmpeg counts only the bytes that it took."""
        expected = self._next_byte if self._next_byte is not None else self._part.start
        head = bytes(packet)[:64]
        if self._file.at(expected, len(head)) == head:
            return expected
        at: int = self._file.at(expected, MAX_SKIPPED).find(head)
        return expected + max(0, at)

    def place(self, packet: Packet[Any], frame: AudioFrame) -> tuple[float | None, int]:
        """Return when what is to be taken of a frame begins, and how many samples to leave away before it."""
        at = seconds_of(frame.pts, frame.time_base) if self._has_clock else None
        self._rate = frame.sample_rate
        if self._delay is None:
            self._delay = self._find_delay(frame, at)
            self._origin += self._delay / frame.sample_rate
            if "asf" in self._names:  # the decoder leaves them away itself
                self._delay = 0
        skipped = min(self._delay, frame.samples)
        self._delay -= skipped
        seconds = (frame.samples - skipped) / frame.sample_rate
        if at is None:
            self.now += seconds
            return None, skipped
        lost = self._shift + round(self._lost) * self._frame_seconds
        begins = at + skipped / frame.sample_rate - self._origin + lost
        self.now = begins + seconds
        return begins, skipped

    def _find_delay(self, frame: AudioFrame, at: float | None) -> int:
        """Return the usual delay of the codec where the file does not state it, else 0."""
        codec = self._codec
        usual = CODEC_DELAYS.get(codec, 0)
        if "asf" in self._names:
            return usual if codec in ("wmav1", "wmav2") else 0
        first = self._first_packet
        if at is not None:
            begins_late = at - self._origin > usual / frame.sample_rate / 2
            is_signaled = first is not None and (first < -1e-4 or at - first > 1e-4)
            if begins_late or is_signaled:
                return 0
        if "ogg" in self._names:
            return 0  # granule positions do not count it
        return usual


def seconds_of(ticks: int | None, time_base: Any) -> float | None:
    """Return ticks of a clock in seconds."""
    return None if ticks is None or time_base is None else float(ticks * time_base)
