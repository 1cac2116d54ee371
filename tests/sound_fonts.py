"""Makes a tiny sound font: every program and the drum kit are one decaying tone at the pitch of the key."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

RATE = 22050
KEY = 69  # 440 Hz
SECONDS = 4.0
DRUMS = (128, 0)

# Generators: what a zone is about (SoundFont 2.04, 8.1.2).
INSTRUMENT, SAMPLE_ID, RELEASE = 41, 53, 38
RELEASE_TIMECENTS = -4800  # 1/16 s


def write_sound_font(path: Path) -> Path:
    """Write an SF2 file of 180 kB."""
    times = np.arange(round(SECONDS * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 440 * times * n) / n for n in (1, 2, 3, 4)) * np.exp(-times) / 2.5
    samples = (tone * 32767).astype("<i2").tobytes()
    presets = [(0, program) for program in range(128)] + [DRUMS]
    headers = [
        struct.pack("<20sHHHIII", b"tone", program, bank, i, 0, 0, 0) for i, (bank, program) in enumerate(presets)
    ]
    headers.append(struct.pack("<20sHHHIII", b"EOP", 0, 0, len(presets), 0, 0, 0))
    bags = b"".join(struct.pack("<HH", i, 0) for i in range(len(presets) + 1))
    generators = struct.pack("<HH", INSTRUMENT, 0) * len(presets) + struct.pack("<HH", 0, 0)
    sample = struct.pack("<20sIIIIIBbHH", b"tone", 0, len(times), 0, len(times), RATE, KEY, 0, 0, 1)
    pdta = b"".join(
        (
            chunk(b"phdr", b"".join(headers)),
            chunk(b"pbag", bags),
            chunk(b"pmod", bytes(10)),
            chunk(b"pgen", generators),
            chunk(b"inst", struct.pack("<20sH", b"tone", 0) + struct.pack("<20sH", b"EOI", 1)),
            chunk(b"ibag", struct.pack("<HHHH", 0, 0, 2, 0)),
            chunk(b"imod", bytes(10)),
            chunk(b"igen", struct.pack("<HhHHHH", RELEASE, RELEASE_TIMECENTS, SAMPLE_ID, 0, 0, 0)),
            chunk(b"shdr", sample + struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0)),
        )
    )
    info = chunk(b"ifil", struct.pack("<HH", 2, 1)) + chunk(b"isng", b"EMU8000\0") + chunk(b"INAM", b"tone\0\0")
    body = listing(b"INFO", info) + listing(b"sdta", chunk(b"smpl", samples + bytes(92))) + listing(b"pdta", pdta)
    path.write_bytes(chunk(b"RIFF", b"sfbk" + body))
    return path


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def listing(name: bytes, content: bytes) -> bytes:
    return chunk(b"LIST", name + content)
