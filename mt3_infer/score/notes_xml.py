"""Notes and rests as MusicXML: one bar of a part at a time."""

from __future__ import annotations

from collections.abc import Iterator

from mt3_infer.score.bars import Line
from mt3_infer.score.parts import Transposition
from mt3_infer.score.percussion import drum
from mt3_infer.score.placed import Placed
from mt3_infer.score.spelling import STEPS, name
from mt3_infer.score.values import TYPES, Value

EIGHTH = TYPES.index("eighth")

ACCIDENTALS = {-2: "flat-flat", -1: "flat", 0: "natural", 1: "sharp", 2: "double-sharp"}

Spelled = tuple[str, int, int]
"""Step, alteration and octave."""


class NoteWriter:
    """Writes the notes of one part.

    Args:
        fifths: the key signature as written.
        transposition: from sounding to written notes.
        respelled: fifths added to every name, because the key is written enharmonically.
        part_id: of a percussion part; empty for all others.
        several_staves: notes name their staff.
        beat_kind: the note type of a beat, for tuplets.
    """

    def __init__(
        self,
        fifths: int,
        *,
        transposition: Transposition,
        respelled: int,
        part_id: str,
        several_staves: bool,
        beat_kind: int,
    ) -> None:
        self._signature = {step: (fifths - at + 6) // 7 for at, step in enumerate(STEPS)}
        self._shift = transposition.semitones
        self._fifths = transposition.fifths + respelled
        self._drums = part_id
        self._several_staves = several_staves
        self._beat_kind = beat_kind

    def bar(self, lines: list[Line]) -> Iterator[str]:
        """Write the voices of one bar, one after the other."""
        accidentals = self._accidentals(lines)
        for line in lines:
            yield "".join(self._line(line, accidentals))

    def _accidentals(self, lines: list[Line]) -> dict[tuple[int, bool], str]:
        """Return the accidentals that a reader needs, by the identity of the note and by it being a grace note."""
        shown: dict[tuple[int, bool], str] = {}
        state: dict[tuple[int, str, int], int] = {}
        inside = sorted(
            (
                (value.start, line.voice, line.staff, value)
                for line in lines
                for value in line.values
                if value.chord
            ),
            key=lambda entry: entry[:2],
        )
        for _, _, staff, value in inside:
            if value.tied_from or value.chord is None:
                continue
            for one in (*value.chord.graces, *value.chord.notes):
                step, alter, octave = self._spelled(one)
                line_of = (staff, step, octave)
                if state.get(line_of, self._signature[step]) != alter:
                    shown[id(one), one.grace] = ACCIDENTALS[alter]
                state[line_of] = alter
        return shown

    def _spelled(self, one: Placed) -> Spelled:
        fifth = one.fifth + self._fifths
        while fifth > 19:
            fifth -= 12
        while fifth < -15:
            fifth += 12
        return name(fifth, one.pitch + self._shift)

    def _line(self, line: Line, accidentals: dict[tuple[int, bool], str]) -> Iterator[str]:
        beams = _beams(line)
        for at, value in enumerate(line.values):
            if value.chord is None:
                yield self._rest(value, line)
                continue
            if not value.tied_from:
                for grace in value.chord.graces:
                    yield self._grace(grace, line, accidentals)
            for place, one in enumerate(value.chord.notes):
                yield self._note(one, value, line, accidentals, beams[at] if place == 0 else "", chord=place > 0)

    def _rest(self, value: Value, line: Line) -> str:
        hidden = ' print-object="no"' if line.hides_rests else ""
        measure = ' measure="yes"' if value.whole_bar else ""
        kind = "" if value.whole_bar else self._kind(value)
        return (
            f"<note{hidden}><rest{measure}/><duration>{value.end - value.start}</duration>"
            f"<voice>{line.voice}</voice>{kind}{self._modification(value)}{self._staff(line)}"
            f"{_notations(value, ties=False)}</note>"
        )

    def _grace(self, one: Placed, line: Line, accidentals: dict[tuple[int, bool], str]) -> str:
        accidental = accidentals.get((id(one), True), "") if not self._drums else ""
        return (
            f'<note><grace slash="yes"/>{self._pitch(one)}<voice>{line.voice}</voice><type>eighth</type>'
            f"{_element('accidental', accidental)}{_element('stem', line.stem)}{self._staff(line)}</note>"
        )

    def _note(
        self,
        one: Placed,
        value: Value,
        line: Line,
        accidentals: dict[tuple[int, bool], str],
        beams: str,
        *,
        chord: bool,
    ) -> str:
        ties = ('<tie type="stop"/>' if value.tied_from else "") + ('<tie type="start"/>' if value.tied_to else "")
        accidental = "" if value.tied_from or self._drums else accidentals.get((id(one), False), "")
        instrument = f'<instrument id="{self._drums}-D{one.pitch}"/>' if self._drums else ""
        head = drum(one.pitch).head if self._drums else "normal"
        return (
            f"<note>{'<chord/>' if chord else ''}{self._pitch(one)}<duration>{value.end - value.start}</duration>"
            f"{ties}{instrument}<voice>{line.voice}</voice>{self._kind(value)}{_element('accidental', accidental)}"
            f"{self._modification(value)}{_element('stem', line.stem)}"
            f"{_element('notehead', head) if head != 'normal' else ''}{self._staff(line)}{beams}"
            f"{_notations(value, ties=True, tuplet=not chord)}</note>"
        )

    def _pitch(self, one: Placed) -> str:
        if self._drums:
            kind = drum(one.pitch)
            return (
                f"<unpitched><display-step>{kind.step}</display-step>"
                f"<display-octave>{kind.octave}</display-octave></unpitched>"
            )
        step, alter, octave = self._spelled(one)
        altered = f"<alter>{alter}</alter>" if alter else ""
        return f"<pitch><step>{step}</step>{altered}<octave>{octave}</octave></pitch>"

    def _kind(self, value: Value) -> str:
        return f"<type>{TYPES[value.kind]}</type>{'<dot/>' * value.dots}"

    def _modification(self, value: Value) -> str:
        if value.tuplet is None:
            return ""
        actual, normal = value.tuplet.actual, value.tuplet.normal
        kind = TYPES[self._beat_kind + (1 if normal == 2 else 2)]
        return (
            f"<time-modification><actual-notes>{actual}</actual-notes><normal-notes>{normal}</normal-notes>"
            f"<normal-type>{kind}</normal-type></time-modification>"
        )

    def _staff(self, line: Line) -> str:
        return f"<staff>{line.staff}</staff>" if self._several_staves else ""


def _element(tag: str, content: str) -> str:
    return f"<{tag}>{content}</{tag}>" if content else ""


def _notations(value: Value, *, ties: bool, tuplet: bool = True) -> str:
    inner = ""
    if ties:
        inner += '<tied type="stop"/>' if value.tied_from else ""
        inner += '<tied type="start"/>' if value.tied_to else ""
    if value.tuplet and tuplet:
        inner += '<tuplet type="start" bracket="yes"/>' if value.tuplet.first else ""
        inner += '<tuplet type="stop"/>' if value.tuplet.last else ""
    return f"<notations>{inner}</notations>" if inner else ""


def _beams(line: Line) -> list[str]:
    """Return the beams of each value: what stands together in a beat, between rests."""
    beams = [""] * len(line.values)
    run: list[int] = []
    for at, value in enumerate([*line.values, None]):
        joins = value is not None and value.chord is not None and value.kind >= EIGHTH
        if run and (not joins or line.beams[at] != line.beams[run[0]]):
            for place, text in zip(run, _beamed([line.values[i].kind - EIGHTH + 1 for i in run]), strict=True):
                beams[place] = text
            run = []
        if joins:
            run.append(at)
    return beams


def _beamed(flags: list[int]) -> list[str]:
    """Return the beam elements of notes with so many flags each."""
    if len(flags) < 2:
        return [""] * len(flags)
    texts = []
    for at, count in enumerate(flags):
        before = flags[at - 1] if at else 0
        after = flags[at + 1] if at + 1 < len(flags) else 0
        parts = []
        for level in range(1, min(count, 8) + 1):
            joined = (before >= level, after >= level)
            kind = {
                (True, True): "continue",
                (True, False): "end",
                (False, True): "begin",
                (False, False): "backward hook" if at else "forward hook",
            }[joined]
            parts.append(f'<beam number="{level}">{kind}</beam>')
        texts.append("".join(parts))
    return texts
