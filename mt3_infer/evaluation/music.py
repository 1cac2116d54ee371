"""Read the two sides of an evaluation: MIDI files, `notes.json`, transcriptions."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from mt3_infer.errors import InvalidOptionError, MissingDependencyError
from mt3_infer.symbolic.instruments import Instrument, family_of
from mt3_infer.symbolic.notes import Note, Pedal, sort_notes
from mt3_infer.transcription import Transcription

if TYPE_CHECKING:
    import pretty_midi

SUSTAIN = 64
"""The MIDI controller of the pedal that lets notes ring on."""

DOUBLING_SECONDS = 0.03
"""Notes of one pitch that begin within this time count as one: a doubling at the unison is inaudible."""


@dataclass(frozen=True)
class Music:
    """One side of an evaluation; times are in seconds.

    Attributes:
        notes: an offset is where the key is released.
        pedals: spans of the sustain and other pedals.
        beats, downbeats: ascending; empty if they are unknown.
    """

    notes: Sequence[Note]
    pedals: Sequence[Pedal] = ()
    beats: Sequence[float] = ()
    downbeats: Sequence[float] = ()

    @classmethod
    def of(cls, transcription: Transcription) -> Music:
        """Return the notes, pedals and beats of a transcription."""
        grid = transcription.grid
        return cls(transcription.notes, transcription.pedals, grid.beats, grid.downbeats)


def read_music(path: str | PathLike[str]) -> Music:
    """Read a MIDI file, or a `notes.json` of this library.

    A MIDI file has beats only if it has a time signature and a tempo of its own: where MIDI's default tempo, 120,
    holds throughout, notes were usually recorded without a metronome.

    Raises:
        InvalidOptionError: it is neither, or is damaged.
        OSError: it cannot be read.
    """
    path = Path(path)
    content = path.read_bytes()
    if content.lstrip()[:1] == b"{":
        try:
            return Music.of(Transcription.from_json(content))
        except InvalidOptionError as error:
            raise InvalidOptionError(f"{path}: {error}") from error
    if content[:4] != b"MThd":
        raise InvalidOptionError(f"{path} is neither a MIDI file nor a notes.json of mt3-infer.")
    return _from_midi(path)


def _from_midi(path: Path) -> Music:
    try:
        import pretty_midi
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "Reading MIDI files needs the package pretty_midi: pip install 'mt3-infer-service[infer]'"
        ) from error
    try:
        midi = pretty_midi.PrettyMIDI(str(path))
    except Exception as error:  # mido raises errors of many kinds for damaged files
        raise InvalidOptionError(f"{path} is a damaged MIDI file: {error}.") from error
    notes = [
        Note(note.start, note.end, note.pitch, note.velocity, instrument.program, instrument.is_drum)
        for instrument in midi.instruments
        for note in instrument.notes
    ]
    tempos = midi.get_tempo_changes()[1]
    has_beats = bool(notes) and bool(midi.time_signature_changes) and bool((abs(tempos - 120) > 1e-3).any())
    return Music(
        notes=sort_notes(notes),
        pedals=_pedals(midi),
        beats=midi.get_beats().tolist() if has_beats else (),
        downbeats=midi.get_downbeats().tolist() if has_beats else (),
    )


def _pedals(midi: pretty_midi.PrettyMIDI) -> list[Pedal]:
    """Return the spans in which the sustain pedal of any channel is down."""
    spans: set[Pedal] = set()
    end = midi.get_end_time()
    for instrument in midi.instruments:
        down: float | None = None
        for change in sorted(instrument.control_changes, key=lambda change: change.time):
            if change.number != SUSTAIN:
                continue
            if change.value >= 64 and down is None:
                down = change.time
            elif change.value < 64 and down is not None:
                spans.add(Pedal(down, change.time))
                down = None
        if down is not None and end > down:
            spans.add(Pedal(down, end))
    return sorted(spans, key=lambda pedal: (pedal.onset, pedal.offset))


def with_pedal(notes: Iterable[Note], pedals: Iterable[Pedal]) -> list[Note]:
    """Return the notes sounding on while the sustain pedal is down, until their key is struck again."""
    spans = sorted((pedal.onset, pedal.offset) for pedal in pedals if pedal.controller == SUSTAIN)
    starts = [start for start, _ in spans]
    notes = list(notes)
    onsets: dict[int, list[float]] = defaultdict(list)
    for note in sorted(notes, key=lambda note: note.onset):
        onsets[note.pitch].append(note.onset)
    extended = []
    for note in notes:
        span = bisect_right(starts, note.offset) - 1
        if not _has_pedal(note) or span < 0 or spans[span][1] <= note.offset:
            extended.append(note)
            continue
        again = bisect_left(onsets[note.pitch], note.offset)
        struck = onsets[note.pitch][again] if again < len(onsets[note.pitch]) else float("inf")
        extended.append(replace(note, offset=max(note.offset, min(spans[span][1], struck))))
    return extended


def _has_pedal(note: Note) -> bool:
    """Return True for pianos and the like; a pedal does not hold the notes of the others that play with them."""
    return family_of(note.program, note.is_drum) in (Instrument.PIANO, Instrument.CHROMATIC_PERCUSSION)


def without_doublings(notes: Iterable[Note], *, by_program: bool = False) -> list[Note]:
    """Return the notes with doublings at the unison as one: the first onset, the last offset, the louder velocity.

    Args:
        by_program: whether notes of different programs are kept apart.
    """
    kept: list[Note] = []
    latest: dict[tuple[bool, int, int], int] = {}
    for note in sorted(notes, key=lambda note: note.onset):
        key = (note.is_drum, note.program if by_program else 0, note.pitch)
        before = latest.get(key)
        if before is not None and note.onset - kept[before].onset <= DOUBLING_SECONDS:
            other = kept[before]
            kept[before] = replace(
                other, offset=max(other.offset, note.offset), velocity=max(other.velocity, note.velocity)
            )
        else:
            latest[key] = len(kept)
            kept.append(note)
    return kept
