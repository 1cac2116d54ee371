"""The commands `mt3-infer evaluate` and `mt3-infer compare`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mt3_infer.cli.errors import as_click_errors
from mt3_infer.files import check_writable, write_whole

if TYPE_CHECKING:
    from mt3_infer.evaluation import Evaluation, NoteScore
    from mt3_infer.evaluation.agreement import Agreement
    from mt3_infer.model import Model
    from mt3_infer.transcription import Transcription

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("evaluate")
@click.argument("reference", type=FILE)
@click.argument("estimate", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def evaluate_command(reference: Path, estimate: Path, as_json: bool) -> None:
    """Measure ESTIMATE against REFERENCE; both are MIDI files or notes.json.

    Onsets count within 50 ms; offsets within 50 ms or a fifth of the duration, of the keys or as a pedal extends
    them, whichever fits better; beats within 70 ms, if both files have them. Doublings at the unison count
    once. Drums are measured apart.
    """
    from mt3_infer.evaluation import evaluate, read_music

    with as_click_errors():
        result = evaluate(read_music(reference), read_music(estimate))
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        click.echo(_tables(result))


def _tables(result: Evaluation) -> str:
    """Return the tables that `evaluate` prints."""
    scores: dict[str, NoteScore | None] = {
        "onset": result.onset,
        "onset + offset": result.onset_offset,
        "onset + velocity": result.onset_velocity,
        "onset + program": result.program,
        "onset + family": result.family,
    }
    scores |= {f"  {name}": score for name, score in sorted(result.families.items())}
    rows: list[tuple[str, ...]] = [("NOTES", "PRECISION", "RECALL", "F1", "REFERENCE", "ESTIMATE", "MATCHED")]
    for name, score in scores.items():
        if score is not None:
            rates = (f"{rate:.3f}" for rate in (score.precision, score.recall, score.f1))
            counts = (str(count) for count in (score.reference, score.estimated, score.matched))
            rows.append((name, *rates, *counts))
    figures = {
        "velocity correlation": result.velocity_correlation,
        "beats F": result.beats,
        "downbeats F": result.downbeats,
        "confidence AUC": result.confidence_auc,
        "confidence Brier": result.confidence_brier,
    }
    lines = [f"{name}: {figure:.3f}" for name, figure in figures.items() if figure is not None]
    return "\n".join([*_columns(rows), *([""] if lines else []), *lines])


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows in columns; all but the first are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


@click.command("compare")
@click.argument("file", type=FILE)
@click.option(
    "-m", "--models", nargs=2, required=True, metavar="A B", help="The two models; see `mt3-infer list`."
)
@click.option("--checkpoint", "checkpoints", multiple=True, metavar="MODEL=PATH", help="Weights of your own.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:1.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the notes into this SVG file.")
@click.option("-f", "--force", is_flag=True, help="Replace a picture that exists already.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the notes that only one model found.")
def compare_command(
    file: Path,
    models: tuple[str, str],
    checkpoints: tuple[str, ...],
    device: str,
    picture: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Transcribe FILE with two models and show where they agree.

    The F1 is that of B's notes with A's as the reference: pitch and onset within 50 ms. It tells how much the
    two have in common, not which one is right.
    """
    from mt3_infer.evaluation.agreement import agreement
    from mt3_infer.evaluation.picture import draw_agreement
    from mt3_infer.loading import get_model_spec

    weights = _own_weights(checkpoints, models)
    with as_click_errors(file):
        for name in models:
            get_model_spec(name)
        if picture is not None:
            _check_picture(picture, force)
        runs = [_transcribe(file, name, weights.get(name), device) for name in models]
        shared = agreement(runs[0][0].notes, runs[1][0].notes)
        if picture is not None:
            write_whole(picture, draw_agreement(shared, *models).encode())
    if as_json:
        sides = [_summary(name, result, seconds) for name, (result, seconds) in zip(models, runs, strict=True)]
        click.echo(json.dumps({"source": str(file), "a": sides[0], "b": sides[1], **shared.to_dict()}, indent=2))
    else:
        click.echo(_comparison(models, runs, shared))
    if picture is not None:
        click.echo(f"{picture}: both, only {models[0]}, only {models[1]}", err=True)


def _own_weights(checkpoints: tuple[str, ...], models: Sequence[str]) -> dict[str, Path]:
    """Return the paths given as MODEL=PATH, by model."""
    found = {}
    for each in checkpoints:
        name, equals, path = each.partition("=")
        if not equals or not path:
            raise click.UsageError(f"--checkpoint takes MODEL=PATH, not {each!r}.")
        if name not in models:
            raise click.UsageError(f"--checkpoint names {name!r}; the models are {' and '.join(models)}.")
        found[name] = Path(path)
    return found


def _check_picture(picture: Path, force: bool) -> None:
    """Raise an error before any work if the picture cannot be written."""
    if picture.suffix.lower() != ".svg":
        raise click.UsageError(f"The picture is drawn as SVG: name it .svg, not {picture.name!r}.")
    if picture.exists() and not force:
        raise click.UsageError(f"{picture} already exists: pass --force to replace it, or choose another name.")
    check_writable(picture)


def _transcribe(file: Path, name: str, checkpoint: Path | None, device: str) -> tuple[Transcription, float]:
    """Return the transcription by one model, and the seconds it took without loading the model."""
    from mt3_infer.loading import load_model

    model: Model = load_model(name, checkpoint_path=checkpoint, device=device)
    started = time.monotonic()
    return model.transcribe(file), time.monotonic() - started


def _summary(name: str, result: Transcription, seconds: float) -> dict[str, Any]:
    return {"model": name, "notes": len(result.notes), "seconds": round(seconds, 3)}


def _comparison(models: tuple[str, str], runs: list[tuple[Transcription, float]], shared: Agreement) -> str:
    """Return the table that `compare` prints."""
    rows = [("MODEL", "NOTES", "ONLY THIS ONE", "SECONDS")]
    for name, (result, seconds), alone in zip(models, runs, (shared.only_a, shared.only_b), strict=True):
        rows.append((name, str(len(result.notes)), str(len(alone)), f"{seconds:.1f}"))
    return "\n".join(
        [*_columns(rows), "", f"agreement: F1 {shared.score.f1:.3f}, {len(shared.both)} notes in both"]
    )
