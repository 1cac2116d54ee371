"""Notes → the key they are in: one linear model of how scale degrees are used, moved to each of 24 keys.

Its coefficients, in `grid_weights.json`, are for the sounding time of each degree of the scale, of each degree
in the bass, and for the first and the last bass note, in major and in minor.

Source of the idea: Krumhansl, Cognitive Foundations of Musical Pitch (1990), chapter 4, whose profiles were
rated by listeners; these are fitted to scores with known signatures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mt3_infer.symbolic.grid import MODES, TONICS
from mt3_infer.symbolic.notes import Note

MIN_NOTES = 4
LONGEST = 2.0  # seconds of a note that count
BASS_SECONDS = 0.5  # notes that begin within it have one bass
BLOCKS = 4  # of 12 numbers each


def find_key(notes: Sequence[Note], weights: npt.NDArray[np.float64], scale: float = 1.0) -> tuple[str, float]:
    """Return the key, as "Bb minor", and its probability; "" and 0 if fewer than `MIN_NOTES` notes have a pitch.

    Args:
        weights: (modes, blocks, 12).
        scale: of the logits, so that probabilities are calibrated.
    """
    described = describe(notes)
    if described is None:
        return "", 0.0
    logits = scale * key_logits(described, weights)
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    tonic, mode = divmod(int(probability.argmax()), len(MODES))
    return f"{TONICS[MODES[mode]][tonic]} {MODES[mode]}", float(probability[2 * tonic + mode])


def key_logits(described: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the logit of each key, (24,): tonic by tonic, major before minor."""
    turned = np.stack([np.roll(described, -tonic, axis=1) for tonic in range(12)])  # (12, blocks, degree)
    return np.asarray(np.einsum("tbd,mbd->tm", turned, weights).reshape(-1))


def describe(notes: Sequence[Note]) -> npt.NDArray[np.float64] | None:
    """Return how pitch classes are used, (blocks, 12); None if too few notes have a pitch."""
    pitched = sorted((n for n in notes if not n.is_drum), key=lambda n: (n.onset, n.pitch, n.offset))
    if len(pitched) < MIN_NOTES:
        return None
    onset = np.array([n.onset for n in pitched])
    pitch = np.array([n.pitch for n in pitched])
    length = np.clip([n.offset - n.onset for n in pitched], 0.05, LONGEST)
    group = np.floor(onset / BASS_SECONDS).astype(int)
    order = np.lexsort((pitch, group))
    lowest = order[np.concatenate([[True], np.diff(group[order]) > 0])]
    described = np.zeros((BLOCKS, 12))
    described[0] = np.bincount(pitch % 12, weights=length, minlength=12) / length.sum()
    described[1] = np.bincount(pitch[lowest] % 12, weights=length[lowest], minlength=12) / length[lowest].sum()
    described[2, pitch[lowest[0]] % 12] = 1
    described[3, pitch[lowest[-1]] % 12] = 1
    return described
