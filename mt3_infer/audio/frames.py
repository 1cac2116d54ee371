"""Parse the headers of MP3, ADTS and WavPack frames, and the tags between them."""

from __future__ import annotations

import struct

from mt3_infer.audio.files import File, Part

MP3_BIT_RATES = {  # kbit/s by index, of layer III: MPEG 1, and MPEG 2 and 2.5
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def id3_length(head: bytes) -> int:
    """Return the bytes of the ID3v2 tag that begins with these ten bytes, 0 where there is none."""
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:10]) > 127:
        return 0
    size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if head[5] & 0x10 else 0)  # a footer repeats the header


def tag_length(head: bytes) -> int:
    """Return the bytes of the tag (ID3v1, ID3v2, APE) that begins with these 32 bytes, 0 where there is none."""
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) >= 32:
        size, flags = struct.unpack("<12xI4xI8x", head[:32])
        return int(size) + (32 if flags & 0xA000_0000 else 0)  # a header, or a footer that a header came before
    return id3_length(head[:10])


def skip_tags(file: File, start: int, end: int) -> int:
    """Return where sound may go on after the tags that begin at `start`, at most `end`."""
    while start < end and (length := tag_length(file.at(start, 32))):
        start += length
    return min(start, end)


def strip_tags(packet: bytes) -> bytes:
    """Return a packet without the tags that come before its frame, as where MP3 files were joined."""
    start = 0
    while start < len(packet) and (length := tag_length(packet[start : start + 32])):
        start += length
    return packet[start:] if start else packet


def find_block(file: File, offset: int, end: int) -> int | None:
    """Return where the next WavPack block begins. Source: WavPack 4 & 5 binary file format, 2.0."""
    step = 1 << 16
    while offset < end:
        block = file.at(offset, step + 32)
        at = block.find(b"wvpk")
        while 0 <= at < step:
            version = int.from_bytes(block[at + 8 : at + 10], "little")
            samples = int.from_bytes(block[at + 20 : at + 24], "little")
            if 0x402 <= version <= 0x410 and 0 < samples <= 131_072:
                return offset + at
            at = block.find(b"wvpk", at + 1)
        offset += step
    return None


def frame_bytes(codec: str, head: bytes) -> int:
    """Return the bytes that the header of an MP3 or ADTS frame states, 0 if it states none."""
    if codec.startswith("mp3"):
        return mp3_frame_bytes(head)
    if codec.startswith("aac") and len(head) >= 6 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return 0


def mp3_seconds(file: File, part: Part) -> float | None:
    """Return the length by the count of frames that encoders put in the first frame, None where there is none.

    Source: the Xing and VBRI headers as LAME and Fraunhofer's encoder write them.
    """
    frame = file.at(part.start, 256)
    if not mp3_frame_bytes(frame):
        return None
    version = frame[1] >> 3 & 3
    seconds = (1152 if version == 3 else 576) / MP3_RATES[version][frame[2] >> 2 & 3]
    for name in (b"Xing", b"Info"):
        at = frame.find(name)
        if at > 0 and frame[at + 7] & 1:
            return int.from_bytes(frame[at + 8 : at + 12], "big") * seconds
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[50:54], "big") * seconds
    return None


def is_mp3_index(frame: bytes) -> bool:
    """Return True if a frame, after a tag or not, holds the count of frames instead of sound."""
    frame = strip_tags(frame)[:40]
    after_side_information = [frame[at : at + 4] for at in (36, 21, 13)]  # MPEG 1 stereo, mono or MPEG 2, both
    return not {b"Xing", b"Info", b"VBRI"}.isdisjoint(after_side_information)


def is_layer_2(head: bytes) -> bool:
    """Return True if an MPEG audio frame is one of layer II. Source: ISO/IEC 11172-3, 2.4.2.3."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE4


def mp3_frame_bytes(head: bytes) -> int:
    """Return the bytes of the layer III frame that begins so, 0 where none does. Source: ISO/IEC 11172-3, 2.4."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, rate_index, bit_rate_index = head[1] >> 3 & 3, head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate_index == 3 or bit_rate_index in (0, 15):
        return 0
    is_first = version == 3
    bit_rate = MP3_BIT_RATES[is_first][bit_rate_index] * 1000
    return (144 if is_first else 72) * bit_rate // MP3_RATES[version][rate_index] + (head[2] >> 1 & 1)


def ends_inside_mp3_frame(tail: bytes) -> bool:
    """Return True if the last frame of an MP3 is not whole."""
    if tail[-128:][:3] == b"TAG":
        tail = tail[:-128]
    at = len(tail) - 4
    while at >= 0:
        size = mp3_frame_bytes(tail[at : at + 4])
        # A frame header is one if another one came a frame before it, or it is the only one there.
        if size and any(
            at >= n and mp3_frame_bytes(tail[at - n : at - n + 4]) == n for n in range(24, min(at, 1442) + 1)
        ):
            return at + size > len(tail)
        at -= 1
    return False
