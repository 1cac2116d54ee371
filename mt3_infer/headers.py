"""What a recording's own bytes say about its length, where FFmpeg does not tell or smooths it over.

Each function takes a binary file that can seek and may leave its position anywhere.
"""

from __future__ import annotations

import os
from typing import BinaryIO

UNKNOWN_SIZE = 0x7FFF_0000
"""Programs that write to a pipe put something from here up where the size of a WAV belongs, or 0."""

OGG_PAGE = 27 + 255 + 255 * 255
"""Bytes of the longest OGG page: header, table of segments, segments."""


def missing_bytes(file: BinaryIO) -> int:
    """Bytes by which a WAV or AU file is shorter than its header says; 0 for all other files.

    Of a WAV that was cut, FFmpeg takes the length of what is there.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        promised = 8 + int.from_bytes(head[4:8], "little")
    elif head[:4] == b".snd" and len(head) == 12:
        promised = int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:], "big")
    else:
        return 0
    return max(0, promised - size) if promised < UNKNOWN_SIZE else 0


def ends_inside_ogg_page(file: BinaryIO) -> bool:
    """Whether an OGG file stops before its last page does. (OGG has no length in front.)

    Source: RFC 3533, section 6.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4) != b"OggS":
        return False
    file.seek(max(0, size - OGG_PAGE))
    tail = file.read(OGG_PAGE)
    page = tail[max(0, tail.rfind(b"OggS\0")) :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    segments = page[27 : 27 + page[26]]
    return len(page) < 27 + len(segments) + sum(segments)


def counts_mp3_frames(file: BinaryIO) -> bool:
    """Whether an MP3 says how many frames it has; if not, FFmpeg divides its bytes by a bit rate.

    Encoders put it in the first frame, after a tag in front.
    """
    file.seek(0)
    head = file.read(10)
    tag = 0
    if head[:3] == b"ID3" and len(head) == 10:  # the tag's size, in four bytes of seven bits
        tag = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(tag)
    frame = file.read(256)
    return any(name in frame for name in (b"Xing", b"Info", b"VBRI"))
