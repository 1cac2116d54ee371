"""Measure a transcription against a reference, as `mir_eval` defines it.

Source: Bay et al., Evaluation of Multiple-F0 Estimation and Tracking Systems (ISMIR 2009); Hawthorne et al.,
Onsets and Frames (ISMIR 2018), for velocities; Raffel et al., mir_eval (ISMIR 2014).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any

from mt3_infer.errors import MissingDependencyError
from mt3_infer.evaluation.music import Music, with_pedal, without_doublings
from mt3_infer.symbolic.instruments import family_of
from mt3_infer.symbolic.notes import Note

ONSET_SECONDS = 0.05
OFFSET_RATIO = 0.2
"""An offset may be this share of the reference note's duration off, or `ONSET_SECONDS` if that is more."""
VELOCITY_TOLERANCE = 0.1
"""Of the range of the reference's velocities, after those found were scaled to it."""

Pairs = list[tuple[int, int]]
"""Indices of a reference note and of the note found for it."""


@dataclass(frozen=True)
class NoteScore:
    """How many notes of a reference were found."""

    reference: int
    estimated: int
    matched: int

    @property
    def precision(self) -> float:
        """Return the share of the estimated notes that are right; 0 if there are none."""
        return self.matched / self.estimated if self.estimated else 0.0

    @property
    def recall(self) -> float:
        """Return the share of the reference's notes that were found; 0 if there are none."""
        return self.matched / self.reference if self.reference else 0.0

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall."""
        total = self.reference + self.estimated
        return 2 * self.matched / total if total else 0.0


@dataclass(frozen=True)
class Evaluation:
    """Hold what `evaluate` measures. Drums are in `drums` alone; None is what could not be measured.

    Attributes:
        onset: pitch and onset.
        onset_offset: and offset: of the key, or with the pedal in the reference, whichever fits better.
        onset_velocity: pitch, onset and velocity.
        program: pitch, onset and General MIDI program; `family`: its family instead.
        families: onset scores by family, drums among them.
        velocity_correlation: Pearson's, over the notes whose onsets match; None if one side has no variation.
        beats, downbeats: F-measure, within 70 ms.
        confidence_auc: how well the notes' confidence separates right ones from wrong ones; 0.5 is chance.
        confidence_brier: mean squared error of the confidence as the probability that a note is right.
    """

    onset: NoteScore
    onset_offset: NoteScore
    onset_velocity: NoteScore
    program: NoteScore
    family: NoteScore
    drums: NoteScore | None = None
    families: dict[str, NoteScore] = field(default_factory=dict)
    velocity_correlation: float | None = None
    beats: float | None = None
    downbeats: float | None = None
    confidence_auc: float | None = None
    confidence_brier: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it, rounded to four places."""

        def plain(value: Any) -> Any:
            if isinstance(value, NoteScore):
                rates = {"precision": value.precision, "recall": value.recall, "f1": value.f1}
                return asdict(value) | {name: round(rate, 4) for name, rate in rates.items()}
            if isinstance(value, dict):
                return {name: plain(one) for name, one in value.items()}
            return round(value, 4) if isinstance(value, float) else value

        return {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}


def evaluate(reference: Music, estimate: Music) -> Evaluation:
    """Measure an estimate against a reference.

    Raises:
        MissingDependencyError: mir_eval is not installed.
    """
    _mir_eval()  # before any work
    truth, found = _pitched(reference), _pitched(estimate)
    pairs = match(truth, found)
    families, same_family = _by_group(
        reference, estimate, lambda note: family_of(note.program, note.is_drum).value
    )
    _, same_program = _by_group(reference, estimate, lambda note: note.program)
    auc, brier = _confidence(found, pairs)
    return Evaluation(
        onset=NoteScore(len(truth), len(found), len(pairs)),
        onset_offset=NoteScore(len(truth), len(found), _with_offsets(reference, estimate)),
        onset_velocity=NoteScore(len(truth), len(found), _right_velocities(truth, found, pairs)),
        program=same_program,
        family=same_family,
        drums=families.get("drums"),
        families=families,
        velocity_correlation=_correlation([(truth[i].velocity, found[j].velocity) for i, j in pairs]),
        beats=_beat_f(reference.beats, estimate.beats),
        downbeats=_beat_f(reference.downbeats, estimate.downbeats),
        confidence_auc=auc,
        confidence_brier=brier,
    )


def match(
    reference: Sequence[Note],
    estimate: Sequence[Note],
    *,
    offset_ratio: float | None = None,
    key: Callable[[Note], Hashable] = lambda note: note.pitch,
) -> Pairs:
    """Return a largest set of pairs whose onsets lie within 50 ms and whose keys are equal; by default, the pitch.

    Notes of different keys never match, so each key is matched by itself, which bounds memory for long recordings.

    Args:
        offset_ratio: whether offsets count too, and how exactly; None if not.
    """
    import numpy as np

    mir_eval = _mir_eval()
    groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, notes in enumerate((reference, estimate)):
        for index, note in enumerate(notes):
            groups[key(note)][side].append(index)
    pairs: Pairs = []
    for truth, found in groups.values():
        if truth and found:
            intervals = [
                np.array([(notes[i].onset, max(notes[i].offset, notes[i].onset + 1e-3)) for i in indices])
                for notes, indices in ((reference, truth), (estimate, found))
            ]
            matched = mir_eval.transcription.match_notes(
                intervals[0],
                np.full(len(truth), 440.0),
                intervals[1],
                np.full(len(found), 440.0),
                onset_tolerance=ONSET_SECONDS,
                offset_ratio=offset_ratio,
            )
            pairs += [(truth[i], found[j]) for i, j in matched]
    return sorted(pairs)


def _mir_eval() -> ModuleType:
    """Import mir_eval, or name the package that is missing."""
    try:
        import mir_eval
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "Evaluation needs the package mir_eval: pip install 'mt3-infer-service[infer]'"
        ) from error
    module: ModuleType = mir_eval
    return module


def _pitched(music: Music) -> list[Note]:
    return without_doublings(note for note in music.notes if not note.is_drum)


def _with_offsets(reference: Music, estimate: Music) -> int:
    """Return how many notes match with their offsets: by the keys, or as the pedals extend them."""
    truth, found = _pitched(reference), _pitched(estimate)
    by_keys = len(match(truth, found, offset_ratio=OFFSET_RATIO))
    if not reference.pedals and not estimate.pedals:
        return by_keys
    truth, found = with_pedal(truth, reference.pedals), with_pedal(found, estimate.pedals)
    return max(by_keys, len(match(truth, found, offset_ratio=OFFSET_RATIO)))


def _by_group(
    reference: Music, estimate: Music, group: Callable[[Note], Hashable]
) -> tuple[dict[Any, NoteScore], NoteScore]:
    """Return the onset scores of each group of instruments, and that of all pitched notes whose groups agree."""
    truth = without_doublings(reference.notes, by_program=True)
    found = without_doublings(estimate.notes, by_program=True)
    counts: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0])
    total = [0, 0, 0]

    def add(note: Note, column: int) -> None:
        counts[group(note)][column] += 1
        if not note.is_drum:
            total[column] += 1

    for column, notes in enumerate((truth, found)):
        for note in notes:
            add(note, column)
    for i, _ in match(truth, found, key=lambda note: (note.is_drum, group(note), note.pitch)):
        add(truth[i], 2)
    return {name: NoteScore(*count) for name, count in counts.items()}, NoteScore(*total)


def _right_velocities(truth: Sequence[Note], found: Sequence[Note], pairs: Pairs) -> int:
    """Return how many pairs have the same velocity, after a linear map that fits those found to the reference."""
    import numpy as np

    if not pairs:
        return 0
    velocities = np.array([note.velocity for note in truth], float)
    wanted = np.array([truth[i].velocity for i, _ in pairs], float)
    wanted = (wanted - velocities.min()) / max(1.0, velocities.max() - velocities.min())
    given = np.array([found[j].velocity for _, j in pairs], float)
    slope, intercept = np.linalg.lstsq(np.stack([given, np.ones(len(given))], axis=1), wanted, rcond=None)[0]
    return int(np.count_nonzero(np.abs(slope * given + intercept - wanted) < VELOCITY_TOLERANCE))


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Pearson's correlation; None if it is undefined."""
    import numpy as np

    values = np.array(pairs, float).reshape(-1, 2)
    if len(values) < 3 or not values.std(axis=0).all():
        return None
    return float(np.corrcoef(values.T)[0, 1])


def _beat_f(reference: Sequence[float], estimate: Sequence[float]) -> float | None:
    """Return the F-measure of beats, from the first on; None if one side has none."""
    import numpy as np

    if not len(reference) or not len(estimate):
        return None
    return float(_mir_eval().beat.f_measure(np.array(reference, float), np.array(estimate, float)))


def _confidence(found: Sequence[Note], pairs: Pairs) -> tuple[float | None, float | None]:
    """Return the area under the ROC curve and the Brier score of the notes' confidence, if they have one."""
    right_ones = {j for _, j in pairs}
    known = [(note.confidence, j in right_ones) for j, note in enumerate(found) if note.confidence is not None]
    return auc_and_brier(*zip(*known, strict=True)) if known else (None, None)


def auc_and_brier(confidence: Sequence[float], right: Sequence[bool]) -> tuple[float | None, float]:
    """Return the area under the ROC curve, None if all notes are right or all are wrong, and the Brier score."""
    import numpy as np

    chances, is_right = np.array(confidence, float), np.array(right, bool)
    brier = float(np.mean((chances - is_right) ** 2))
    of_right, of_wrong = chances[is_right], np.sort(chances[~is_right])
    if not len(of_right) or not len(of_wrong):
        return None, brier
    # How many wrong notes have less confidence than a right one; equal confidence counts half.
    below = np.searchsorted(of_wrong, of_right, "left") + np.searchsorted(of_wrong, of_right, "right")
    return float(below.mean() / 2 / len(of_wrong)), brier
