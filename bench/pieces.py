"""The clips of `performances.py`: which bars of which public-domain works, what plays them, how, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from arrangements import with_band, with_guitar, with_left_hand
from performing import Manner
from rendering import Treatment
from scores import BASS, INNER, MELODY, Part, Score, read_score

STUDIO = Treatment()
SMALL_ROOM = Treatment(room=0.3, wet=0.25, sample_rate=32_000)
HALL = Treatment(room=1.6, wet=0.35, sample_rate=32_000)
CHURCH = Treatment(room=2.4, wet=0.4)
OLD_RADIO = Treatment(room=0.3, wet=0.2, mono=True, sample_rate=22_050, hiss=-48.0)
HISS = Treatment(hiss=-45.0, sample_rate=32_000)
MP3 = Treatment(room=0.4, wet=0.2, mono=True, mp3=96)

PIANO, ELECTRIC_PIANO, CHURCH_ORGAN, REED_ORGAN, NYLON, STEEL, CLEAN, OVERDRIVEN = 0, 4, 19, 20, 24, 25, 27, 29
ACOUSTIC_BASS, FINGER_BASS, VIOLIN, VIOLA, CELLO, AAHS, OOHS = 32, 33, 40, 41, 42, 52, 53
TRUMPET, TROMBONE, TUBA, HORN, ALTO_SAX, TENOR_SAX, OBOE, BASSOON, CLARINET, FLUTE = (
    56,
    57,
    58,
    60,
    65,
    66,
    68,
    70,
    71,
    73,
)

TWO_HANDS: list[Part | None] = [Part(PIANO, MELODY, 0.9), Part(PIANO, BASS, 0.85)]
PEDALED: list[Part | None] = [Part(PIANO, MELODY, 0.95), Part(PIANO, BASS, 0.9)]


def ensemble(*programs: int, gate: float = 0.93) -> list[Part | None]:
    """Return parts from top to bottom: the melody first, the bass last."""
    roles = [MELODY, *[INNER] * (len(programs) - 2), BASS]
    return [Part(program, role, gate) for program, role in zip(programs, roles, strict=True)]


QUARTET = ensemble(VIOLIN, VIOLIN, VIOLA, CELLO)


@dataclass(frozen=True)
class Piece:
    """A clip. `first` is the index of its first measure in the score, `number` a piece of a collection."""

    name: str
    description: str
    source: str
    first: int
    bars: int
    parts: list[Part | None]
    manner: Manner
    treatment: Treatment
    number: int | None = None
    arrange: Callable[[Score], Score] = field(default=lambda score: score)


def written(piece: Piece) -> Score:
    """Return what a piece's players read."""
    return piece.arrange(read_score(piece.source, piece.number, piece.first, piece.bars, piece.parts))


TUNES = "oneills1850/0101-0200"  # O'Neill, Music of Ireland, 1903


def banded(pattern: str, chords: int, bass: int) -> Callable[[Score], Score]:
    """Return an arrangement of a melody for a band."""
    return lambda score: with_band(score, pattern, chords, bass)


_PIECES = [
    Piece(
        "piano_mazurka",
        "Chopin, Mazurka op. 6/2; pedal each bar",
        "chopin/mazurka06-2",
        0,
        16,
        PEDALED,
        Manner(126, 0.12, "bar"),
        SMALL_ROOM,
    ),
    Piece(
        "piano_polonaise",
        "C. Schumann, Polonaise op. 1/3; pedal each beat",
        "schumann_clara/polonaise_op1n3",
        0,
        13,
        PEDALED,
        Manner(96, 0.08, "beat"),
        HALL,
    ),
    Piece(
        "piano_rag",
        "Joplin, Maple Leaf Rag, trio",
        "joplin/maple_leaf_rag",
        52,
        18,
        TWO_HANDS,
        Manner(88, 0.02),
        MP3,
    ),
    Piece(
        "piano_cpebach", "C. P. E. Bach, sonata H 186", "cpebach/h186", 0, 9, TWO_HANDS, Manner(84, 0.04), STUDIO
    ),
    Piece(
        "piano_chorale",
        "Bach, chorale BWV 269; pedal each beat",
        "bach/bwv269",
        0,
        16,
        ensemble(*[PIANO] * 4),
        Manner(96, 0.08, "beat"),
        HISS,
    ),
    Piece(
        "piano_waltz",
        "tune with an accompaniment composed by rule",
        TUNES,
        0,
        16,
        [Part(PIANO, MELODY)],
        Manner(116, 0.08, "bar"),
        SMALL_ROOM,
        118,
        with_left_hand,
    ),
    Piece(
        "quartet_mozart",
        "Mozart, K 155 III, bars 1-18",
        "mozart/k155/movement3",
        1,
        18,
        QUARTET,
        Manner(92, 0.04),
        HALL,
    ),
    Piece(
        "quartet_hunt",
        "Mozart, K 458 I, bars 1-16",
        "mozart/k458/movement1",
        1,
        16,
        QUARTET,
        Manner(100, 0.05),
        SMALL_ROOM,
    ),
    Piece(
        "quartet_menuet",
        "Haydn, op. 1/1 II, bars 1-14",
        "haydn/opus1no1/movement2",
        0,
        14,
        QUARTET,
        Manner(112, 0.05),
        STUDIO,
    ),
    Piece(
        "quartet_adagio",
        "Mozart, K 458 III, bars 1-6",
        "mozart/k458/movement3",
        0,
        6,
        QUARTET,
        Manner(60, 0.08),
        HALL,
    ),
    Piece(
        "choir_bach",
        "Bach, chorale BWV 244.3",
        "bach/bwv244.3",
        0,
        9,
        ensemble(*[AAHS] * 4, gate=0.97),
        Manner(84, 0.05),
        CHURCH,
    ),
    Piece(
        "choir_lift",
        "J. R. Johnson, Lift Every Voice and Sing",
        "johnson_j_r/lift_every_voice",
        0,
        14,
        ensemble(*[OOHS] * 4, gate=0.97),
        Manner(72, 0.06),
        SMALL_ROOM,
    ),
    Piece(
        "voice_handel",
        "Handel, Lascia ch'io pianga, the voice alone",
        "handel/rinaldo/Lascia_chio_pianga",
        12,
        16,
        [Part(AAHS, MELODY, 0.97), None, None],
        Manner(92, 0.08),
        OLD_RADIO,
    ),
    Piece(
        "voice_foster",
        "Foster, Jeanie with the Light Brown Hair, voice",
        "leadSheet/fosterBrownHair",
        1,
        9,
        [Part(OOHS, MELODY, 0.97)],
        Manner(88, 0.1),
        SMALL_ROOM,
    ),
    Piece(
        "song_dichterliebe",
        "R. Schumann, op. 48/2, voice and piano",
        "schumann_robert/opus48no2",
        0,
        14,
        [Part(OOHS, MELODY, 0.97), Part(PIANO), Part(PIANO, BASS)],
        Manner(56, 0.1, "beat"),
        SMALL_ROOM,
    ),
    Piece(
        "song_trio",
        "C. Schumann, piano trio op. 17 III",
        "schumann_clara/opus17/movement3",
        8,
        12,
        [Part(VIOLIN, MELODY), Part(CELLO), Part(PIANO), Part(PIANO, BASS)],
        Manner(52, 0.08, "beat"),
        HALL,
    ),
    Piece(
        "solo_violin_jig",
        "The Walls of Liscarroll, violin",
        "oneills1850/0701-0720",
        0,
        16,
        [Part(VIOLIN, MELODY, 0.9)],
        Manner(88, 0.03),
        STUDIO,
        704,
    ),
    Piece(
        "solo_flute",
        "The Dawning of the Day, flute",
        TUNES,
        0,
        10,
        [Part(FLUTE, MELODY, 0.93)],
        Manner(92, 0.06),
        OLD_RADIO,
        108,
    ),
    Piece(
        "guitar_tune",
        "tune with broken chords composed by rule",
        TUNES,
        0,
        15,
        [Part(NYLON, MELODY)],
        Manner(108, 0.06),
        HISS,
        124,
        lambda score: with_guitar(score, NYLON),
    ),
    Piece(
        "guitar_steel",
        "tune with broken chords composed by rule",
        TUNES,
        0,
        10,
        [Part(STEEL, MELODY)],
        Manner(96, 0.04),
        STUDIO,
        104,
        lambda score: with_guitar(score, STEEL),
    ),
    Piece(
        "winds_mozart",
        "Mozart, K 80 I, bars 1-13, flute, oboe, clarinet, bassoon",
        "mozart/k80/movement1",
        0,
        13,
        ensemble(FLUTE, OBOE, CLARINET, BASSOON),
        Manner(84, 0.06),
        SMALL_ROOM,
    ),
    Piece(
        "winds_brass",
        "Bach, chorale BWV 66.6, brass",
        "bach/bwv66.6",
        0,
        10,
        ensemble(TRUMPET, HORN, TROMBONE, TUBA),
        Manner(88, 0.05),
        CHURCH,
    ),
    Piece(
        "organ_corelli",
        "Corelli, op. 3/1 grave, church organ",
        "corelli/opus3no1/1grave",
        0,
        9,
        ensemble(*[CHURCH_ORGAN] * 3, gate=0.96),
        Manner(76, 0.03),
        CHURCH,
    ),
    Piece(
        "organ_chorale",
        "Bach, chorale BWV 40.8, reed organ",
        "bach/bwv40.8",
        0,
        11,
        ensemble(*[REED_ORGAN] * 4, gate=0.96),
        Manner(80, 0.04),
        STUDIO,
    ),
    Piece(
        "band_rock",
        "tune, overdriven guitar, with a band composed by rule",
        TUNES,
        0,
        12,
        [Part(OVERDRIVEN, MELODY)],
        Manner(116, 0.01),
        STUDIO,
        156,
        banded("rock", CLEAN, FINGER_BASS),
    ),
    Piece(
        "band_waltz",
        "tune, alto saxophone, with a band composed by rule",
        TUNES,
        0,
        15,
        [Part(ALTO_SAX, MELODY)],
        Manner(120, 0.02),
        SMALL_ROOM,
        101,
        banded("waltz", PIANO, ACOUSTIC_BASS),
    ),
    Piece(
        "band_swing",
        "Foster, tenor saxophone, swung, with a band composed by rule",
        "leadSheet/fosterBrownHair",
        9,
        12,
        [Part(TENOR_SAX, MELODY)],
        Manner(132, 0.01, swing=True),
        MP3,
        None,
        banded("swing", PIANO, ACOUSTIC_BASS),
    ),
    Piece(
        "band_jig",
        "tune, flute, with a band composed by rule",
        "oneills1850/0001-0050",
        0,
        16,
        [Part(FLUTE, MELODY)],
        Manner(96, 0.02),
        STUDIO,
        7,
        banded("jig", STEEL, FINGER_BASS),
    ),
    Piece(
        "band_polka",
        "tune, clarinet, with a band composed by rule",
        TUNES,
        0,
        17,
        [Part(CLARINET, MELODY)],
        Manner(92, 0.02),
        MP3,
        117,
        banded("polka", ELECTRIC_PIANO, FINGER_BASS),
    ),
]
PIECES = {piece.name: piece for piece in _PIECES}
