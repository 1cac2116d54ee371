"""Piano rolls as SVG. Their size is bounded, however many notes there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple
from xml.sax.saxutils import escape

from mt3_infer.pictures.piano_roll import PianoRoll, clock, every, opacity, step_between_marks
from mt3_infer.symbolic.instruments import DRUMS_NAME

LEFT, RIGHT, TOP, BOTTOM, LEGEND = 96, 6, 18, 20, 20  # margins in pixels
LABEL_HEIGHT = 10  # pixels between the names of two rows
MARK_WIDTH, NUMBER_WIDTH, LINE_WIDTH = 60, 28, 5  # pixels that a time, a bar's number and a line need at least
SHORTEST = 2.0  # pixels
GAP = 0.7  # pixels before the end of a note, to keep repeated ones apart
LETTER_WIDTH = 5.8  # pixels, of this font at this size
LEVELS = 4  # of opacity
PAPER, SHADE, OCTAVE, BEAT, BAR, INK = "#ffffff", "#f3f6f5", "#d5dcd9", "#e6ecea", "#b4c0bc", "#43514c"


@dataclass(frozen=True)
class Canvas:
    """The size of a picture.

    Attributes:
        width: in pixels.
        row_height: in pixels.
        most_shapes: drawn for notes, of about 20 bytes each. If there are more notes, those of a row that are
            next to each other are drawn as one.
    """

    width: int
    row_height: float
    most_shapes: int

    def scale(self, roll: PianoRoll) -> float:
        """Return pixels per second."""
        return (self.width - LEFT - RIGHT) / (roll.end - roll.start)


class _Shape(NamedTuple):
    color: str
    row: int
    left: float
    right: float
    level: int  # of opacity, 1 to LEVELS


def to_svg(roll: PianoRoll, title: str, canvas: Canvas) -> str:
    """Return a picture of a piano roll, as an element for a page or a file."""
    height = roll.rows * canvas.row_height
    full = f"{TOP + height + BOTTOM + LEGEND:.0f}"
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{canvas.width}" height="{full}"',
            f' viewBox="0 0 {canvas.width} {full}" role="img"',
            f' font-family="sans-serif" font-size="11" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{canvas.width}" height="{full}" fill="{PAPER}"/>',
            *_rows(roll, canvas),
            *_lines(roll, canvas),
            *_axis(roll, canvas),
            *_notes(roll, canvas),
            *_legend(roll, canvas, TOP + height + BOTTOM + 12),
            "</svg>",
        ]
    )


def _y(roll: PianoRoll, canvas: Canvas, row: int) -> float:
    """Return the upper edge of a row."""
    return TOP + (roll.rows - 1 - row) * canvas.row_height


def _rows(roll: PianoRoll, canvas: Canvas) -> Iterator[str]:
    """Yield the rows of black keys, lines at each C, and the names of the rows."""
    right, height = canvas.width - RIGHT, canvas.row_height
    shades = (f"M{LEFT} {_y(roll, canvas, row):.4g}H{right}v{height:.3g}H{LEFT}z" for row in roll.shaded_rows)
    yield f'<path d="{"".join(shades)}" fill="{SHADE}"/>'
    lines = (f"M{LEFT} {_y(roll, canvas, row) + height:.4g}H{right}" for row, _ in (*roll.drums, *roll.octaves))
    yield f'<path d="{"".join(lines)}" stroke="{OCTAVE}"/>'
    for row, name in _row_names(roll, height):
        y = _y(roll, canvas, 0) - (row - 0.5) * height + 4
        yield f'<text x="{LEFT - 6}" y="{y:.4g}" text-anchor="end">{escape(name)}</text>'


def _row_names(roll: PianoRoll, height: float) -> list[tuple[float, str]]:
    """Return rows and their names; one name for all drums if there is no room for that of each."""
    if not roll.drums or height >= LABEL_HEIGHT:
        return [*roll.drums, *roll.octaves]
    return [((len(roll.drums) - 1) / 2, DRUMS_NAME), *roll.octaves]


def _lines(roll: PianoRoll, canvas: Canvas) -> Iterator[str]:
    """Yield lines of beats, if there is room for them, and of bars, with the numbers of bars."""
    scale, bottom = canvas.scale(roll), TOP + roll.rows * canvas.row_height
    if len(roll.beats) > 1 and (roll.beats[-1] - roll.beats[0]) * scale >= LINE_WIDTH * len(roll.beats):
        beats = (f"M{LEFT + (beat - roll.start) * scale:.1f} {TOP}V{bottom:.4g}" for beat in roll.beats)
        yield f'<path d="{"".join(beats)}" stroke="{BEAT}"/>'
    bars = every(roll.bars, LINE_WIDTH / scale)
    path = (f"M{LEFT + (bar.seconds - roll.start) * scale:.1f} {TOP - 3}V{bottom:.4g}" for bar in bars)
    yield f'<path d="{"".join(path)}" stroke="{BAR}"/>'
    for bar in every(roll.bars, NUMBER_WIDTH / scale):
        x = LEFT + (bar.seconds - roll.start) * scale
        yield f'<text x="{x:.1f}" y="{TOP - 5}" text-anchor="middle">{bar.number}</text>'


def _axis(roll: PianoRoll, canvas: Canvas) -> Iterator[str]:
    """Yield marks of the time, as lines where there are none of bars."""
    scale, bottom = canvas.scale(roll), TOP + roll.rows * canvas.row_height
    step = step_between_marks(MARK_WIDTH / scale)
    for seconds in range(-(-int(roll.start) // step) * step, int(roll.end) + 1, step):
        x = LEFT + (seconds - roll.start) * scale
        if LEFT <= x <= canvas.width - RIGHT:
            if not roll.bars:
                yield f'<path d="M{x:.1f} {TOP}V{bottom:.4g}" stroke="{BEAT}"/>'
            yield f'<path d="M{x:.1f} {bottom:.4g}v4" stroke="{INK}"/>'
            yield f'<text x="{x:.1f}" y="{bottom + 15:.4g}" text-anchor="middle">{clock(seconds)}</text>'


def _notes(roll: PianoRoll, canvas: Canvas) -> Iterator[str]:
    """Yield the notes, a path for each color and opacity."""
    by_look: dict[tuple[str, int], list[str]] = defaultdict(list)
    height = max(1.0, canvas.row_height - 0.5)
    for color, row, left, right, level in _shapes(roll, canvas):
        start = f"M{left:.1f} {_y(roll, canvas, row):.4g}"
        by_look[color, level].append(f"{start}h{max(SHORTEST, right - left - GAP):.1f}v{height:.3g}H{left:.1f}z")
    for (color, level), paths in by_look.items():
        pale = "" if level == LEVELS else f' fill-opacity="{level / LEVELS}"'
        yield f'<path class="notes" fill="{color}"{pale} d="{"".join(paths)}"/>'


def _shapes(roll: PianoRoll, canvas: Canvas) -> list[_Shape]:
    """Return what is drawn for the notes: at most `most_shapes`, or one for each row of a color."""
    scale = canvas.scale(roll)
    shapes = sorted(
        _Shape(
            track.color,
            roll.row(note),
            LEFT + (max(note.onset, roll.start) - roll.start) * scale,
            LEFT + (min(note.offset, roll.end) - roll.start) * scale,
            round(opacity(note) * LEVELS),
        )
        for track in roll.tracks
        for note in track.notes
    )
    distance = 0.25
    while len(shapes) > canvas.most_shapes and distance < 2 * canvas.width:
        shapes = _joined(shapes, distance)
        distance *= 2
    return shapes


def _joined(shapes: list[_Shape], distance: float) -> list[_Shape]:
    """Join shapes of a color and row that are at most `distance` apart; the most solid of them decides."""
    joined: list[_Shape] = []
    for shape in shapes:
        last = joined[-1] if joined else None
        if last is not None and last[:2] == shape[:2] and shape.left - last.right <= distance:
            joined[-1] = last._replace(right=max(last.right, shape.right), level=max(last.level, shape.level))
        else:
            joined.append(shape)
    return joined


def _legend(roll: PianoRoll, canvas: Canvas, y: float) -> Iterator[str]:
    """Yield the names of the tracks in their colors, as many as there is room for."""
    last = ["pale: less certain"] if roll.has_confidence else []
    room = canvas.width - LEFT - sum(map(_width, [*last, "and 99 more"]))
    ends = accumulate(_width(track.name) for track in roll.tracks)
    named = [track for track, end in zip(roll.tracks, ends, strict=True) if end <= room]
    if more := len(roll.tracks) - len(named):
        last.insert(0, f"and {more} more")
    x = float(LEFT)
    for color, text in [*((track.color, track.name) for track in named), *(("none", text) for text in last)]:
        yield f'<rect x="{x:.4g}" y="{y - 9:.4g}" width="12" height="9" fill="{color}"/>'
        yield f'<text x="{x + 17:.4g}" y="{y:.4g}">{escape(text)}</text>'
        x += _width(text)


def _width(text: str) -> float:
    """Return about how many pixels a text takes in the legend, with its color and the room around it."""
    return 34 + LETTER_WIDTH * len(text)
