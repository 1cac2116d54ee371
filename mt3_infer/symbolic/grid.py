"""The metrical grid of a recording: its beats and bars, tempo, meter and key."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class BeatGrid:
    """Beats and bars, as found in the notes of a recording.

    Attributes:
        beats: in seconds, ascending. A beat is what the meter counts: a quarter in 3/4, a dotted quarter in 6/8.
        downbeats: the beats that begin a bar, in seconds.
        meter: the time signature, as "3/4"; empty if there are too few notes to determine one.
        tempo_bpm: the median tempo, in beats per minute; 0 if there are fewer than two beats.
        key: as "G major" or "Bb minor"; empty if there are too few notes to determine one.
        confidence: 0 to 1 for each of "beats", "downbeats", "meter", "tempo_bpm" and "key".
    """

    beats: tuple[float, ...] = ()
    downbeats: tuple[float, ...] = ()
    meter: str = ""
    tempo_bpm: float = 0.0
    key: str = ""
    confidence: dict[str, float] = field(default_factory=dict)
