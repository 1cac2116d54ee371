"""Notes as sound: rendered with a sound font block by block, and encoded as they are rendered."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mt3_infer.errors import MissingDependencyError, MissingSoundFontError
from mt3_infer.exports import Export
from mt3_infer.exports.options import AudioOptions
from mt3_infer.exports.soundfont import find_sound_font
from mt3_infer.symbolic.notes import Note, Pedal

Stereo: TypeAlias = NDArray[np.float32]
"""Samples of both channels, shape (S, 2), in [-1, 1]."""

BLOCK_SECONDS = 1.0
TAIL_SECONDS = 2.0  # for the last notes to fade away
GAIN_DB = 6.0  # a single instrument is then as loud as most recordings
KNEE = 0.8  # louder samples are compressed, so that dense music does not clip
VOICES = 256
DRUM_CHANNEL = 128  # the synthesizer is not limited to 16 channels: each program has one of its own
DRUM_BANK = 128
PIANOS = range(8)  # the programs whose notes a pedal holds
SUSTAIN = 64  # controller number
# codec, container, sample rate in Hz, bits per second
ENCODINGS: dict[str, tuple[str, str, int, int]] = {
    "opus": ("libopus", "opus", 48_000, 96_000),
    "mp3": ("libmp3lame", "mp3", 44_100, 160_000),
    "wav": ("pcm_s16le", "wav", 44_100, 0),
}
INSTALL = "python -m pip install --no-deps tinysoundfont"

Event: TypeAlias = tuple[int, int, int, int]
"""Sample, channel, pitch, and velocity, which is 0 where a note ends."""


def write_audio(export: Export[AudioOptions]) -> None:
    """Write the notes as a sound file."""
    transcription, encoding = export.transcription, export.options.encoding
    _, _, rate, _ = ENCODINGS[encoding]
    length = length_of(transcription.notes, transcription.duration)
    blocks = with_progress(
        render(transcription.notes, rate, export.sound_font(), transcription.pedals, length), export
    )
    with export.path.open("wb") as file:
        encode(blocks, file, encoding, transcription.provenance.summary)


def length_of(notes: Sequence[Note], duration: float) -> float:
    """Return the seconds of sound: to the end of the recording, or until the last notes have faded away."""
    return max(duration, max((note.offset for note in notes), default=0.0) + TAIL_SECONDS)


def with_progress(blocks: Iterable[Stereo], export: Export[Any]) -> Iterator[Stereo]:
    """Yield blocks, and report each."""
    length = length_of(export.transcription.notes, export.transcription.duration)
    for number, block in enumerate(blocks, start=1):
        export.progress(min(1.0, number * BLOCK_SECONDS / length))
        yield block


def render(
    notes: Sequence[Note],
    sample_rate: int,
    sound_font: Path | None = None,
    pedals: Sequence[Pedal] = (),
    length: float | None = None,
) -> Iterator[Stereo]:
    """Yield blocks of the sound of some notes.

    Args:
        sample_rate: in Hz.
        sound_font: an SF2 or SF3 file; that of `find_sound_font` without it.
        length: in seconds; that of `length_of` without it.
    Raises:
        MissingDependencyError: tinysoundfont is not installed.
        MissingSoundFontError: the file is no sound font.
        CheckpointError: the sound font cannot be fetched.
    """
    synth = _load_synth(notes, sample_rate, sound_font or find_sound_font())
    total = round((length_of(notes, 0.0) if length is None else length) * sample_rate)
    events = _events(notes, pedals, sample_rate)
    size = round(BLOCK_SECONDS * sample_rate)
    at = 0
    for start in range(0, total, size):
        block = np.zeros((min(size, total - start), 2), np.float32)
        done = 0
        while at < len(events) and events[at][0] < start + len(block):
            sample, channel, pitch, velocity = events[at]
            done = _fill(synth, block, done, max(done, sample - start))
            if velocity:
                synth.noteon(channel, pitch, velocity)
            else:
                synth.noteoff(channel, pitch)
            at += 1
        _fill(synth, block, done, len(block))
        yield _limit(block)


def encode(blocks: Iterable[Stereo], file: BinaryIO, encoding: str, comment: str) -> None:
    """Encode blocks into a binary file as they come.

    Args:
        encoding: a key of `ENCODINGS`.
        comment: for the file's metadata.
    """
    import av

    codec, container_format, rate, bit_rate = ENCODINGS[encoding]
    muxer = {"rf64": "auto"} if encoding == "wav" else {}  # a WAV file cannot hold more than 4 GB otherwise
    with av.open(file, "w", format=container_format, options=muxer) as container:
        container.metadata["comment"] = comment
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = "stereo"
        if bit_rate:
            stream.bit_rate = bit_rate
        position = 0
        for block in blocks:
            frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout="stereo")
            frame.sample_rate, frame.pts = rate, position
            position += len(block)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _load_synth(notes: Sequence[Note], sample_rate: int, sound_font: Path) -> Any:
    try:
        import tinysoundfont
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"Sound needs the package tinysoundfont: {INSTALL}") from error
    synth = tinysoundfont.Synth(gain=GAIN_DB, samplerate=sample_rate)
    try:
        font = synth.sfload(str(sound_font), max_voices=VOICES)
    except (RuntimeError, tinysoundfont.SoundFontException) as error:
        raise MissingSoundFontError(f"This is no SF2 or SF3 sound font: {sound_font}") from error
    for program in sorted({note.program for note in notes if not note.is_drum}):
        synth.program_select(program, font, 0, program)
    if any(note.is_drum for note in notes):
        synth.program_select(DRUM_CHANNEL, font, DRUM_BANK, 0, True)
    return synth


def _events(notes: Sequence[Note], pedals: Sequence[Pedal], sample_rate: int) -> list[Event]:
    """Return what the synthesizer does when, in order."""
    events: list[tuple[int, bool, int, int, int]] = []
    for note, offset in zip(notes, _sustained(notes, pedals), strict=True):
        channel = DRUM_CHANNEL if note.is_drum else note.program
        begin = round(note.onset * sample_rate)
        end = max(begin + 1, round(offset * sample_rate))
        events.append((begin, True, channel, note.pitch, note.velocity))
        events.append((end, False, channel, note.pitch, 0))
    return [(sample, channel, pitch, velocity) for sample, _, channel, pitch, velocity in sorted(events)]


def _sustained(notes: Sequence[Note], pedals: Sequence[Pedal]) -> list[float]:
    """Return when each note ends. A piano's sustain pedal holds it, at most until its key is struck again."""
    held = sorted((pedal.onset, pedal.offset) for pedal in pedals if pedal.controller == SUSTAIN)
    downs = [onset for onset, _ in held]
    offsets = [note.offset for note in notes]
    following: dict[tuple[int, int], float] = {}
    for index in sorted(range(len(notes)), key=lambda i: notes[i].onset, reverse=True):
        note = notes[index]
        if note.is_drum or note.program not in PIANOS:
            continue
        at = bisect_right(downs, note.offset) - 1
        if at >= 0 and held[at][1] > note.offset:
            offsets[index] = max(note.offset, min(held[at][1], following.get((note.program, note.pitch), inf)))
        following[note.program, note.pitch] = note.onset
    return offsets


def _fill(synth: Any, block: Stereo, start: int, stop: int) -> int:
    """Render these samples of a block; return `stop`."""
    if stop > start:
        synth.generate_simple(stop - start, block[start:stop].reshape(-1).data.cast("B"))
    return stop


def _limit(block: Stereo) -> Stereo:
    """Compress samples beyond the knee smoothly, so that none reaches full scale."""
    excess = np.maximum(np.abs(block) - KNEE, 0.0)
    if not excess.any():
        return block
    room = 1.0 - KNEE
    return np.where(excess > 0, np.sign(block) * (KNEE + room * np.tanh(excess / room)), block).astype(np.float32)
