"""Fit the coefficients that confidence is estimated with, to performances with truth.

    python bench/performances.py RENDERED [--half tune --seed N]
    python bench/fit_confidence.py RENDERED...      print how well they do
        --write                                     write them into the package
        --judge OTHERS                              more clips to measure on
        --checkpoint mt3_pytorch=PATH               weights that are not installed
        --notes DIRECTORY                           keep the notes, so that the next run need not transcribe

It transcribes each clip with the model that stands for each family, and fits ridge-regularized logistic models of
"this note is right" to the clips that `performances.py` tunes on. Every clip counts the same, unless it has
very few notes. The rows that it prints are of clips that the coefficients were not fitted to. See bench/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from checkpoints.store import CheckpointStore
from mt3_infer.audio import open_audio
from mt3_infer.evaluation.measures import NoteScore, auc_and_brier, match
from mt3_infer.evaluation.music import DOUBLING_SECONDS, without_doublings
from mt3_infer.evidence import confidence
from mt3_infer.evidence.collector import energy_track, posterior_track
from mt3_infer.evidence.estimates import all_features, strengths_of
from mt3_infer.evidence.features import DRUM_FEATURES, NOTE_FEATURES, POSTERIOR_FEATURES, Tracks
from mt3_infer.evidence.recorder import VERSION, EvidenceRecorder
from mt3_infer.loading import load_model, open_posteriors
from mt3_infer.symbolic.notes import Note, sort_notes
from mt3_infer.transcription import Transcription

Values = NDArray[np.float64]

MODELS = {"mt3": "mt3_pytorch", "basic_pitch": "basic_pitch"}
"""By family, the model that stands for it."""

FEATURES = {
    "posteriors": (*NOTE_FEATURES, *POSTERIOR_FEATURES),
    "energies": NOTE_FEATURES,
    "drums": DRUM_FEATURES,
}

HEADER = """\
| family, evidence | measured on | clips | AUC | Brier | of the mean | onset F1, without doubtful |
|---|---|---|---|---|---|---|"""

CLIP_WEIGHT = 100.0  # notes that each clip counts as
FEWEST_NOTES = 80  # in a clip with fewer, each counts as in one with so many
RIDGE = 3.0
DROPPED_BELOW = 0.15
"""The confidence below which a note would be left out."""


@dataclass(frozen=True)
class Judged:
    """The notes of a clip.

    Attributes:
        half: "tune" or "judge"; see `performances.py`.
        features: one for each note.
        right: whether each note is right, shape (N,).
        is_drum: shape (N,).
        truth: pitched notes that there are.
    """

    name: str
    half: str
    features: Sequence[dict[str, float]]
    right: NDArray[np.bool_]
    is_drum: NDArray[np.bool_]
    truth: int

    def table(self, kind: str, names: Sequence[str]) -> tuple[Values, Values]:
        """Return the features of the pitched notes or of the drums, shape (N, F), and which are right."""
        chosen = np.flatnonzero(self.is_drum == (kind == "drums"))
        rows = np.array([[self.features[index][name] for name in names] for index in chosen], float)
        return rows.reshape(len(chosen), len(names)), self.right[chosen].astype(float)


def judge(known: dict[str, Any], transcription: Transcription, audio: Path, rate: int) -> Judged:
    """Compute the features of a clip's notes, and compare them with the truth."""
    recorder = EvidenceRecorder(rate, open_posteriors(CheckpointStore.from_environment(), fetch=True))
    with open_audio(audio, sample_rate=rate) as stream:
        for _ in recorder.passing(stream):
            pass
    evidence = recorder.evidence
    assert evidence.posteriors is not None, "Basic Pitch is not installed."
    tracks = Tracks(energy_track(evidence.energies), posterior_track(evidence.posteriors))
    notes = transcription.notes
    truth = without_doublings(
        sort_notes(
            Note(note["onset"], note["offset"], note["pitch"], note["velocity"], is_drum=note.get("drum", False))
            for note in known["notes"]
        )
    )
    found = without_doublings(notes)
    pairs = match(truth, found, key=lambda note: (note.is_drum, note.pitch))
    onsets: dict[tuple[bool, int], list[float]] = {}
    for _, index in pairs:
        onsets.setdefault((found[index].is_drum, found[index].pitch), []).append(found[index].onset)

    def is_right(note: Note) -> bool:
        """A doubling at the unison is as right as the note that it doubles."""
        near = (note.onset - onset for onset in onsets.get((note.is_drum, note.pitch), ()))
        return any(-1e-6 <= since <= DOUBLING_SECONDS for since in near)

    return Judged(
        name=known["name"],
        half=known.get("half", "judge"),
        features=list(all_features(notes, tracks, strengths_of(notes, tracks))),
        right=np.array([is_right(note) for note in notes], bool),
        is_drum=np.array([note.is_drum for note in notes], bool),
        truth=sum(not note.is_drum for note in truth),
    )


def fit(clips: Sequence[Judged], kind: str) -> dict[str, float]:
    """Return the coefficients of a kind of notes, by Newton's method on standardized features."""
    names = FEATURES[kind]
    tables = [table for clip in clips if len((table := clip.table(kind, names))[1])]
    features = np.concatenate([rows for rows, _ in tables])
    right = np.concatenate([right for _, right in tables])
    weights = np.concatenate(
        [np.full(len(right), CLIP_WEIGHT / max(FEWEST_NOTES, len(right))) for _, right in tables]
    )
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    design = np.column_stack([np.ones(len(features)), (features - mean) / deviation])
    ridge = np.diag([1e-9, *[RIDGE] * len(names)])
    found = np.zeros(design.shape[1])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-design @ found))
        gradient = design.T @ (weights * (probability - right)) + ridge @ found
        curvature = (design * (weights * probability * (1 - probability))[:, None]).T @ design + ridge
        found -= np.linalg.solve(curvature, gradient)
    slopes = found[1:] / deviation
    return dict(zip(("bias", *names), np.round([found[0] - slopes @ mean, *slopes], 3).tolist(), strict=True))


def report(clips: Sequence[Judged], kind: str, coefficients: dict[str, float]) -> str:
    """Return the figures of coefficients on clips, as the cells of a table."""
    aucs, briers, bases, before, after = [], [], [], [], []
    for clip in clips:
        chosen = np.flatnonzero(clip.is_drum == (kind == "drums"))
        if not len(chosen):
            continue
        right = clip.right[chosen]
        probability = np.array([confidence.confidence(clip.features[index], coefficients) for index in chosen])
        auc, brier = auc_and_brier(probability, right)
        aucs.append(auc)
        briers.append(brier)
        bases.append(float(right.mean() * (1 - right.mean())))
        kept = probability >= DROPPED_BELOW
        before.append(NoteScore(clip.truth, len(right), int(right.sum())).f1)
        after.append(NoteScore(clip.truth, int(kept.sum()), int(right[kept].sum())).f1)
    known = [auc for auc in aucs if auc is not None]
    scores = "" if kind == "drums" else f" {np.mean(before):.3f} → {np.mean(after):.3f}"
    return f"{len(briers)} | {np.mean(known):.3f} | {np.mean(briers):.3f} | {np.mean(bases):.3f} |{scores}"


def clips_of(directory: Path, family: str, checkpoint: Path | None, kept: Path | None) -> Iterator[Judged]:
    """Yield the clips in a directory, transcribed with the model that stands for a family."""
    model = load_model(MODELS[family], checkpoint_path=checkpoint)
    for truth in sorted(directory.glob("*.json")):
        audio = truth.with_suffix(".flac")
        file = kept / directory.name / MODELS[family] / truth.name if kept else None
        if file is not None and file.exists():
            transcription = Transcription.from_json(file.read_text())
        else:
            transcription = model.transcribe(audio, estimates=False)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                transcription.save(file)
        yield judge(json.loads(truth.read_text()), transcription, audio, model.spec.sample_rate)


@click.command()
@click.argument(
    "directories", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option("--judge", "judges", type=click.Path(path_type=Path, exists=True), help="More clips to measure on.")
@click.option("--checkpoint", multiple=True, metavar="MODEL=PATH", help="Weights that are not installed.")
@click.option("--notes", "kept", type=click.Path(path_type=Path), help="Keep the notes here, and use those there.")
@click.option("--write", is_flag=True, help="Write the coefficients into the package.")
def main(
    directories: tuple[Path, ...],
    judges: Path | None,
    checkpoint: tuple[str, ...],
    kept: Path | None,
    write: bool,
) -> None:
    """Fit the coefficients to the clips in DIRECTORIES, and print how well they do on others."""
    checkpoints = {name: Path(path) for name, _, path in (each.partition("=") for each in checkpoint)}
    families: dict[str, dict[str, dict[str, float]]] = {}
    click.echo(HEADER)
    for family, model in MODELS.items():
        at = checkpoints.get(model)
        rendered = [clip for each in directories for clip in clips_of(each, family, at, kept)]
        tune = [clip for clip in rendered if clip.half == "tune"]
        held_out = {"the other half": [clip for clip in rendered if clip.half != "tune"]}
        if judges:
            held_out[judges.name] = list(clips_of(judges, family, at, kept))
        families[family] = {}
        for kind in FEATURES:
            if not any(len(clip.table(kind, ())[1]) for clip in tune):
                continue  # it finds no drums
            families[family][kind] = fit(tune, kind)
            for name, clips in held_out.items():
                if clips:
                    click.echo(f"| {family}, {kind} | {name} | {report(clips, kind, families[family][kind])}")
        families[family].setdefault("drums", families["mt3"]["drums"])  # where an option makes its notes drums
    if write:
        file = Path(confidence.__file__).with_name("coefficients.json")
        file.write_text(json.dumps({"version": VERSION, "families": families}, indent=2) + "\n")


if __name__ == "__main__":
    main()
