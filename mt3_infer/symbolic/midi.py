"""Notes → a standard MIDI file: the one writer.

Type 1: a track per program, in the order of their numbers, then one for the drums.

A tick is 1.04 ms in music of up to 2 h 53 min. pretty_midi takes a file of more than ten million ticks for
damaged, so longer music has coarser ticks: 4.2 ms in 11 h 30 min and 8.8 ms in 24 h, less than the 10 ms from step
to step of MT3. An onset is off by half a tick at most.

Channels: drums have the tenth; the 15 others go to programs, those with the most notes first. From the
sixteenth program on, channels are shared: there the program is repeated before each note that needs another
than the one before it, so that a player which merges the tracks sounds every note with its own program.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO

import mido

from mt3_infer.symbolic.instruments import program_name
from mt3_infer.symbolic.notes import Note

TICKS_PER_BEAT = 480  # the most; see `_ticks_per_beat`
MAX_TICKS = 10_000_000  # that pretty_midi reads
SECONDS_PER_BEAT = 0.5  # 120 beats a minute, the tempo of a file that names none; ours names it too

DRUM_CHANNEL = 9  # the tenth
CHANNELS = [channel for channel in range(16) if channel != DRUM_CHANNEL]
RELEASE_VELOCITY = 64


@dataclass(frozen=True, slots=True)
class _Span:
    """A note in ticks."""

    start: int
    end: int
    pitch: int
    velocity: int


def notes_to_midi(notes: Iterable[Note]) -> bytes:
    """Write a MIDI file.

    On one track a pitch sounds once at a time, since MIDI cannot state which of two a note-off ends: a note
    ends where the next of its pitch begins, and of two that begin at once the longer is kept. No note is
    shorter than a tick.
    """
    every = list(notes)
    ticks_per_beat = _ticks_per_beat(every)
    programs: dict[int, list[_Span]] = defaultdict(list)
    drums: list[_Span] = []
    for note in every:
        (drums if note.is_drum else programs[note.program]).append(_span(note, ticks_per_beat / SECONDS_PER_BEAT))
    tracks = {program: _untangle(spans) for program, spans in sorted(programs.items())}
    channels = _channels(tracks)
    changes = _program_changes(tracks, channels)

    midi = mido.MidiFile(type=1, ticks_per_beat=ticks_per_beat, charset="utf-8")
    tempo = mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(60 / SECONDS_PER_BEAT))
    midi.tracks.append(mido.MidiTrack([tempo]))
    for program, spans in tracks.items():
        midi.tracks.append(_track(spans, channels[program], program, changes[program]))
    if drums:
        midi.tracks.append(_track(_untangle(drums), DRUM_CHANNEL, 0, {0}))
    file = BytesIO()
    midi.save(file=file)
    return file.getvalue()


def _ticks_per_beat(notes: Sequence[Note]) -> int:
    """Return the finest resolution at which all of the notes end before `MAX_TICKS`."""
    end = max((max(note.onset, note.offset) for note in notes), default=0.0)
    spare = 3  # for rounding, for a note that is given a tick, and because ticks count from 0
    beats = max(1.0, end / SECONDS_PER_BEAT)
    return max(1, min(TICKS_PER_BEAT, int((MAX_TICKS - spare) / beats)))


def _span(note: Note, ticks_per_second: float) -> _Span:
    start = max(0, round(note.onset * ticks_per_second))
    end = max(start + 1, round(note.offset * ticks_per_second))
    return _Span(start, end, note.pitch, min(max(note.velocity, 1), 127))


def _untangle(spans: list[_Span]) -> list[_Span]:
    """Cut notes so that no pitch sounds twice at a time; sorted by start, then pitch."""
    result: list[_Span] = []
    following: dict[int, int] = {}  # pitch → start of the note after this one
    for span in sorted(spans, key=lambda s: (s.start, s.end), reverse=True):
        limit = following.get(span.pitch)
        if limit != span.start:
            end = span.end if limit is None else min(span.end, limit)
            result.append(_Span(span.start, end, span.pitch, span.velocity))
            following[span.pitch] = span.start
    return sorted(result, key=lambda s: (s.start, s.pitch))


def _channels(tracks: dict[int, list[_Span]]) -> dict[int, int]:
    """Assign each program a channel; the programs with the fewest notes share."""
    by_notes = sorted(tracks, key=lambda program: (-len(tracks[program]), program))
    return {program: CHANNELS[rank % len(CHANNELS)] for rank, program in enumerate(by_notes)}


def _program_changes(tracks: dict[int, list[_Span]], channels: dict[int, int]) -> dict[int, set[int]]:
    """Return the ticks at which each program is set: at the start where it has the channel to itself."""
    changes: dict[int, set[int]] = {program: {0} for program in tracks}
    for channel in set(channels.values()):
        sharing = [program for program in tracks if channels[program] == channel]
        if len(sharing) > 1:
            current = sharing[-1]
            for start, program in sorted((span.start, p) for p in sharing for span in tracks[p]):
                if program != current:
                    changes[program].add(start)
                    current = program
    return changes


def _track(spans: list[_Span], channel: int, program: int, changes: set[int]) -> mido.MidiTrack:
    """One track. At the same tick notes end first, then the program is set, then notes begin."""
    ends = [(s.end, 0, _message("note_off", s.pitch, RELEASE_VELOCITY, channel)) for s in spans]
    changes_of_program = [
        (t, 1, mido.Message("program_change", program=program, channel=channel)) for t in changes
    ]
    starts = [(s.start, 2, _message("note_on", s.pitch, s.velocity, channel)) for s in spans]
    now = 0
    name = program_name(program, is_drum=channel == DRUM_CHANNEL)
    track = mido.MidiTrack([mido.MetaMessage("track_name", name=name)])
    for tick, _, message in sorted(ends + changes_of_program + starts, key=lambda event: event[:2]):
        track.append(message.copy(time=tick - now))
        now = tick
    return track


def _message(kind: str, pitch: int, velocity: int, channel: int) -> mido.Message:
    return mido.Message(kind, note=pitch, velocity=velocity, channel=channel)
