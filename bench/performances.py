"""Render public-domain scores as performances with truth, to measure transcription, beats and scores with.

    python bench/performances.py DIRECTORY                 all clips: NAME.flac, NAME.mid, NAME.json
    python bench/performances.py DIRECTORY --only NAME     one of them
    python bench/performances.py DIRECTORY --half tune     those to tune on; "judge": those that judge

The scores come with music21 (its corpus); accompaniments are composed by rule. A seeded rule plays them, a sound
font renders them: they serve to compare and to guard, and promise nothing about recordings. See bench/README.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from performing import Performance, perform, seeded
from pieces import PIECES, Piece, written
from rendering import SUSTAIN, channels, events, render, write_flac

from mt3_infer.exports.soundfont import find_sound_font

SEED = 1
TICKS = 960  # of a quarter at 120 a minute: half a millisecond


def half(name: str) -> str:
    """Return "tune" or "judge": within each kind of piece, every other one in an order that the seed decides."""
    kind = name.partition("_")[0]
    kinds = sorted(PIECES, key=lambda other: (other.partition("_")[0] != kind, seeded(other, SEED).random()))
    first = int(seeded(kind, SEED).integers(2))
    return ("tune", "judge")[(kinds.index(name) + first) % 2]


def played(piece: Piece, seed: int = SEED) -> tuple[Performance, np.random.Generator]:
    """Return a piece's performance, and the random numbers that its sound continues with."""
    random = seeded(piece.name, seed)
    return perform(written(piece), piece.manner, random), random


def truth(piece: Piece, performance: Performance, seconds: float) -> dict[str, Any]:
    """Return what is known of a performance, times in seconds."""
    score = performance.score
    beats = [(performance.time(q), number) for q, number in score.beats()]
    times = [round(time, 4) for time, _ in beats]
    notes = [
        {
            "part": note.written.part,
            "q": note.written.q,
            "dur_q": note.written.dur_q,
            "pitch": note.written.pitch,
            "onset": note.onset,
            "offset": note.offset,
            "velocity": note.velocity,
            **({"grace": True} if note.written.grace else {}),
            **({"drum": True} if score.parts[note.written.part].is_drums else {}),
        }
        for note in performance.notes
    ]
    return {
        "name": piece.name,
        "description": piece.description,
        "half": half(piece.name),
        "beats": times,
        "beat_in_bar": [number for _, number in beats],
        "downbeats": [time for time, (_, number) in zip(times, beats, strict=True) if number == 1],
        "time_signature": [score.bars[-1].num, score.bars[-1].den],
        "tempo_beats_per_minute": round(60 / float(np.median(np.diff(times))), 2),
        "bars": [{"q": bar.q, "num": bar.num, "den": bar.den, "length_q": bar.length_q} for bar in score.bars],
        "quarter_to_time": [
            [q, round(performance.time(q), 4)] for q in np.arange(0, score.length_q + 0.25, 0.5).tolist()
        ],
        "notes": notes,
        "soundfont": "FluidR3Mono",
        "key_sharps": score.key_sharps,
        "programs": {str(i): part.program for i, part in enumerate(score.parts) if not part.is_drums},
        "pedal": [list(span) for span in performance.pedal],
        "seconds": round(seconds, 2),
        "sample_rate": piece.treatment.sample_rate,
    }


def write_midi(path: Path, performance: Performance) -> None:
    """Write what was rendered, at performed times."""
    import mido

    file = mido.MidiFile(ticks_per_beat=TICKS)
    track = mido.MidiTrack()
    file.tracks.append(track)
    for channel, part in zip(channels(performance), performance.score.parts, strict=True):
        track.append(mido.Message("program_change", channel=channel, program=part.program))
    now = 0
    for seconds, channel, kind, number, value in events(performance):
        tick = round(seconds * 2 * TICKS)
        delta, now = tick - now, tick
        if kind == "pedal":
            message = mido.Message("control_change", channel=channel, control=SUSTAIN, value=value, time=delta)
        else:
            message = mido.Message(f"note_{kind}", channel=channel, note=number, velocity=value, time=delta)
        track.append(message)
    file.save(str(path))


def make(piece: Piece, directory: Path, font: Path, seed: int = SEED) -> None:
    """Write a clip's three files; the truth comes last, so that a clip with it is whole."""
    performance, random = played(piece, seed)
    sound = render(performance, font, piece.treatment, random)
    write_flac(directory / f"{piece.name}.flac", sound, piece.treatment.sample_rate)
    write_midi(directory / f"{piece.name}.mid", performance)
    known = truth(piece, performance, sound.shape[1] / piece.treatment.sample_rate)
    (directory / f"{piece.name}.json").write_text(json.dumps(known))


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--only", multiple=True, type=click.Choice(list(PIECES)), help="Render this clip; may be repeated.")
@click.option("--half", "which", type=click.Choice(["tune", "judge"]), help="Render one half of the clips.")
@click.option("--font", type=click.Path(path_type=Path, exists=True), help="Instead of the library's sound font.")
@click.option("--seed", default=SEED, show_default=True, help="Seed of the rule that plays.")
def main(directory: Path, only: tuple[str, ...], which: str | None, font: Path | None, seed: int) -> None:
    """Render the clips into DIRECTORY."""
    font = find_sound_font(font)
    directory.mkdir(parents=True, exist_ok=True)
    for name, piece in PIECES.items():
        if (only and name not in only) or (which and half(name) != which):
            continue
        make(piece, directory, font, seed)
        click.echo(f"{name}  {half(name)}  {piece.description}")


if __name__ == "__main__":
    main()
