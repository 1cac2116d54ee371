"""General MIDI's instruments: names of programs, of families and of drum keys, and programs by name.

Source: General MIDI 1 Sound Set (MIDI Manufacturers Association, 1991). Names are written in headline style, as
they appear on the tracks of a file and the staves of a score.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

PROGRAMS = 128
DRUMS_NAME = "Drums"


class Instrument(StrEnum):
    """General MIDI's families, and the drum kit."""

    PIANO = "piano"
    CHROMATIC_PERCUSSION = "chromatic_percussion"
    ORGAN = "organ"
    GUITAR = "guitar"
    BASS = "bass"
    STRINGS = "strings"
    ENSEMBLE = "ensemble"
    BRASS = "brass"
    REED = "reed"
    PIPE = "pipe"
    SYNTH_LEAD = "synth_lead"
    SYNTH_PAD = "synth_pad"
    SYNTH_EFFECTS = "synth_effects"
    ETHNIC = "ethnic"
    PERCUSSIVE = "percussive"
    SOUND_EFFECTS = "sound_effects"
    DRUMS = "drums"

    @property
    def programs(self) -> range:
        """Its programs: eight in each family, in the order above; none for the drum kit."""
        if self is Instrument.DRUMS:
            return range(0)
        first = 8 * list(Instrument).index(self)
        return range(first, first + 8)


PROGRAM_NAMES: tuple[str, ...] = (
    *("Acoustic Grand Piano", "Bright Acoustic Piano", "Electric Grand Piano", "Honky-Tonk Piano"),
    *("Electric Piano 1", "Electric Piano 2", "Harpsichord", "Clavinet"),
    *("Celesta", "Glockenspiel", "Music Box", "Vibraphone", "Marimba", "Xylophone", "Tubular Bells", "Dulcimer"),
    *("Drawbar Organ", "Percussive Organ", "Rock Organ", "Church Organ"),
    *("Reed Organ", "Accordion", "Harmonica", "Bandoneon"),
    *("Nylon Guitar", "Steel Guitar", "Jazz Guitar", "Clean Guitar"),
    *("Muted Guitar", "Overdriven Guitar", "Distortion Guitar", "Guitar Harmonics"),
    *("Acoustic Bass", "Fingered Bass", "Picked Bass", "Fretless Bass"),
    *("Slap Bass 1", "Slap Bass 2", "Synth Bass 1", "Synth Bass 2"),
    *("Violin", "Viola", "Cello", "Contrabass", "Tremolo Strings", "Pizzicato Strings", "Harp", "Timpani"),
    *("String Ensemble 1", "String Ensemble 2", "Synth Strings 1", "Synth Strings 2"),
    *("Choir Aahs", "Voice Oohs", "Synth Voice", "Orchestra Hit"),
    *("Trumpet", "Trombone", "Tuba", "Muted Trumpet", "French Horn"),
    *("Brass Section", "Synth Brass 1", "Synth Brass 2"),
    *("Soprano Sax", "Alto Sax", "Tenor Sax", "Baritone Sax", "Oboe", "English Horn", "Bassoon", "Clarinet"),
    *("Piccolo", "Flute", "Recorder", "Pan Flute", "Blown Bottle", "Shakuhachi", "Whistle", "Ocarina"),
    *("Square Lead", "Sawtooth Lead", "Calliope Lead", "Chiff Lead"),
    *("Charang Lead", "Voice Lead", "Fifths Lead", "Bass and Lead"),
    *(
        "New Age Pad",
        "Warm Pad",
        "Polysynth Pad",
        "Choir Pad",
        "Bowed Pad",
        "Metallic Pad",
        "Halo Pad",
        "Sweep Pad",
    ),
    *("Rain", "Soundtrack", "Crystal", "Atmosphere", "Brightness", "Goblins", "Echoes", "Sci-Fi"),
    *("Sitar", "Banjo", "Shamisen", "Koto", "Kalimba", "Bagpipe", "Fiddle", "Shanai"),
    *("Tinkle Bell", "Agogo", "Steel Drums", "Woodblock", "Taiko Drum", "Melodic Tom", "Synth Drum"),
    *("Reverse Cymbal", "Guitar Fret Noise", "Breath Noise", "Seashore", "Bird Tweet"),
    *("Telephone Ring", "Helicopter", "Applause", "Gunshot"),
)
"""By program, 0-127."""

FIRST_DRUM_KEY = 35

DRUM_NAMES: tuple[str, ...] = (
    *("Low Kick", "Kick", "Side Stick", "Snare", "Hand Clap", "Electric Snare", "Low Floor Tom", "Closed Hi-Hat"),
    *("High Floor Tom", "Pedal Hi-Hat", "Low Tom", "Open Hi-Hat", "Low-Mid Tom", "High-Mid Tom", "Crash Cymbal 1"),
    *("High Tom", "Ride Cymbal 1", "China Cymbal", "Ride Bell", "Tambourine", "Splash Cymbal", "Cowbell"),
    *("Crash Cymbal 2", "Vibraslap", "Ride Cymbal 2", "High Bongo", "Low Bongo", "Muted High Conga"),
    *(
        "Open High Conga",
        "Low Conga",
        "High Timbale",
        "Low Timbale",
        "High Agogo",
        "Low Agogo",
        "Cabasa",
        "Maracas",
    ),
    *("Short Whistle", "Long Whistle", "Short Guiro", "Long Guiro", "Claves", "High Woodblock", "Low Woodblock"),
    *("Muted Cuica", "Open Cuica", "Muted Triangle", "Open Triangle"),
)
"""By drum key, from `FIRST_DRUM_KEY` on."""

_GROUPS: dict[str, tuple[int, ...]] = {
    "voice": (53, 52, 54),
    "singing": (53, 52, 54),
    "choir": (52, 53, 54),
    "electric piano": (4, 5),
    "keyboard": (0, 1, 2, 3, 4, 5, 6, 7),
    "acoustic guitar": (24, 25),
    "classical guitar": (24,),
    "electric guitar": (27, 26, 28, 29, 30, 31),
    "double bass": (43, 32),
    "upright bass": (32, 43),
    "bass guitar": (33, 34, 35, 36, 37),
    "electric bass": (33, 34, 35, 36, 37),
    "horn": (60,),
    "cor anglais": (69,),
    "saxophone": (65, 66, 64, 67),
    "sax": (65, 66, 64, 67),
    "soprano saxophone": (64,),
    "alto saxophone": (65,),
    "tenor saxophone": (66,),
    "baritone saxophone": (67,),
    "woodwind": (68, 69, 70, 71, 72, 73, 74, 75, 64, 65, 66, 67),
    "mallets": (12, 11, 13, 9),
    "pizzicato": (45,),
    "string ensemble": (48, 49, 50, 51),
    "strings": (*range(40, 47), 48, 49, 50, 51),
    "string section": (48, 49, 50, 51),
    "string quartet": (40, 41, 42),
    "synth bass": (38, 39),
    "synth": (*range(80, 96),),
    "synthesizer": (*range(80, 96),),
}
"""Names that people use beside General MIDI's; the most likely program first."""


def program_name(program: int, is_drum: bool = False) -> str:
    """Return the name of a program, as "Violin"; "Drums" for the drum kit, whose program means nothing."""
    if is_drum:
        return DRUMS_NAME
    return PROGRAM_NAMES[program] if 0 <= program < PROGRAMS else f"Program {program}"


def drum_name(key: int) -> str:
    """Return the name of a General MIDI drum key, as "Snare"."""
    index = key - FIRST_DRUM_KEY
    return DRUM_NAMES[index] if 0 <= index < len(DRUM_NAMES) else f"Drum {key}"


def family_of(program: int, is_drum: bool = False) -> Instrument:
    """Return the family of a program."""
    return Instrument.DRUMS if is_drum else list(Instrument)[program // 8]


def find_programs(name: str) -> tuple[int, ...]:
    """Return the programs that a name means, the most likely one first; empty for an unknown name.

    A name is that of a program ("violin"), a family ("strings", "synth_lead") or in common use ("voice",
    "saxophone", "bass guitar"), in any case, singular or plural. The drum kit has no program, so
    "drums" is empty too.
    """
    return _BY_NAME.get(_normalize(name), ())


@dataclass(frozen=True)
class Selection:
    """Instruments that may play: programs, the most likely one first, and whether the drum kit is among them."""

    programs: tuple[int, ...]
    drums: bool = False

    @property
    def family_programs(self) -> frozenset[int]:
        """All programs of the families that have a selected one."""
        return frozenset(program for chosen in self.programs for program in family_of(chosen).programs)

    def nearest(self, program: int) -> int:
        """Return the program itself if it is selected, else the first selected one of its family."""
        of_family = (chosen for chosen in self.programs if family_of(chosen) is family_of(program))
        return program if program in self.programs else next(of_family, program)


def select(names: Iterable[str]) -> Selection:
    """Return the instruments of these names, as `find_programs` knows them; a family's name means its programs.

    Raises:
        ValueError: an unknown name; the message says which names there are.
    """
    programs: dict[int, None] = {}
    drums = False
    for name in names:
        family = _FAMILIES.get(_normalize(name))
        found = find_programs(name) if family is None else tuple(family.programs)
        if not found and family is not Instrument.DRUMS:
            raise ValueError(_unknown(name))
        drums |= family is Instrument.DRUMS
        programs |= dict.fromkeys(found)
    return Selection(tuple(programs), drums)


def _unknown(name: str) -> str:
    near = get_close_matches(_normalize(name), _BY_NAME, n=1)
    meant = f" Did you mean {program_name(_BY_NAME[near[0]][0])}?" if near else ""
    families = ", ".join(Instrument)
    return (
        f"{name!r} is not an instrument.{meant} Pass the name of a General MIDI instrument or family ({families})"
    )


def _normalize(name: str) -> str:
    words = re.findall(r"[a-z0-9]+", name.lower())
    return " ".join(word if word.isdigit() else word.removesuffix("s") for word in words)


def _table() -> dict[str, tuple[int, ...]]:
    """Return programs by normalized name; where names collide, the last of these lists wins."""
    table: dict[str, tuple[int, ...]] = {}
    for instrument in Instrument:
        if instrument.programs:
            table[_normalize(instrument.value)] = tuple(instrument.programs)
    for program, name in enumerate(PROGRAM_NAMES):
        table[_normalize(name)] = (program,)
    return table | {_normalize(name): programs for name, programs in _GROUPS.items()}


_BY_NAME = _table()
_FAMILIES = {_normalize(instrument.value): instrument for instrument in Instrument}
