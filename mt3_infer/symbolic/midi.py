"""Notes → a standard MIDI file: the one writer.

Type 1: a track with tempi, time and key signatures, one per program in the order of their numbers, then one for
the drums, named after their instruments.

The tempo follows the beats, or is 120 a minute (`mt3_infer.symbolic.tempo_map`). A tick is 1.5 ms at most in
music of up to about 3 h. pretty_midi takes a file of more than ten million ticks for damaged, so longer music
has coarser ticks: at 120 a minute 4.2 ms in 11 h 30 min and 8.8 ms in 24 h, less than the 10 ms from step to
step of MT3. An onset is off by half a tick at most.

Channels: drums have the tenth; the 15 others go to programs, those with the most notes first. From the
sixteenth program on, channels are shared: there the program is repeated before each note that needs another
than the one before it, so that a player which merges the tracks sounds every note with its own program.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import mido

from mt3_infer.symbolic.grid import BeatAxis, BeatGrid, quarters_in_beat
from mt3_infer.symbolic.instruments import Instrument, family_of, program_name
from mt3_infer.symbolic.midi_options import BASIC_KIT, QUARTERS, MidiOptions
from mt3_infer.symbolic.notes import Note, Pedal, by_instrument
from mt3_infer.symbolic.tempo_map import TempoMap, fixed_tempo, follow_grid

DRUM_CHANNEL = 9  # the tenth
CHANNELS = [channel for channel in range(16) if channel != DRUM_CHANNEL]
RELEASE_VELOCITY = 64
WHOLE_FILE = "transcription.mid"


@dataclass(frozen=True, slots=True)
class _Span:
    """A note in ticks."""

    start: int
    end: int
    pitch: int
    velocity: int


def notes_to_midi(
    notes: Iterable[Note],
    grid: BeatGrid | None = None,
    options: MidiOptions | None = None,
    pedals: Sequence[Pedal] = (),
    comment: str = "",
) -> bytes:
    """Write a MIDI file.

    On one track a pitch sounds once at a time, since MIDI cannot tell which of two it should end: a note
    ends where the next of its pitch begins, and of two that begin at once the longer is kept. No note is
    shorter than a tick.

    Args:
        grid: the tempo follows its beats; 120 beats a minute without it, or if it has too few beats.
        pedals: of the pianos and other keyboards.
        comment: a text event at the start; none if empty.
    """
    options = options or MidiOptions()
    grid = grid or BeatGrid()
    every = [_with_drum_map(note, options) for note in _quantized(list(notes), grid, options)]
    end = max((max(note.onset, note.offset) for note in every), default=0.0)
    end = max(end, *(pedal.offset for pedal in pedals), 0.0)
    tempi = (follow_grid(grid, end) if options.tempo == "map" else None) or fixed_tempo(end)
    programs: dict[int, list[_Span]] = defaultdict(list)
    drums: list[_Span] = []
    for note in every:
        (drums if note.is_drum else programs[note.program]).append(_span(note, tempi))
    tracks = {program: _untangle(spans) for program, spans in sorted(programs.items())}
    channels = _channels(tracks)
    changes = _program_changes(tracks, channels)

    midi = mido.MidiFile(type=1, ticks_per_beat=tempi.ticks_per_quarter, charset="utf-8")
    midi.tracks.append(_conductor(tempi, grid.key, comment))
    for program, spans in tracks.items():
        held = _pedal_events(pedals, tempi, channels[program]) if family_of(program) is Instrument.PIANO else []
        midi.tracks.append(_track(spans, channels[program], program, changes[program], held))
    if drums:
        midi.tracks.append(_track(_untangle(drums), DRUM_CHANNEL, 0, {0}))
    file = BytesIO()
    midi.save(file=file)
    return file.getvalue()


def notes_to_midi_files(
    notes: Iterable[Note],
    grid: BeatGrid | None = None,
    options: MidiOptions | None = None,
    pedals: Sequence[Pedal] = (),
    comment: str = "",
) -> dict[str, bytes]:
    """Write MIDI files, as name → content: one, or with `split="instrument"` one for each instrument."""
    options = options or MidiOptions()
    if options.split == "none":
        return {WHOLE_FILE: notes_to_midi(notes, grid, options, pedals, comment)}
    return {
        f"{_slug(program_name(program, is_drum=is_drum))}.mid": notes_to_midi(part, grid, options, pedals, comment)
        for (is_drum, program), part in by_instrument(notes)
    }


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _quantized(notes: list[Note], grid: BeatGrid, options: MidiOptions) -> list[Note]:
    """Move notes toward the lines of a grid, with their lengths; without beats they stay."""
    if options.quantize_strength == 0 or len(grid.beats) < 2 or not grid.meter:
        return notes
    axis = BeatAxis(grid.beats)
    step = QUARTERS[options.quantize_grid] / quarters_in_beat(grid.meter)
    moved = []
    for note in notes:
        beat = axis.beat(note.onset)
        line = round(beat / step) * step
        onset = max(0.0, axis.seconds(beat + options.quantize_strength * (line - beat)))
        moved.append(replace(note, onset=onset, offset=onset + (note.offset - note.onset)))
    return moved


def _with_drum_map(note: Note, options: MidiOptions) -> Note:
    if not note.is_drum or options.drum_map == "general_midi":
        return note
    return replace(note, pitch=BASIC_KIT.get(note.pitch, note.pitch))


def _conductor(tempi: TempoMap, key: str, comment: str) -> mido.MidiTrack:
    """Return the first track: the comment, tempi, time signatures and the key."""
    events = [
        (
            signature.tick,
            0,
            mido.MetaMessage("time_signature", numerator=signature.numerator, denominator=signature.denominator),
        )
        for signature in tempi.time_signatures
    ]
    if key:
        tonic, mode = key.split(" ")
        name = tonic + ("m" if mode == "minor" else "")
        events.append((0, 1, mido.MetaMessage("key_signature", key=name)))
    before = None
    for tick, tempo in zip(tempi.ticks, tempi.tempi, strict=True):
        if tempo != before:
            events.append((tick, 2, mido.MetaMessage("set_tempo", tempo=tempo)))
        before = tempo
    if comment:
        events.append((0, -1, mido.MetaMessage("text", text=comment)))
    return _timed(events)


def _timed(events: Iterable[tuple[int, int, mido.Message]]) -> mido.MidiTrack:
    """Return a track of events (tick, order within the tick, message)."""
    track, now = mido.MidiTrack(), 0
    for tick, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=tick - now))
        now = tick
    return track


def _pedal_events(pedals: Sequence[Pedal], tempi: TempoMap, channel: int) -> list[tuple[int, int, mido.Message]]:
    """Return the pedals of a channel; at one tick they are released before they are held."""
    return [
        (
            tempi.tick(time),
            order,
            mido.Message("control_change", control=pedal.controller, value=value, channel=channel),
        )
        for pedal in pedals
        for time, order, value in ((pedal.onset, 1, 127), (pedal.offset, 0, 0))
    ]


def _span(note: Note, tempi: TempoMap) -> _Span:
    start = tempi.tick(note.onset)
    end = max(start + 1, tempi.tick(note.offset))
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


def _track(
    spans: list[_Span],
    channel: int,
    program: int,
    changes: set[int],
    pedals: Iterable[tuple[int, int, mido.Message]] = (),
) -> mido.MidiTrack:
    """Return one track. At a tick, notes end first, then pedals and the program are set, then notes begin."""
    events = [(s.end, 0, _message("note_off", s.pitch, RELEASE_VELOCITY, channel)) for s in spans]
    events += [(tick, 1 + order, message) for tick, order, message in pedals]
    events += [(tick, 3, mido.Message("program_change", program=program, channel=channel)) for tick in changes]
    events += [(s.start, 4, _message("note_on", s.pitch, s.velocity, channel)) for s in spans]
    track = _timed(events)
    name = program_name(program, is_drum=channel == DRUM_CHANNEL)
    track.insert(0, mido.MetaMessage("track_name", name=name))
    return track


def _message(kind: str, pitch: int, velocity: int, channel: int) -> mido.Message:
    return mido.Message(kind, note=pitch, velocity=velocity, channel=channel)
