"""Evaluate a transcription against a reference, and compare two transcriptions of one recording.

`evaluate` measures what `mir_eval` defines (onsets within 50 ms, offsets, velocities, beats within 70 ms), with
the reading rules of `music`. `agreement` and `picture` show where two models differ.
"""

from mt3_infer.evaluation.measures import Evaluation, NoteScore, evaluate
from mt3_infer.evaluation.music import Music, read_music

__all__ = ["Evaluation", "Music", "NoteScore", "evaluate", "read_music"]
