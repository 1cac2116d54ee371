"""Measure how right each model is on performances with truth: print tables, draw the plot of the README.

    python bench/accuracy.py                        on the clips of performances.py, rendered if they are not there
    python bench/accuracy.py DIRECTORY...           on others like them: NAME.flac, NAME.json
        -m MODEL                                    only this one, fetched if need be; else all installed or given
        --checkpoint MODEL=PATH                     weights that are not installed
        --plot docs/images/accuracy.svg

Clips and notes are kept in var/bench, under names that change with the code, the weights and the options they come
from: a second run only measures. See bench/README.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from keeping import Notes, digest, kept_notes, library_digest

from checkpoints.store import CheckpointStore
from mt3_infer import load_model
from mt3_infer.evaluation import Evaluation, Music, evaluate
from mt3_infer.exports.soundfont import find_sound_font
from mt3_infer.loading import ModelInfo, list_models
from mt3_infer.model import Model
from mt3_infer.models import MODELS, BasicPitchOptions
from mt3_infer.symbolic.grid import BeatGrid
from mt3_infer.symbolic.instruments import program_name
from mt3_infer.symbolic.notes import Note, Pedal, sort_notes

HERE = Path(__file__).parent
KEPT = HERE.parent / "var" / "bench"
PUBLISHED_ONSET_THRESHOLD = 0.5  # of Basic Pitch
COLORS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#999999", "#000000")


@dataclass(frozen=True)
class Clip:
    """A recording with what is known about it; `instruments` by name."""

    name: str
    audio: Path
    truth: Music
    instruments: tuple[str, ...]
    seconds: float

    @property
    def kind(self) -> str:
        """Return what plays, as the name begins."""
        return self.name.partition("_")[0]


@dataclass(frozen=True)
class Contestant:
    """A model with its weights, and options that may depend on the clip; `label` names it in the tables."""

    label: str
    model: str
    weights: Path | None
    options: Callable[[Clip], dict[str, Any]] = lambda clip: {}

    def notes(self, clips: Sequence[Clip]) -> Iterator[Notes]:
        """Yield the notes of each clip; the model is loaded when the first of them has to be made."""
        library = library_digest()
        model: Model | None = None

        def transcribe(clip: Clip) -> Any:
            nonlocal model
            click.echo(f"{self.label}: {clip.name}", err=True)
            if model is None:
                model = load_model(self.model, checkpoint_path=self.weights)
                rate = model.spec.sample_rate
                model.transcribe(np.random.default_rng(1).normal(0, 0.1, 3 * rate), rate)  # the first is slower
            return model.transcribe(clip.audio, **self.options(clip))

        for clip in clips:
            options = MODELS[self.model].check_options(self.options(clip)).model_dump()
            name = digest(library, self.model, self._weights_key(), options, files=[clip.audio])
            yield kept_notes(KEPT / "notes" / f"{name}.json", lambda clip=clip: transcribe(clip))  # type: ignore[misc]

    def _weights_key(self) -> tuple[Any, ...]:
        if self.weights is None:
            return tuple(file.sha256 for file in CheckpointStore.from_environment().entry(self.model).files)
        files = [self.weights] if self.weights.is_file() else sorted(self.weights.rglob("*"))
        return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@dataclass(frozen=True)
class Row:
    """One clip by one model; `cpu` is CPU seconds for each second of audio."""

    clip: Clip
    result: Evaluation
    beats_at_level: float | None
    cpu: float


def read_clip(truth: Path) -> Clip:
    """Read a clip's truth."""
    known = json.loads(truth.read_text())
    notes = []
    for note in known["notes"]:
        is_drum = note.get("drum", False)
        program = 0 if is_drum else known["programs"][str(note["part"])]
        times = (note["onset"], note["offset"], note["pitch"], note["velocity"])
        notes.append(Note(*times, program=program, is_drum=is_drum))
    pedals = [Pedal(down, up) for down, up in known["pedal"]]
    return Clip(
        name=known["name"],
        audio=truth.with_suffix(".flac"),
        truth=Music(sort_notes(notes), pedals, known["beats"], known["downbeats"]),
        instruments=tuple(dict.fromkeys(program_name(note.program, note.is_drum) for note in notes)),
        seconds=known["seconds"],
    )


def truth_files(directory: Path, half: str | None = None) -> list[Path]:
    """Return the truths of a directory's clips, all or those of one half.

    Raises:
        click.UsageError: there are none.
    """
    truths = sorted(directory.glob("*.json"))
    if half:
        truths = [truth for truth in truths if json.loads(truth.read_text()).get("half") == half]
    if not truths:
        raise click.UsageError(
            f"{directory} has no clips: NAME.flac with NAME.json, as performances.py makes them."
        )
    return truths


def rendered_clips() -> Path:
    """Return the directory of the clips of performances.py; render those that are not there."""
    from performances import PIECES, make  # music21 takes seconds to load

    font = find_sound_font()
    directory = KEPT / f"performances-{digest(files=[font, *_rendering_code()])}"
    directory.mkdir(parents=True, exist_ok=True)
    for name, piece in PIECES.items():
        if not (directory / f"{name}.json").exists():
            click.echo(f"rendering {name}", err=True)
            make(piece, directory, font)
    return directory


def _rendering_code() -> list[Path]:
    names = ("performances", "performing", "pieces", "scores", "arrangements", "rendering")
    return [HERE / f"{name}.py" for name in names]


def contestants(models: Sequence[ModelInfo], checkpoints: dict[str, Path]) -> Iterator[Contestant]:
    """Yield the models, Basic Pitch also with the published threshold, some also with the instruments given."""
    for info in models:
        weights = checkpoints.get(info.name)
        yield Contestant(info.name, info.name, weights)
        if info.options is BasicPitchOptions:
            yield Contestant(f"{info.name}, as published", info.name, weights, _as_published)
        if "instruments" in info.options.model_fields:
            yield Contestant(f"{info.name}, instruments given", info.name, weights, _instruments)


def _is_at_hand(info: ModelInfo, checkpoints: dict[str, Path]) -> bool:
    return info.installed or info.name in checkpoints


def _as_published(clip: Clip) -> dict[str, Any]:
    return {"onset_threshold": PUBLISHED_ONSET_THRESHOLD}


def _instruments(clip: Clip) -> dict[str, Any]:
    only = clip.instruments[0] if len(clip.instruments) == 1 else None
    return {"single_instrument": only} if only else {"instruments": clip.instruments}


def measure(contestant: Contestant, clips: Sequence[Clip]) -> list[Row]:
    """Measure all clips with one model."""
    rows = []
    for clip, notes in zip(clips, contestant.notes(clips), strict=True):
        found = notes.transcription
        at_level = best_level(clip.truth.beats, found.grid)
        result = evaluate(clip.truth, Music.of(found))
        rows.append(Row(clip, result, at_level, notes.cpu / clip.seconds))
    return rows


def best_level(truth: Sequence[float], grid: BeatGrid) -> float | None:
    """Return the beats' F-measure after the correction that a user would make: ½×, 2×, 3:2, 2:3 or none."""
    import mir_eval

    beats = np.array(grid.beats)
    if len(beats) < 3 or not len(truth):
        return None
    places = np.arange(len(beats), dtype=float)
    tries = [
        np.arange(first, len(beats) - 1 + 1e-9, step)
        for step in (0.5, 2 / 3, 1.0, 1.5, 2.0)
        for first in np.arange(0, step, 0.5)
    ]
    candidates = (np.interp(wanted, places, beats) for wanted in tries)
    return max(float(mir_eval.beat.f_measure(np.array(truth), each)) for each in candidates)


COLUMNS: dict[str, Callable[[Row], float | None]] = {
    "onset F1": lambda row: row.result.onset.f1,
    "+ offset": lambda row: row.result.onset_offset.f1,
    "+ instrument": lambda row: row.result.program.f1,
    "+ family": lambda row: row.result.family.f1,
    "drums": lambda row: row.result.drums.f1 if row.result.drums and row.result.drums.reference else None,
    "velocity r": lambda row: row.result.velocity_correlation,
    "beats F": lambda row: row.result.beats,
    "at level": lambda row: row.beats_at_level,
    "downbeats F": lambda row: row.result.downbeats,
    "AUC": lambda row: row.result.confidence_auc,
    "Brier": lambda row: row.result.confidence_brier,
    "CPU s/s": lambda row: row.cpu,
}


def table(head: str, rows: dict[str, Sequence[Row]]) -> str:
    """Return a table in Markdown: for each entry the means of its rows; columns without figures are left out."""
    means = {
        label: {name: mean(map(column, of)) for name, column in COLUMNS.items()} for label, of in rows.items()
    }
    names = [name for name in COLUMNS if any(line[name] is not None for line in means.values())]
    lines = [f"| {head} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {label} | {' | '.join(cell(line[name]) for name in names)} |" for label, line in means.items()]
    return "\n".join(lines)


def mean(values: Any) -> float | None:
    """Return the mean of those that were measured."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def cell(value: float | None) -> str:
    """Return a figure as it stands in a table: ".849"."""
    if value is None:
        return "–"
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and text.lstrip("-").startswith("0.") else text


def draw(path: Path, results: dict[str, list[Row]]) -> None:
    """Draw onset F1 by kind of clip, a bar for each model, into an SVG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(row.clip.kind for row in next(iter(results.values()))))
    # The same figures make the same bytes.
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mt3-infer", "font.size": 10}):
        figure, axes = pyplot.subplots(figsize=(9, 3.4), layout="constrained")
        width = 0.8 / len(results)
        for number, (label, rows) in enumerate(results.items()):
            heights = [mean(row.result.onset.f1 for row in rows if row.clip.kind == kind) for kind in kinds]
            places = [place - 0.4 + (number + 0.5) * width for place in range(len(kinds))]
            axes.bar(places, heights, width, label=label, color=COLORS[number % len(COLORS)])
        axes.set_xticks(range(len(kinds)), kinds)
        axes.set_ylim(0, 1)
        axes.set_ylabel("onset F1")
        axes.grid(axis="y", color="#e3e6ea")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper center", ncols=min(4, len(results)), frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


@click.command()
@click.argument("directories", nargs=-1, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-m", "--model", "names", multiple=True, help="Only this one, fetched if need be; may be repeated.")
@click.option("--checkpoint", multiple=True, metavar="MODEL=PATH", help="Weights that are not installed.")
@click.option("--half", type=click.Choice(["tune", "judge"]), help="Only this half of the rendered clips.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw the plot of the first directory into this SVG file."
)
def main(
    directories: tuple[Path, ...],
    names: tuple[str, ...],
    checkpoint: tuple[str, ...],
    half: str | None,
    plot: Path | None,
) -> None:
    """Measure the models on the clips in DIRECTORIES, or those of performances.py; tables for each directory."""
    checkpoints = {name: Path(path) for name, _, path in (each.partition("=") for each in checkpoint)}
    known = {info.name: info for info in list_models()}
    if unknown := {*names, *checkpoints} - set(known):
        raise click.UsageError(f"There is no model {', '.join(sorted(unknown))}; there are: {', '.join(known)}.")
    models = [info for name, info in known.items() if (name in names if names else _is_at_hand(info, checkpoints))]
    if not names and (absent := [name for name, info in known.items() if info not in models]):
        click.echo(f"Not installed: {', '.join(absent)}. To measure one, name it: -m {absent[0]}", err=True)
    if not models:
        sys.exit(1)
    for number, directory in enumerate(directories or [rendered_clips()]):
        clips = [read_clip(truth) for truth in truth_files(directory, half)]
        results = {one.label: measure(one, clips) for one in contestants(models, checkpoints)}
        seconds = sum(clip.seconds for clip in clips)
        name = directory.name if directories else "Rendered performances"
        click.echo(f"\n{name}, mean of {len(clips)} clips, {seconds:.0f} s\n\n{table('model', results)}")
        for label, rows in results.items():
            click.echo(f"\n{label}\n\n{table('clip', {row.clip.name: [row] for row in rows})}")
        if plot and number == 0:
            draw(plot, results)


if __name__ == "__main__":
    main()
