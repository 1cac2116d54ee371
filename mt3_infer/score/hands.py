"""Hands: the notes of a keyboard are dealt to two staves, as a player would take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mt3_infer.score.meter import TICKS
from mt3_infer.score.placed import Placed

SPAN = 12
"""Semitones that a hand reaches with ease: an octave."""

HELD = TICKS / 3
"""Ticks for which a note sounds on, beyond the next onset, if it is held."""

STATES = 24
"""Ways of dealing the notes that are followed at a time."""

HOME = (70.0, 50.0)
"""Where right and left hand tend to play, as MIDI pitches."""

TO_HOME = 0.001
"""The price of a note's distance from its hand's home, squared semitones."""

TO_CENTER = 0.03
"""The price of a note's distance from where its hand is, squared semitones."""

BEYOND_SPAN = 1.5
"""The price of each semitone beyond a hand's reach."""

CROSSING = 0.6
"""The price of each semitone by which a hand reaches over the other."""

FOLLOWS = 0.45
"""How far a hand moves to each new group of notes."""


HOLDS = 0.8
"""The price of playing with a hand that holds other notes: most likely they are the other hand's."""

TOGETHER = 0.1
"""The price of each semitone by which two notes that begin together, one in each hand, miss a sixth."""


@dataclass(slots=True)
class _State:
    """One way of dealing the notes so far: its price, where the hands are, and until when they hold notes."""

    cost: float
    right: float
    left: float
    right_end: float
    left_end: float
    split: int
    before: _State | None


def deal(placed: Sequence[Placed]) -> None:
    """Give each note its staff: 0 for the right hand, 1 for the left.

    The notes that begin together are split by pitch; the splits are chosen by dynamic programming over the
    positions of the hands, of which the likeliest are kept.
    """
    groups = _groups(placed)
    states = [_State(0.0, *HOME, 0.0, 0.0, 0, None)]
    before = 0
    for group in groups:
        gap = group[0].start - before
        before = group[0].start
        states = _step(states, group, gap)
    best: _State | None = min(states, key=lambda state: state.cost)
    for group in reversed(groups):
        assert best is not None
        for at, one in enumerate(group):
            one.staff = 1 if at < best.split else 0
        best = best.before
    _graces_follow(placed)


def _groups(placed: Sequence[Placed]) -> list[list[Placed]]:
    groups: dict[int, list[Placed]] = {}
    for one in placed:
        if not one.grace:
            groups.setdefault(one.start, []).append(one)
    return [sorted(groups[start], key=lambda one: one.pitch) for start in sorted(groups)]


def _step(states: list[_State], group: list[Placed], gap: int) -> list[_State]:
    pitches = [one.pitch for one in group]
    start = group[0].start
    ends = [one.start + one.length for one in group]
    away = min(gap / (16 * TICKS), 0.5)  # a hand that rests drifts home
    following = []
    for state in states:
        right = state.right + (HOME[0] - state.right) * away
        left = state.left + (HOME[1] - state.left) * away
        for split in range(len(pitches) + 1):
            lower, upper = pitches[:split], pitches[split:]
            cost = state.cost + _hand(lower, left, HOME[1]) + _hand(upper, right, HOME[0])
            right_end, left_end = state.right_end, state.left_end
            if upper:
                cost += HOLDS * (right_end > start + HELD)
                right_end = max(ends[split:])
            if lower:
                cost += HOLDS * (left_end > start + HELD)
                left_end = max(ends[:split])
            if upper and lower:
                cost += TOGETHER * max(0, 9 - (upper[0] - lower[-1]))
            elif upper:
                cost += CROSSING * max(0.0, left - upper[0])
            else:
                cost += CROSSING * max(0.0, lower[-1] - right)
            moved = _moved(right, upper), _moved(left, lower)
            following.append(_State(cost, *moved, right_end, left_end, split, state))
    following.sort(key=lambda state: state.cost)
    return _distinct(following)


def _hand(pitches: list[int], center: float, home: float) -> float:
    if not pitches:
        return 0.0
    near = float(sum(TO_CENTER * (pitch - center) ** 2 + TO_HOME * (pitch - home) ** 2 for pitch in pitches))
    return float(near / len(pitches) ** 0.5 + BEYOND_SPAN * max(0, pitches[-1] - pitches[0] - SPAN))


def _moved(center: float, pitches: list[int]) -> float:
    return center + FOLLOWS * (sum(pitches) / len(pitches) - center) if pitches else center


def _distinct(states: list[_State]) -> list[_State]:
    """Return the cheapest states, one for each pair of positions to the semitone."""
    kept: dict[tuple[int, int, int], _State] = {}
    for state in states:
        kept.setdefault((round(state.right), round(state.left), state.split), state)
        if len(kept) == STATES:
            break
    return list(kept.values())


def _graces_follow(placed: Sequence[Placed]) -> None:
    mains: dict[int, list[Placed]] = {}
    for one in placed:
        if not one.grace:
            mains.setdefault(one.start, []).append(one)
    for one in placed:
        if one.grace:
            one.staff = min(mains[one.start], key=lambda main: abs(main.pitch - one.pitch)).staff
