"""The percussion staff: where a drum stands, and with which notehead.

Source: N. Weinberg, "Standardized Drumset Notation", Percussive Notes 1994, and the keys of General MIDI.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drum:
    """One drum: its name, its place on a staff read as in treble clef, its notehead, and if a foot plays it."""

    name: str
    step: str
    octave: int
    head: str = "normal"
    foot: bool = False


DRUMS = {
    35: Drum("Acoustic bass drum", "F", 4, foot=True),
    36: Drum("Bass drum", "F", 4, foot=True),
    37: Drum("Side stick", "C", 5, "x"),
    38: Drum("Snare drum", "C", 5),
    39: Drum("Hand clap", "C", 5, "slashed"),
    40: Drum("Electric snare", "C", 5),
    41: Drum("Low floor tom", "G", 4),
    42: Drum("Closed hi-hat", "G", 5, "x"),
    43: Drum("High floor tom", "A", 4),
    44: Drum("Pedal hi-hat", "D", 4, "x", foot=True),
    45: Drum("Low tom", "B", 4),
    46: Drum("Open hi-hat", "G", 5, "circle-x"),
    47: Drum("Low-mid tom", "D", 5),
    48: Drum("High-mid tom", "D", 5),
    49: Drum("Crash cymbal", "A", 5, "x"),
    50: Drum("High tom", "E", 5),
    51: Drum("Ride cymbal", "F", 5, "x"),
    52: Drum("China cymbal", "C", 6, "x"),
    53: Drum("Ride bell", "F", 5, "diamond"),
    54: Drum("Tambourine", "B", 5, "triangle"),
    55: Drum("Splash cymbal", "B", 5, "x"),
    56: Drum("Cowbell", "E", 5, "triangle"),
    57: Drum("Crash cymbal 2", "A", 5, "x"),
    58: Drum("Vibraslap", "B", 5, "diamond"),
    59: Drum("Ride cymbal 2", "F", 5, "x"),
    69: Drum("Cabasa", "B", 5, "slash"),
    70: Drum("Maracas", "B", 5, "slash"),
    75: Drum("Claves", "E", 5, "x"),
    76: Drum("High wood block", "E", 5, "triangle"),
    77: Drum("Low wood block", "D", 5, "triangle"),
    80: Drum("Muted triangle", "C", 6, "triangle"),
    81: Drum("Open triangle", "C", 6, "triangle"),
}


def drum(key: int) -> Drum:
    """Return the drum of a General MIDI key; other percussion stands on the middle line, with a diamond."""
    return DRUMS.get(key) or Drum(f"Percussion {key}", "B", 4, "diamond")
