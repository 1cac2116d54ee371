"""Parts: which staves an instrument gets, with which clefs, names and transposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mt3_infer.score.placed import Placed


@dataclass(frozen=True, slots=True)
class Clef:
    """A clef, and the pitches that its staff holds without ledger lines."""

    sign: str
    line: int
    octave: int
    lowest: int
    highest: int

    def ledger_lines(self, pitch: int) -> float:
        """Return how many ledger lines a pitch needs, about."""
        return max(self.lowest - pitch, pitch - self.highest, 0) / 3.5


TREBLE = Clef("G", 2, 0, 62, 79)
TREBLE_8VB = Clef("G", 2, -1, 50, 67)
BASS = Clef("F", 4, 0, 41, 59)
BASS_8VB = Clef("F", 4, -1, 29, 47)
ALTO = Clef("C", 3, 0, 52, 69)
TENOR = Clef("C", 4, 0, 48, 65)
PERCUSSION = Clef("percussion", 2, 0, 0, 127)


@dataclass(frozen=True, slots=True)
class Transposition:
    """How a written note differs from the sounding one.

    Attributes:
        semitones: from the sounding note up to the written one.
        steps: the same in steps of the scale.
        fifths: the same on the line of fifths.
    """

    semitones: int
    steps: int
    fifths: int


CONCERT = Transposition(0, 0, 0)
IN_B_FLAT = Transposition(2, 1, 2)
IN_B_FLAT_LOW = Transposition(14, 8, 2)
IN_E_FLAT = Transposition(9, 5, 3)
IN_E_FLAT_LOW = Transposition(21, 12, 3)
IN_F = Transposition(7, 4, 1)

CHOICES = {"concert": CONCERT, "b_flat": IN_B_FLAT, "e_flat": IN_E_FLAT, "f": IN_F}
"""Transpositions that a whole score may be written in, by the option `pitch`."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """How one kind of instrument is written; the clefs are those to choose from, the usual one first."""

    abbreviation: str
    clefs: tuple[Clef, ...] = (TREBLE, BASS)
    staves: int = 1
    transposition: Transposition = CONCERT


KEYBOARDS = {
    0: "Pno.",
    1: "Pno.",
    2: "E.Pno.",
    3: "Pno.",
    4: "E.Pno.",
    5: "E.Pno.",
    6: "Hpschd.",
    7: "Clav.",
    8: "Cel.",
}
ORGANS = dict.fromkeys((16, 17, 18, 19, 20), "Org.") | {21: "Acc.", 23: "Band."}

INSTRUMENTS = {
    **{program: Instrument(short, staves=2) for program, short in (KEYBOARDS | ORGANS | {46: "Hp."}).items()},
    9: Instrument("Glock.", (TREBLE,)),
    10: Instrument("M.Box", (TREBLE,)),
    11: Instrument("Vib.", (TREBLE,)),
    12: Instrument("Mar."),
    13: Instrument("Xyl.", (TREBLE,)),
    14: Instrument("T.B.", (TREBLE,)),
    22: Instrument("Harm.", (TREBLE,)),
    **{program: Instrument("Gtr.", (TREBLE_8VB,)) for program in range(24, 32)},
    **{program: Instrument("Bass", (BASS_8VB,)) for program in range(32, 40)},
    40: Instrument("Vln.", (TREBLE,)),
    41: Instrument("Vla.", (ALTO, TREBLE)),
    42: Instrument("Vc.", (BASS, TENOR)),
    43: Instrument("Cb.", (BASS_8VB,)),
    47: Instrument("Timp.", (BASS,)),
    52: Instrument("Ch.", (TREBLE, TREBLE_8VB, BASS)),
    53: Instrument("Voice", (TREBLE, TREBLE_8VB, BASS)),
    54: Instrument("Voice", (TREBLE, TREBLE_8VB, BASS)),
    56: Instrument("Tpt.", (TREBLE,), transposition=IN_B_FLAT),
    57: Instrument("Tbn.", (BASS, TENOR)),
    58: Instrument("Tba.", (BASS,)),
    59: Instrument("Tpt.", (TREBLE,), transposition=IN_B_FLAT),
    60: Instrument("Hn.", (TREBLE, BASS), transposition=IN_F),
    64: Instrument("S.Sax.", (TREBLE,), transposition=IN_B_FLAT),
    65: Instrument("A.Sax.", (TREBLE,), transposition=IN_E_FLAT),
    66: Instrument("T.Sax.", (TREBLE,), transposition=IN_B_FLAT_LOW),
    67: Instrument("B.Sax.", (TREBLE,), transposition=IN_E_FLAT_LOW),
    68: Instrument("Ob.", (TREBLE,)),
    69: Instrument("E.H.", (TREBLE,), transposition=IN_F),
    70: Instrument("Bsn.", (BASS, TENOR)),
    71: Instrument("Cl.", (TREBLE,), transposition=IN_B_FLAT),
    72: Instrument("Picc.", (TREBLE,)),
    73: Instrument("Fl.", (TREBLE,)),
    74: Instrument("Rec.", (TREBLE,)),
}
"""The instruments of General MIDI that are written in a way of their own, by program."""

ORDER = (
    range(72, 80),  # flutes
    range(64, 72),  # reeds
    range(56, 64),  # brass
    range(52, 56),  # voices
    range(80, 96),  # synthesizers
    range(8, 16),  # mallets and bells
    range(24, 32),  # guitars
    range(0, 8),  # keyboards
    range(16, 24),
    range(40, 52),  # strings, harp, timpani
    range(32, 40),  # basses
    range(96, 128),
)
"""Families from the top of a page down; drums come last."""


@dataclass(slots=True)
class Part:
    """One instrument of a score, with its notes."""

    name: str
    instrument: Instrument
    program: int
    is_drum: bool
    placed: list[Placed] = field(default_factory=list)


def place_in_score(program: int, is_drum: bool) -> tuple[int, int]:
    """Return a key that sorts instruments as a score does."""
    if is_drum:
        return len(ORDER), 0
    return next(at for at, family in enumerate(ORDER) if program in family), program


def instrument_of(program: int, name: str, is_drum: bool) -> Instrument:
    """Return how an instrument is written."""
    if is_drum:
        return Instrument("Dr.", (PERCUSSION,))
    found = INSTRUMENTS.get(program)
    return found or Instrument(name if len(name) <= 8 else f"{name[:6]}.")


CHANGE = 10.0
"""The price of a change of clef, in ledger lines."""


def clefs_of_bars(pitches: Sequence[Sequence[int]], clefs: Sequence[Clef], *, changes: bool) -> list[Clef]:
    """Return the clef of each bar: those with the fewest ledger lines, and few changes.

    Args:
        pitches: written, of one staff, bar by bar.
        clefs: to choose from.
        changes: the clef may change from bar to bar; otherwise one holds throughout.
    """
    costs = [[sum(clef.ledger_lines(pitch) for pitch in bar) for clef in clefs] for bar in pitches]
    if not changes:
        best = min(range(len(clefs)), key=lambda i: (sum(row[i] for row in costs), i))
        return [clefs[best]] * len(pitches)
    total = [0.3 * i for i in range(len(clefs))]
    came_from: list[list[int]] = []
    for row in costs:
        cheapest = min(range(len(clefs)), key=lambda i: total[i])
        origin = [i if total[i] <= total[cheapest] + CHANGE else cheapest for i in range(len(clefs))]
        came_from.append(origin)
        total = [total[origin[i]] + (CHANGE if origin[i] != i else 0.0) + cost for i, cost in enumerate(row)]
    at = min(range(len(clefs)), key=lambda i: total[i])
    chosen = []
    for origin in reversed(came_from):
        chosen.append(clefs[at])
        at = origin[at]
    return chosen[::-1]
