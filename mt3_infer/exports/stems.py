"""A MIDI file and the sound of each instrument, written into an archive as they are rendered."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO, cast

from mt3_infer.errors import ExportTooLargeError
from mt3_infer.exports import Export
from mt3_infer.exports.options import StemsOptions
from mt3_infer.exports.sound import ENCODINGS, Stereo, encode, length_of, render
from mt3_infer.symbolic.instruments import program_name
from mt3_infer.symbolic.notes import by_instrument

MAX_SECONDS = {"wav": 6 * 3600.0, "opus": 24 * 3600.0}
"""Seconds of sound of all instruments together: 3.8 GB of WAV, 1 GB of Opus."""


def write_stems(export: Export[StemsOptions]) -> None:
    """Write the archive.

    Raises:
        ExportTooLargeError: the instruments together sound for too long.
    """
    transcription, sound = export.transcription.corrected(export.options), export.options.sound
    stems = by_instrument(transcription.notes)
    length = length_of(transcription.notes, transcription.duration)
    if sound != "none" and len(stems) * length > MAX_SECONDS[sound]:
        raise ExportTooLargeError(
            f"{len(stems)} instruments of {length / 60:.0f} minutes are too much sound for one archive of {sound}"
            " files: choose sound=opus, or sound=none for MIDI files only."
        )
    font = None if sound == "none" else export.sound_font()
    with zipfile.ZipFile(export.path, "w", zipfile.ZIP_STORED) as archive:
        for number, ((is_drum, program), notes) in enumerate(stems):
            name = f"{number + 1:02d} {program_name(program, is_drum)}"
            stem = replace(transcription, notes=notes)
            archive.writestr(f"{name}.mid", stem.to_midi())
            if font is None:
                continue
            _, _, rate, _ = ENCODINGS[sound]
            report = _part_of(export.progress, number, len(stems))
            pedals = () if is_drum else transcription.pedals
            blocks = _reporting(render(notes, rate, font, pedals, length), report, length)
            # Through a file: a WAV header is written last, and a member of an archive cannot be rewound.
            with tempfile.TemporaryFile(dir=export.path.parent) as file:
                encode(blocks, cast(BinaryIO, file), sound, transcription.provenance.summary)
                file.seek(0)
                with archive.open(f"{name}.{sound}", "w", force_zip64=True) as member:
                    shutil.copyfileobj(file, member, 1 << 20)


def _part_of(progress: Callable[[float], None], number: int, count: int) -> Callable[[float], None]:
    return lambda fraction: progress((number + fraction) / count)


def _reporting(blocks: Iterator[Stereo], report: Callable[[float], None], length: float) -> Iterator[Stereo]:
    for number, block in enumerate(blocks, start=1):
        report(min(1.0, number / length))
        yield block
