"""The command `mt3-infer export`: other formats from the notes.json of an earlier transcription."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mt3_infer.cli.errors import as_click_errors
from mt3_infer.cli.options import given, with_options
from mt3_infer.cli.paths import PIPE, write_to_stdout
from mt3_infer.exports import ENDINGS, FORMATS, export, format_of, get_format
from mt3_infer.transcription import Transcription

NAMES: dict[str, tuple[str, dict[str, str]]] = {name: (name, {}) for name in FORMATS}
NAMES |= {ending[1:]: row for ending, row in ENDINGS.items() if ending[1:] not in NAMES}
"""Format and options by the name that a user may give: that of the format or the ending of its files."""


@click.command("export")
@click.argument("notes", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="NOTES.JSON")
@click.option("--format", "name", type=click.Choice(list(NAMES)), help="Default: as OUTPUT is named.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@click.option("-f", "--force", is_flag=True, help="Replace an output that exists already.")
@click.option(
    "--audio",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The recording. [peaks, recording]",
)
@click.option(
    "--sound-font", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="An SF2 or SF3 file."
)
@with_options({name: row.options for name, row in FORMATS.items()})
def export_command(
    notes: Path,
    name: str | None,
    output: Path | None,
    force: bool,
    audio: Path | None,
    sound_font: Path | None,
    **options: Any,
) -> None:
    """Make another file from the notes of a transcription.

    NOTES.JSON is what `mt3-infer transcribe --format json` wrote. No network runs. Without -o the result lies
    beside it; -o - is standard output.
    """
    piped = str(output) == PIPE
    if name is None and (output is None or piped):
        raise click.UsageError("Pass --format, or -o with a name that ends as the files of a format do.")
    with as_click_errors(audio):
        chosen, implied = NAMES[name] if name is not None else format_of(output or Path())
        row, options = get_format(chosen), implied | given(options)
        file_name = row.file_name(row.check_options(options))
        if row.needs_recording and audio is None:
            raise click.UsageError(f"{chosen} is made from the recording: pass it with --audio FILE.")
        if piped:
            transcription = Transcription.from_json(notes.read_bytes())
            write_to_stdout(
                lambda path: export(transcription, chosen, path, options, audio=audio, sound_font=sound_font)
            )
            return
        target = _beside(notes, file_name) if output is None else output
        _check_name(target, chosen, file_name)
        for source in (notes, audio):
            if source is not None and target.exists() and target.samefile(source):
                raise click.UsageError(f"{target} is the input itself: choose another output.")
        if target.exists() and not force:
            raise click.ClickException(f"{target} already exists: pass --force to replace it, or another -o.")
        transcription = Transcription.from_json(notes.read_bytes())
        export(transcription, chosen, target, options, audio=audio, sound_font=sound_font)
    click.echo(target)


def _beside(notes: Path, file_name: str) -> Path:
    """Return the default output: song.opus for preview.opus, but song.peaks.json, which is not song.json."""
    target = notes.with_name(f"{notes.stem}.{_ending(file_name)}")
    return notes.with_name(f"{notes.stem}.{file_name}") if target == notes else target


def _check_name(target: Path, chosen: str, file_name: str) -> None:
    """Raise an error if a file's name promises another format than the one that is written."""
    ending = f".{_ending(file_name)}"
    if target.name.lower().endswith(ending) or (target.exists() and not target.is_file()):
        return
    if ENDINGS.get(target.suffix.lower()) != ENDINGS.get(ending, ()):
        raise click.UsageError(
            f"{target} would hold a {ending} file: name it {target.stem}{ending}, and pass --format {chosen}."
        )


def _ending(file_name: str) -> str:
    """Return what a file's name ends in: opus for preview.opus."""
    return file_name.partition(".")[2]
