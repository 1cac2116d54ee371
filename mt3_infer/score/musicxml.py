"""MusicXML 4.0: a score as partwise XML, written bar by bar so that hours of music fit in memory.

Source: W3C Music Notation Community Group, MusicXML 4.0 (2021).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from io import StringIO
from xml.sax.saxutils import escape, quoteattr

from mt3_infer.score import bars, parts, percussion
from mt3_infer.score.arrange import Score, ScorePart
from mt3_infer.score.meter import TICKS
from mt3_infer.score.notes_xml import NoteWriter
from mt3_infer.score.spelling import fewer
from mt3_infer.score.values import TYPES, simple

HEAD = (
    '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n'
    '<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN" '
    '"http://www.musicxml.org/dtds/partwise.dtd">\n'
    '<score-partwise version="4.0">\n'
)

_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(content: str) -> str:
    """Return text that XML can hold: without control characters, escaped."""
    return escape(_UNPRINTABLE.sub("", content))


def write(score: Score, title: str, origin: dict[str, str], *, pitch: str) -> bytes:
    """Return a score as a MusicXML document in UTF-8.

    Args:
        score: as arranged.
        title: of the work; empty for none.
        origin: facts about the transcription, stored as miscellaneous fields.
        pitch: a key of `parts.CHOICES`, or "written": transposing instruments as their players read them.
    """
    out = StringIO()
    out.write(HEAD)
    out.write(_identification(title, origin))
    out.write("<part-list>\n")
    names = _distinct_names(score.parts)
    for number, (part, name) in enumerate(zip(score.parts, names, strict=True), 1):
        out.write(_score_part(part, f"P{number}", name, number))
    if not score.parts:
        out.write('<score-part id="P1"><part-name>Piano</part-name></score-part>\n')
    out.write("</part-list>\n")
    for number, part in enumerate(score.parts, 1):
        out.write(f'<part id="P{number}">\n')
        for measure in _PartWriter(score, part, number, pitch=pitch).measures():
            out.write(measure)
        out.write("</part>\n")
    if not score.parts:
        out.write('<part id="P1">\n' + _empty_bar(score) + "</part>\n")
    out.write("</score-partwise>\n")
    return out.getvalue().encode()


def _identification(title: str, origin: dict[str, str]) -> str:
    work = f"<work><work-title>{text(title)}</work-title></work>\n" if title else ""
    fields = "".join(
        f"<miscellaneous-field name={quoteattr(name)}>{text(value)}</miscellaneous-field>"
        for name, value in origin.items()
    )
    software = f"mt3-infer-service {version('mt3-infer-service')}"
    return (
        f"{work}<identification><encoding><software>{text(software)}</software>"
        '<supports element="accidental" type="yes"/><supports element="beam" type="yes"/>'
        '<supports element="stem" type="no"/></encoding>'
        f"<miscellaneous>{fields}</miscellaneous></identification>\n"
    )


def _distinct_names(score_parts: list[ScorePart]) -> list[str]:
    """Return the parts' names, numbered where two are equal."""
    names = [part.part.name for part in score_parts]
    return [
        f"{name} {names[:at].count(name) + 1}" if names.count(name) > 1 else name for at, name in enumerate(names)
    ]


def _score_part(score_part: ScorePart, part_id: str, name: str, number: int) -> str:
    part = score_part.part
    short = part.instrument.abbreviation
    head = (
        f'<score-part id="{part_id}"><part-name>{text(name)}</part-name>'
        f"<part-abbreviation>{text(short)}</part-abbreviation>"
    )
    if not part.is_drum:
        channel = min(number + (number > 9), 16)  # channel 10 is for drums
        return (
            f'{head}<score-instrument id="{part_id}-I1"><instrument-name>{text(name)}</instrument-name>'
            f'</score-instrument><midi-instrument id="{part_id}-I1"><midi-channel>{channel}</midi-channel>'
            f"<midi-program>{part.program + 1}</midi-program></midi-instrument></score-part>\n"
        )
    keys = sorted({one.pitch for one in part.placed})
    instruments = "".join(
        f'<score-instrument id="{part_id}-D{key}"><instrument-name>{text(percussion.drum(key).name)}'
        "</instrument-name></score-instrument>"
        for key in keys
    )
    sounds = "".join(
        f'<midi-instrument id="{part_id}-D{key}"><midi-channel>10</midi-channel>'
        f"<midi-unpitched>{key + 1}</midi-unpitched></midi-instrument>"
        for key in keys
    )
    return f"{head}{instruments}{sounds}</score-part>\n"


def _empty_bar(score: Score) -> str:
    bar = score.bars[0]
    beats, unit = score.meter.signature(bar.beats)
    return (
        f'<measure number="1"><attributes><divisions>{score.meter.divisions}</divisions><key><fifths>'
        f"{score.key.fifths}</fifths></key><time><beats>{beats}</beats><beat-type>{unit}</beat-type></time>"
        '<clef><sign>G</sign><line>2</line></clef></attributes><note><rest measure="yes"/>'
        f"<duration>{bar.end - bar.start}</duration></note></measure>\n"
    )


class _PartWriter:
    """Writes the measures of one part."""

    def __init__(self, score: Score, score_part: ScorePart, number: int, *, pitch: str) -> None:
        self._score = score
        self._part = score_part
        self._first = number == 1
        part = score_part.part
        chosen = parts.CONCERT if part.is_drum else parts.CHOICES.get(pitch)
        self._transposition = chosen or part.instrument.transposition
        shifted = score.key.fifths + self._transposition.fifths
        self._fifths = 0 if part.is_drum else fewer(shifted)
        self._respelled = self._fifths - shifted if not part.is_drum else 0
        self._contents = bars.Contents(score, score_part, self._transposition)
        self._notes = NoteWriter(
            self._fifths,
            transposition=self._transposition,
            respelled=self._respelled,
            part_id=f"P{number}" if part.is_drum else "",
            several_staves=len(score_part.staves) > 1,
            beat_kind=(simple(TICKS, score.meter.divisions) or (2, 0))[0],
        )

    def measures(self) -> Iterator[str]:
        """Write one measure after the other."""
        pickup = self._score.bars[0].pickup
        for at, bar in enumerate(self._score.bars):
            number = at if pickup else at + 1
            implicit = ' implicit="yes"' if bar.pickup else ""
            out = [f'<measure number="{number}"{implicit}>']
            out.append(self._attributes(at))
            if at == 0 and self._first:
                out.append(self._tempo())
            out.append(self._voices(at))
            if at == len(self._score.bars) - 1:
                out.append('<barline location="right"><bar-style>light-heavy</bar-style></barline>')
            out.append("</measure>\n")
            yield "".join(out)

    def _attributes(self, at: int) -> str:
        score, bar = self._score, self._score.bars[at]
        inner = []
        if at == 0:
            inner.append(f"<divisions>{score.meter.divisions}</divisions>")
            mode = "minor" if score.key.minor else "major"
            inner.append(f"<key><fifths>{self._fifths}</fifths><mode>{mode}</mode></key>")
        if at == 0 or score.bars[at - 1].beats != bar.beats:
            beats, unit = score.meter.signature(bar.beats)
            inner.append(f"<time><beats>{beats}</beats><beat-type>{unit}</beat-type></time>")
        if at == 0 and len(self._part.staves) > 1:
            inner.append(f"<staves>{len(self._part.staves)}</staves>")
        for staff in range(len(self._part.staves)):
            clef = self._contents.clefs[staff][at]
            if at == 0 or clef != self._contents.clefs[staff][at - 1]:
                inner.append(self._clef(clef, staff + 1))
        if at == 0 and self._transposition.semitones:
            inner.append(self._transpose())
        return f"<attributes>{''.join(inner)}</attributes>" if inner else ""

    def _clef(self, clef: parts.Clef, staff: int) -> str:
        number = f' number="{staff}"' if len(self._part.staves) > 1 else ""
        octave = f"<clef-octave-change>{clef.octave}</clef-octave-change>" if clef.octave else ""
        line = f"<line>{clef.line}</line>" if clef.sign != "percussion" else ""
        return f"<clef{number}><sign>{clef.sign}</sign>{line}{octave}</clef>"

    def _transpose(self) -> str:
        octaves, semitones = divmod(self._transposition.semitones, 12)
        steps = self._transposition.steps - 7 * octaves + (1 if self._respelled < 0 else 0)
        change = f"<octave-change>{-octaves}</octave-change>" if octaves else ""
        return f"<transpose><diatonic>{-steps}</diatonic><chromatic>{-semitones}</chromatic>{change}</transpose>"

    def _tempo(self) -> str:
        score, out = self._score, ""
        if score.beats_per_minute:
            kind, dots = simple(TICKS, score.meter.divisions) or (2, 0)
            quarters = score.beats_per_minute * TICKS / score.meter.divisions
            out += (
                f'<direction placement="above"><direction-type><metronome><beat-unit>{TYPES[kind]}</beat-unit>'
                f"{'<beat-unit-dot/>' * dots}<per-minute>{round(score.beats_per_minute)}</per-minute></metronome>"
                f'</direction-type><sound tempo="{quarters:.2f}"/></direction>'
            )
        if score.swing:
            out += (
                '<direction placement="above"><direction-type><words font-weight="bold">Swing</words>'
                "</direction-type><sound><swing><first>2</first><second>1</second></swing></sound></direction>"
            )
        return out

    def _voices(self, at: int) -> str:
        bar = self._score.bars[at]
        back = f"<backup><duration>{bar.end - bar.start}</duration></backup>"
        return back.join(self._notes.bar(self._contents.bar(at)))
