"""Measure scores on performances with truth: how many notes are written as the composer wrote them.

    python bench/notation.py                        on the clips of performances.py, rendered if they are not there
    python bench/notation.py DIRECTORY...           on others like them: NAME.flac, NAME.json
        -m MODEL                                    only this one; else all that are installed or given
        --checkpoint MODEL=PATH                     weights that are not installed

Each model's notes are written with its own beats and with the true ones, beside a score of the true notes. Notes
that were not found or that nobody played do not count. Transcriptions are kept as those of accuracy.py are.
See bench/README.md.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from accuracy import Clip, Contestant, cell, mean, read_clip, rendered_clips, truth_files

from mt3_infer.evaluation import Music, evaluate
from mt3_infer.evaluation.measures import match
from mt3_infer.exports.options import ScoreOptions
from mt3_infer.loading import list_models
from mt3_infer.score.arrange import Score, arrange
from mt3_infer.score.spelling import Key
from mt3_infer.symbolic.grid import BeatGrid
from mt3_infer.symbolic.notes import Note

CLOSE = 0.02  # of a quarter: less than any note value differs from the next
RIGHT_LEVEL = 0.9  # beats F from which on the beats are taken to be those of the music
KEYS = ("Cb", "Gb", "Db", "Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#")  # major, from 7 flats


@dataclass(frozen=True)
class Written:
    """A note as the composer wrote it, in quarters; `part` counts from 0, `value` is None if no note has it.

    The rule that composes accompaniments gives some notes a length to play and not one to write.
    """

    place_in_bar: float
    value: float | None
    part: int


@dataclass(frozen=True)
class Truth:
    """Hold what is known of a clip's score."""

    clip: Clip
    written: list[tuple[Note, Written]]
    grid: BeatGrid
    sharps: int

    @property
    def is_piano_solo(self) -> bool:
        """Return True if the two parts are the hands of one pianist."""
        parts = {written.part for _, written in self.written}
        return len(parts) == 2 and {(note.program, note.is_drum) for note, _ in self.written} == {(0, False)}


@dataclass(frozen=True)
class Row:
    """One clip's score: shares of the found notes that are right, and facts about the whole."""

    clip: Clip
    level: bool
    place: float
    value: float | None
    meter: bool
    key: bool
    hands: float | None


def read_truth(path: Path) -> Truth:
    """Read a clip; grace notes, which have no place of their own, are left out."""
    known, clip = json.loads(path.read_text()), read_clip(path)
    bars = [bar["q"] for bar in known["bars"]]
    written = []
    for note in known["notes"]:
        if note.get("grace"):
            continue
        bar = known["bars"][bisect_right(bars, note["q"] + 1e-6) - 1]
        full = 4 * bar["num"] / bar["den"]
        upbeat = full - bar["length_q"] if bar is known["bars"][0] else 0.0
        is_drum = note.get("drum", False)
        program = 0 if is_drum else known["programs"][str(note["part"])]
        times = (note["onset"], note["offset"], note["pitch"], note["velocity"])
        value = note["dur_q"] if is_note_value(note["dur_q"]) else None
        place = Written(note["q"] - bar["q"] + upbeat, value, note["part"])
        written.append((Note(*times, program=program, is_drum=is_drum), place))
    grid = BeatGrid(
        beats=tuple(known["beats"]),
        downbeats=tuple(known["downbeats"]),
        meter="{}/{}".format(*known["time_signature"]),
        tempo_bpm=known["tempo_beats_per_minute"],
        key=f"{KEYS[known['key_sharps'] + 7]} major",
    )
    return Truth(clip, written, grid, known["key_sharps"])


def is_note_value(quarters: float) -> bool:
    """Return True for a whole number of 32nds or of thirds of an eighth."""
    return any(abs(quarters * parts - round(quarters * parts)) < CLOSE for parts in (8, 6))


def measure(truth: Truth, notes: Sequence[Note], grid: BeatGrid) -> Row:
    """Write a score, and compare the notes that are those of the truth."""
    ordered = sorted(notes, key=lambda note: (note.onset, note.is_drum, note.program, note.pitch))
    score = arrange(ordered, grid, ScoreOptions())
    values = written_values(score)
    pairs = match([note for note, _ in truth.written], ordered, key=lambda note: (note.is_drum, note.pitch))
    expected = {found: truth.written[true][1] for true, found in pairs}
    starts = [bar.start for bar in score.bars]
    places, lengths, hands = [], [], []
    for placed in score.placed:
        written = expected.get(placed.index)
        if written is None:
            continue
        bar = score.bars[max(bisect_right(starts, placed.start) - 1, 0)]
        place = (placed.start - bar.origin) / score.meter.divisions
        places.append(not placed.grace and abs(place - written.place_in_bar) < CLOSE)
        if placed.note.is_drum:
            continue
        hands.append(placed.staff == written.part)
        if written.value is not None:
            lengths.append(abs(values.get(placed.index, -1.0) - written.value) < CLOSE)
    # The key of a score is compared by its signature: nothing else of it is written.
    found_beats = evaluate(Music((), (), truth.grid.beats), Music((), (), grid.beats)).beats
    return Row(
        clip=truth.clip,
        level=(found_beats or 0.0) >= RIGHT_LEVEL,
        place=mean(places) or 0.0,
        value=mean(lengths),
        meter=grid.meter == truth.grid.meter,
        key=score.key.fifths == Key.parse(truth.grid.key).fifths,
        hands=mean(hands) if truth.is_piano_solo else None,
    )


def written_values(score: Score) -> dict[int, float]:
    """Return the written duration of each note in quarters, by its index in the transcription."""
    chords = (chord for part in score.parts for staff in part.staves for voice in staff.voices for chord in voice)
    return {
        placed.index: (chord.end - chord.start) / score.meter.divisions
        for chord in chords
        for placed in chord.notes
    }


COLUMNS: dict[str, Callable[[Row], float | None]] = {
    "place in the bar": lambda row: row.place,
    "where the beats are right": lambda row: row.place if row.level else None,
    "of all clips": lambda row: float(row.level),
    "note value": lambda row: row.value,
    "time signature": lambda row: float(row.meter),
    "key": lambda row: float(row.key),
    "hands": lambda row: row.hands,
}


def table(head: str, rows: dict[str, Sequence[Row]]) -> str:
    """Return a table in Markdown with the means of each entry's rows."""
    lines = [f"| {head} | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for label, of in rows.items():
        lines.append(f"| {label} | {' | '.join(cell(mean(map(column, of))) for column in COLUMNS.values())} |")
    return "\n".join(lines)


def scores(contestants: Sequence[Contestant], truths: Sequence[Truth]) -> Iterator[tuple[str, list[Row]]]:
    """Yield the rows of the true notes, and of each model with true beats and with its own."""
    yield (
        "true notes, true beats",
        [measure(each, [note for note, _ in each.written], each.grid) for each in truths],
    )
    for contestant in contestants:
        transcriptions = [notes.transcription for notes in contestant.notes([each.clip for each in truths])]
        both = list(zip(truths, transcriptions, strict=True))
        yield f"{contestant.label}, true beats", [measure(true, found.notes, true.grid) for true, found in both]
        yield f"{contestant.label}, its own", [measure(true, found.notes, found.grid) for true, found in both]


@click.command()
@click.argument("directories", nargs=-1, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-m", "--model", "names", multiple=True, help="Only this one; may be repeated.")
@click.option("--checkpoint", multiple=True, metavar="MODEL=PATH", help="Weights that are not installed.")
@click.option("--half", type=click.Choice(["tune", "judge"]), help="Only this half of the rendered clips.")
def main(
    directories: tuple[Path, ...], names: tuple[str, ...], checkpoint: tuple[str, ...], half: str | None
) -> None:
    """Measure scores of the clips in DIRECTORIES, or of those of performances.py."""
    checkpoints = {name: Path(path) for name, _, path in (each.partition("=") for each in checkpoint)}
    models = [info for info in list_models() if info.installed or info.name in checkpoints]
    chosen = [info.name for info in models if not names or info.name in names]
    contestants = [Contestant(name, name, checkpoints.get(name)) for name in chosen]
    for directory in directories or [rendered_clips()]:
        truths = [read_truth(path) for path in truth_files(directory, half)]
        results: dict[str, Any] = dict(scores(contestants, truths))
        click.echo(f"\n{directory.name}, mean of {len(truths)} clips\n\n{table('notes, beats', results)}")
        for label, rows in results.items():
            click.echo(f"\n{label}\n\n{table('clip', {row.clip.name: [row] for row in rows})}")


if __name__ == "__main__":
    main()
