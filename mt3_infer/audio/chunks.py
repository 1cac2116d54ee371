"""Find the samples in files of chunks: WAV, W64, AIFF, AU and CAF.

FFmpeg trusts the sizes that a header states, and takes the length of what is there where a file was cut off. Here
both are compared.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mt3_infer.audio.files import File, Part

RIFF_SIZE_UNKNOWN = 0x7FFF_0000
"""Programs that write to a pipe put something from here up where the size of a WAV belongs, or 0."""
SIZE_UNKNOWN_64 = 0x7FFF_FFFF_0000_0000
"""The same for sizes of 64 bits (W64, CAF)."""

MAX_CHUNKS = 100_000  # of a RIFF file


def read_wav(file: File, start: int) -> Part:
    """Replace the header by one with the same format and the true size of the samples.

    Sizes are wrong in many WAV files: of programs that write to a pipe, of recorders beyond 4 GB, of editors
    that leave out the pad byte of an odd chunk.
    """
    riff_size = int.from_bytes(file.at(start + 4, 4), "little")
    sizes_64: tuple[int, int] | None = None
    form, fact = b"", b""
    for name, offset, size in _riff_chunks(file, start + 12):
        if name == b"ds64":
            sizes_64 = struct.unpack("<QQ", file.at(offset, 16).ljust(16, b"\0"))
        elif name == b"fmt ":
            form = file.at(offset, min(size, 4096))
        elif name == b"fact":
            fact = file.at(offset, 4)
        elif name == b"data":
            if size == 0xFFFF_FFFF and sizes_64 is not None:
                size = sizes_64[1]
            return _wave_part(file, start, form, fact, offset, size, is_riff_open=riff_size in (0, 0xFFFF_FFFF))
    return Part(start, file.size)  # FFmpeg has a sentence for it


def _riff_chunks(file: File, offset: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, offset and size of each chunk up to `data`; odd chunks may lack their pad byte."""
    for _ in range(MAX_CHUNKS):
        head = file.at(offset, 8)
        if len(head) < 8:
            return
        name, size = head[:4], int.from_bytes(head[4:], "little")
        yield name, offset + 8, size
        if name == b"data":
            return
        following = offset + 8 + size
        is_padded = size % 2 and not (is_chunk_name(file.at(following, 4)) and file.at(following, 1) != b"\0")
        offset = following + (1 if is_padded else 0)


def is_chunk_name(name: bytes) -> bool:
    """Return True if four bytes may be the name of a chunk."""
    return len(name) == 4 and all(32 <= byte < 127 for byte in name) and name[:1] != b" "


def _wave_part(
    file: File, start: int, form: bytes, fact: bytes, offset: int, stated: int, *, is_riff_open: bool
) -> Part:
    """Make a part of the samples of a WAV or W64 file."""
    byte_rate = int.from_bytes(form[8:12], "little")
    there = file.size - offset
    is_open = stated >= SIZE_UNKNOWN_64 or (stated == 0 and is_riff_open) or RIFF_SIZE_UNKNOWN <= stated < 1 << 32
    if is_open and RIFF_SIZE_UNKNOWN <= stated <= there:
        is_open = stated == 0xFFFF_FFFF  # a size near 4 GB may be true
    warnings: tuple[tuple[str, str], ...] = ()
    missing = 0.0
    if is_open:
        end = file.size
    else:
        end = min(offset + stated, file.size)
        if byte_rate:
            missing = max(0.0, (stated - there) / byte_rate)
            rest = file.size - end - stated % 2
            if rest > 0.5 * byte_rate and not _is_trailer(file, offset + stated):
                end = file.size
                warnings = (
                    (
                        "wrong_length",
                        f"The header states {stated / byte_rate:.1f} s of audio, but"
                        f" {there / byte_rate:.1f} s are present: all of them were used.",
                    ),
                )
    chunks = [(b"fmt ", form)] + ([(b"fact", fact)] if len(fact) == 4 else [])
    body = b"WAVE" + b"".join(n + len(c).to_bytes(4, "little") + c + b"\0" * (len(c) % 2) for n, c in chunks)
    size = min(end - offset, 0xFFFF_FFFF)
    body += b"data" + size.to_bytes(4, "little")
    prefix = b"RIFF" + min(len(body) + size, 0xFFFF_FFFF).to_bytes(4, "little") + body
    return Part(offset, end, prefix, missing_seconds=missing, warnings=warnings)


def _is_trailer(file: File, offset: int) -> bool:
    """Return True if what follows the samples is chunks to the end of the file, or another WAV file."""
    for _ in range(MAX_CHUNKS):
        head = file.at(offset, 8)
        if len(head) < 8 or not head.strip(b"\0"):
            return True
        if not is_chunk_name(head[:4]):
            # The samples may be padded although they are even; an odd chunk may lack its pad byte.
            offset = next((at for at in (offset + 1, offset - 1) if is_chunk_name(file.at(at, 4))), 0)
            head = file.at(offset, 8)
            if not offset:
                return False
        if head[:4] in (b"RIFF", b"RF64"):
            return True
        size = int.from_bytes(head[4:], "little")
        if offset + 8 + size > file.size + 1:
            return False
        offset += 8 + size + size % 2
    return False


def read_w64(file: File, start: int) -> Part:
    """Make a WAV file of a W64 file, whose chunks have sizes of 64 bits that count their own heads."""
    offset, form = start + 40, b""
    for _ in range(MAX_CHUNKS):
        head = file.at(offset, 24)
        if len(head) < 24:
            break
        name, size = head[:4], int.from_bytes(head[16:], "little")
        if name == b"fmt ":
            form = file.at(offset + 24, min(max(0, size - 24), 4096))
        elif name == b"data":
            stated = 0 if size < 24 else size - 24
            return _wave_part(file, start, form, b"", offset + 24, stated, is_riff_open=size == 0)
        if size < 24:
            break
        offset += -(-size // 8) * 8
    return Part(start, file.size)


def read_aiff(file: File, start: int) -> Part:
    """Compare the sound chunk with what is there. Source: AIFF 1.3."""
    offset, frame_bytes, rate = start + 12, 0, 0.0
    stated_end = start + 8 + int.from_bytes(file.at(start + 4, 4), "big")
    end = stated_end if start + 12 < stated_end < file.size else file.size
    for _ in range(MAX_CHUNKS):
        head = file.at(offset, 26)
        if len(head) < 8:
            break
        name, size = head[:4], int.from_bytes(head[4:8], "big")
        if name == b"COMM":
            channels, _frames, bits = struct.unpack(">hIh", head[8:16].ljust(8, b"\0"))
            frame_bytes = max(0, channels) * (max(0, bits) + 7) // 8
            rate = _extended(file.at(offset + 16, 10))
        elif name == b"SSND":
            missing = offset + 8 + size - file.size
            seconds = missing / (frame_bytes * rate) if missing > 0 and frame_bytes and rate else 0.0
            return Part(start, file.size if missing > 0 else end, missing_seconds=seconds)
        offset += 8 + size + size % 2
    return Part(start, end)


def _extended(data: bytes) -> float:
    """Return the number of an 80-bit IEEE 754 float, as AIFF has for its sample rate."""
    if len(data) < 10:
        return 0.0
    exponent, mantissa = struct.unpack(">HQ", data)
    power = (exponent & 0x7FFF) - 16383 - 63
    return float(mantissa) * 2.0**power if -1000 < power < 900 else 0.0


def read_au(file: File, start: int) -> Part:
    """Compare the size of the samples with what is there."""
    head = file.at(start, 24)
    if len(head) < 24:
        return Part(start, file.size)
    offset, stated, encoding, rate, channels = struct.unpack(">IIIII", head[4:])
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding, 0)
    missing = start + offset + stated - file.size
    if stated >= RIFF_SIZE_UNKNOWN or missing <= 0 or not width * rate * channels:
        return Part(start, file.size)
    return Part(start, file.size, missing_seconds=missing / (width * rate * channels))


def read_caf(file: File, start: int) -> Part:
    """Compare the sizes of a Core Audio file's chunks with what is there."""
    offset, byte_rate = start + 8, 0.0
    for _ in range(MAX_CHUNKS):
        head = file.at(offset, 12)
        if len(head) < 12:
            break
        name, size = head[:4], struct.unpack(">q", head[4:])[0]
        if name == b"desc":
            rate, packet_bytes, packet_frames = struct.unpack(">d8xII", file.at(offset + 12, 24).ljust(24, b"\0"))
            if packet_bytes and packet_frames and 0 < rate < 1e7:
                byte_rate = rate * packet_bytes / packet_frames
        if name == b"data" and size == -1:  # written to a pipe: up to the end
            break
        if size < 0:
            break
        missing = offset + 12 + size - file.size
        if name == b"data" and missing > 0:
            seconds = missing / byte_rate if byte_rate else 0.0
            return Part(start, file.size, missing_seconds=seconds, is_cut=True)
        offset += 12 + size
    return Part(start, file.size)
