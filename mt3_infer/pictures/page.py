"""A transcription as a part of a page, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mt3_infer.pictures.piano_roll import PianoRoll
from mt3_infer.pictures.svg import Canvas, to_svg

WIDTH, HEIGHT = 880, 240  # pixels, the height of all rows together
ROW_HEIGHTS = (2.5, 8.0)  # the least and the most, in pixels
MOST_SHAPES = 3000
SHOWN = 3  # warnings


def to_html(roll: PianoRoll, title: str, warnings: Sequence[object]) -> str:
    """Return a title, a small piano roll and the first warnings, at most about 100 KB."""
    row_height = min(ROW_HEIGHTS[1], max(ROW_HEIGHTS[0], HEIGHT / roll.rows))
    shown = [f"<div>Warning: {escape(str(warning))}</div>" for warning in warnings[:SHOWN]]
    if len(warnings) > SHOWN:
        shown.append(f"<div>and {len(warnings) - SHOWN} more warnings</div>")
    picture = to_svg(roll, title, Canvas(WIDTH, row_height, MOST_SHAPES))
    return f'<div style="overflow-x: auto"><div>{escape(title)}</div>{picture}{"".join(shown)}</div>'
