"""Piano rolls with Matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mt3_infer.errors import MissingDependencyError
from mt3_infer.pictures.piano_roll import PianoRoll, clock, every, opacity, step_between_marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mt3_infer.symbolic.notes import Note

WIDTH = 12.0  # inches
HEIGHTS = (3.0, 12.0)  # inches, the least and the most
ROW_HEIGHT = 0.12  # inches: the names of drums fit beside their rows
MARKS = 24  # numbers of bars that an axis has room for
TIMES = 12  # marks of the time
LINES = 240  # lines that stay apart
SHORTEST = 1 / 300  # of the width, so that a stroke of a drum is seen
SHADE, OCTAVE, BEAT, BAR = "#f3f6f5", "#d5dcd9", "#e6ecea", "#b4c0bc"
THICKNESS = 0.9  # of a note, in rows


def plot(roll: PianoRoll, title: str, axes: Axes | None = None) -> Axes:
    """Draw a piano roll, into new axes if none are passed; return the axes.

    Raises:
        MissingDependencyError: Matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
        from matplotlib.ticker import MultipleLocator
    except ModuleNotFoundError as error:
        raise MissingDependencyError("plot needs Matplotlib: pip install matplotlib") from error
    if axes is None:
        height = min(HEIGHTS[1], max(HEIGHTS[0], 1.2 + ROW_HEIGHT * roll.rows))
        _, axes = pyplot.subplots(figsize=(WIDTH, height), layout="constrained")
    for row in roll.shaded_rows:
        axes.axhspan(row - 0.5, row + 0.5, color=SHADE, linewidth=0, zorder=0)
    _draw_lines(roll, axes)
    _draw_notes(roll, axes)
    axes.set_title(title, loc="left")
    axes.set_xlim(roll.start, roll.end)
    axes.set_ylim(-1, roll.rows)
    labels = [*roll.drums, *roll.octaves]
    axes.set_yticks([row for row, _ in labels], [name for _, name in labels], fontsize=8)
    axes.xaxis.set_major_locator(MultipleLocator(step_between_marks((roll.end - roll.start) / TIMES)))
    axes.xaxis.set_major_formatter(lambda seconds, _: clock(seconds))
    axes.set_xlabel("time")
    return axes


def _draw_lines(roll: PianoRoll, axes: Axes) -> None:
    """Draw lines at each C and each drum, beats and bars, and the numbers of bars on an axis at the top."""
    seconds = roll.end - roll.start
    rows = [row - 0.5 for row, _ in (*roll.drums, *roll.octaves)]
    axes.hlines(rows, roll.start, roll.end, colors=OCTAVE, linewidth=0.6, zorder=1)
    if len(roll.beats) <= LINES:
        axes.vlines(roll.beats, -1, roll.rows, colors=BEAT, linewidth=0.8, zorder=1)
    bars = every(roll.bars, seconds / LINES)
    axes.vlines([bar.seconds for bar in bars], -1, roll.rows, colors=BAR, linewidth=0.9, zorder=1)
    if numbered := every(roll.bars, seconds / MARKS):
        top = axes.secondary_xaxis("top")
        top.set_xticks([bar.seconds for bar in numbered], [str(bar.number) for bar in numbered])
        top.set_xlabel("bar")


def _draw_notes(roll: PianoRoll, axes: Axes) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    legend: list[Any] = []
    for track in roll.tracks:
        # One collection a track: a patch for each note takes minutes for twenty thousand.
        rectangles = [_rectangle(note, roll) for note in track.notes]
        colors = [to_rgba(track.color, opacity(note)) for note in track.notes]
        axes.add_collection(PolyCollection(rectangles, facecolors=colors, linewidths=0, zorder=2))
        legend.append(Patch(facecolor=track.color, label=track.name))
    if roll.has_confidence:
        legend.append(Patch(facecolor="none", label="pale: less certain"))
    if legend:
        axes.legend(handles=legend, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _rectangle(note: Note, roll: PianoRoll) -> list[tuple[float, float]]:
    """Return the corners of a note."""
    end = max(note.offset, note.onset + (roll.end - roll.start) * SHORTEST)
    low, high = roll.row(note) - THICKNESS / 2, roll.row(note) + THICKNESS / 2
    return [(note.onset, low), (note.onset, high), (end, high), (end, low)]
