"""Find the recordings in a file, and what its bytes state about them, before FFmpeg opens it.

FFmpeg stops at the first link of a chained Ogg file, decodes encrypted sound to noise, and takes the length of
what is there where a file was cut off. So a file is looked at here first: `survey` finds the stretches that hold
sound (one, or several of a joined file), what stands in front of them, and whether the end is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from mt3_infer.audio.chunks import (
    MAX_CHUNKS,
    RIFF_SIZE_UNKNOWN,
    is_chunk_name,
    read_aiff,
    read_au,
    read_caf,
    read_w64,
    read_wav,
)
from mt3_infer.audio.files import File, Part
from mt3_infer.audio.frames import id3_length
from mt3_infer.errors import ProtectedAudioError

OGG_PAGE = 27 + 255 + 255 * 255
"""Bytes of the longest Ogg page: header, table of segments, segments."""
LARGE_TAG = 65_536
"""Bytes from which a tag is hidden from FFmpeg, which takes quadratic time to read many of them."""

MAX_PARTS = 1000  # joined recordings in one file

W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the GUIDs whose first four bytes name a chunk
W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
W64_WAVE = b"wave" + W64_TAIL
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_ENCRYPTION = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),  # content encryption object
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),  # extended content encryption object
)
PROTECTED = "The recording is protected (DRM) and cannot be decoded. Choose a copy without protection."


def survey(file: File) -> list[Part]:
    """Find the recordings in a file, at least one; what is of no known kind is one part, as it stands.

    Raises:
        ProtectedAudioError: its sound is encrypted.
    """
    start = 0
    while (
        length := id3_length(file.at(start, 10))
    ) and start + length < file.size:  # some files have several tags
        start += length
    head = file.at(start, 16)
    parts: list[Part] = []
    while len(parts) < MAX_PARTS and start < file.size:
        part = _part_at(file, start)
        parts.append(part)
        following = max(part.end, start + 1)
        if not _begins_again(head, file.at(following, 16)):
            break
        start = following
    return parts or [Part(0, file.size)]


def _begins_again(first: bytes, following: bytes) -> bool:
    """Return True if a second recording of the same kind begins where the first one ends."""
    if first[4:8] == b"ftyp":
        return following[4:8] == b"ftyp"
    kinds = (b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS")
    return first[:4] in kinds and following[:4] == first[:4]


def _part_at(file: File, start: int) -> Part:
    head = file.at(start, 40)
    readers: list[tuple[bool, Callable[[File, int], Part]]] = [
        (head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE", read_wav),
        (head[:4] == b"RIFF" and head[8:11] == b"AVI", _avi),
        (head[:16] == W64_RIFF and head[24:40] == W64_WAVE, read_w64),
        (head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"), read_aiff),
        (head[:4] == b".snd", read_au),
        (head[:4] == b"caff", read_caf),
        (head[:4] == b"fLaC", _flac),
        (head[:4] == b"OggS", _ogg),
        (head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"), _mp4),
        (head[:4] == b"\x1aE\xdf\xa3", _matroska),
        (head[:16] == ASF_HEADER, _asf),
        (head[:3] == b"FLV", _flv),
    ]
    for is_kind, read in readers:
        if is_kind:
            return read(file, start)
    return Part(start, file.size)


def _flac(file: File, start: int) -> Part:
    """Hide large tags and pictures: FFmpeg takes seconds for 10,000 comments. Source: RFC 9639, section 8."""
    offset, patches = start + 4, {}
    for _ in range(MAX_CHUNKS):
        head = file.at(offset, 4)
        if len(head) < 4:
            break
        kind, size = head[0] & 0x7F, int.from_bytes(head[1:], "big")
        if kind in (4, 6) and size > LARGE_TAG:
            patches[offset] = bytes([head[0] & 0x80 | 1])  # padding
        offset += 4 + size
        if head[0] & 0x80:
            break
    end = _find_flac(file, offset)
    return Part(start, end, patches=patches)


def _find_flac(file: File, offset: int) -> int:
    """Return where another FLAC file begins after `offset`, or the end."""
    step = 1 << 20
    while offset < file.size:
        block = file.at(offset, step + 7)
        at = block.find(b"fLaC")
        while at >= 0:
            if block[at + 4 : at + 8] in (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22"):  # stream info, of 34 bytes
                return offset + at
            at = block.find(b"fLaC", at + 1)
        offset += step
    return file.size


def _ogg(file: File, start: int) -> Part:
    """Find the end of a link of a chained file: where another stream begins after sound has come.

    Source: RFC 3533, sections 4 and 6.
    """
    offset, has_data = start, False
    while offset < file.size:
        head = file.at(offset, 27 + 255)
        if head[:5] != b"OggS\0" or len(head) < 27:
            found = _find_page(file, offset)
            if found is None:
                return Part(start, file.size, is_cut=_ends_inside_page(file))
            offset = found
            continue
        is_first = bool(head[5] & 0x02)
        if is_first and has_data:
            return Part(start, offset)
        has_data = has_data or not is_first
        offset += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return Part(start, file.size, is_cut=_ends_inside_page(file))


def _find_page(file: File, offset: int) -> int | None:
    """Return where the next page begins after damage."""
    step = 1 << 16
    while offset < file.size:
        at = file.at(offset + 1, step + 4).find(b"OggS\0")
        if at >= 0:
            return offset + 1 + at
        offset += step
    return None


def _ends_inside_page(file: File) -> bool:
    """Return True if an Ogg file stops before its last page does. (It has no length in front.)"""
    tail = file.at(max(0, file.size - OGG_PAGE), OGG_PAGE)
    at = tail.rfind(b"OggS\0")
    if at < 0:
        return True
    page = tail[at:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    segments = page[27 : 27 + page[26]]
    return len(page) < 27 + len(segments) + sum(segments)


def _mp4(file: File, start: int) -> Part:
    """Walk the boxes on top: a cut-off file ends inside one; a joined file begins again.

    Source: ISO/IEC 14496-12, section 4.2.
    """
    offset = start
    for _ in range(MAX_CHUNKS):
        head = file.at(offset, 16)
        if len(head) < 8:
            break
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
        if kind == b"ftyp" and offset > start:
            return Part(start, offset)
        if size == 0:  # up to the end
            break
        if size < 8 or not _is_box_name(kind):
            break  # damaged, or something behind the last box
        if kind == b"moov":
            _refuse_protected_mp4(file, offset, min(size, file.size - offset))
        if offset + size > file.size:
            return Part(start, file.size, is_cut=True)
        offset += size
    return Part(start, file.size)


def _is_box_name(name: bytes) -> bool:
    return all(32 <= byte < 127 or byte == 0xA9 for byte in name)


def _refuse_protected_mp4(file: File, offset: int, size: int) -> None:
    """Raise if the sample descriptions of the sound name an encryption.

    Encrypted bytes decode to noise. Source: ISO/IEC 14496-12, section 8.12; FairPlay and Audible have names of
    their own.
    """
    step = 1 << 20
    for at in range(offset, offset + size, step):
        block = file.at(at, step + 16)
        for name in (b"enca", b"drms", b"aavd"):
            index = block.find(name)
            # An entry: its size before, six zero bytes and the index of a data reference behind.
            if index >= 4 and block[index + 4 : index + 10] == bytes(6):
                raise ProtectedAudioError(PROTECTED)


def _avi(file: File, start: int) -> Part:
    """Compare the size of the list of chunks with what is there."""
    is_cut = False
    offset = start + 12
    for _ in range(MAX_CHUNKS):
        head = file.at(offset, 12)
        size = int.from_bytes(head[4:8], "little")
        if len(head) < 12 or not is_chunk_name(head[:4]):
            break
        if head[:4] == b"LIST" and head[8:] == b"movi":
            is_cut = 0 < size < RIFF_SIZE_UNKNOWN and offset + 8 + size > file.size + 1
            break
        offset += 8 + size + size % 2
    return Part(start, file.size, is_cut=is_cut)


def _matroska(file: File, start: int) -> Part:
    """Compare the size of the segment with what is there. Source: RFC 8794, sections 4 and 5."""
    offset = start
    for _ in range(4):
        head = file.at(offset, 16)
        if len(head) < 12:
            break
        id_length = _leading_zeros(head[0]) + 1
        size_byte = head[id_length] if id_length <= 4 else 0
        size_length = _leading_zeros(size_byte) + 1
        if id_length > 4 or size_length > 8:
            break
        raw = head[id_length : id_length + size_length]
        size = int.from_bytes(raw, "big") & ((1 << 7 * size_length) - 1)
        is_unknown = size == (1 << 7 * size_length) - 1
        body = offset + id_length + size_length
        if head[:4] == b"\x18\x53\x80\x67":  # Segment
            return Part(start, file.size, is_cut=not is_unknown and body + size > file.size)
        offset = body + size
    return Part(start, file.size)


def _leading_zeros(byte: int) -> int:
    return 8 - byte.bit_length()


def _asf(file: File, start: int) -> Part:
    """Compare the size in the file properties with what is there, and look for encryption.

    Source: ASF 01.20.03, sections 3.2 and 3.14.
    """
    head = file.at(start, 1 << 16)
    header_size = int.from_bytes(head[16:24], "little")
    offset = 30
    is_cut = False
    seconds: float | None = None
    while offset + 24 <= min(len(head), header_size):
        name, size = head[offset : offset + 16], int.from_bytes(head[offset + 16 : offset + 24], "little")
        if name in ASF_ENCRYPTION:
            raise ProtectedAudioError(PROTECTED)
        if name == ASF_FILE_PROPERTIES:
            stated = int.from_bytes(head[offset + 40 : offset + 48], "little")
            play, preroll, flags = struct.unpack("<64xQ8xQI", head[offset : offset + 92].ljust(92, b"\0"))
            if not flags & 1:  # a broadcast knows nothing of its end
                is_cut = stated > file.size - start
                seconds = play / 1e7 - preroll / 1e3
        if size < 24:
            break
        offset += size
    return Part(start, file.size, is_cut=is_cut, stated_seconds=seconds)


def _flv(file: File, start: int) -> Part:
    """Walk the tags: a cut-off file ends inside one. Source: Adobe Flash Video File Format 10.1, annex E."""
    offset = start + int.from_bytes(file.at(start + 5, 4), "big") + 4
    while offset < file.size:
        head = file.at(offset, 11)
        if len(head) < 11:
            return Part(start, file.size, is_cut=True)
        if head[0] & 0x1F not in (8, 9, 18):
            break  # damaged
        following = offset + 11 + int.from_bytes(head[1:4], "big") + 4
        if following > file.size + 4:
            return Part(start, file.size, is_cut=True)
        offset = following
    return Part(start, file.size)
