"""The command `mt3-infer export`: other formats from the notes.json of an earlier transcription."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from checkpoints.errors import CheckpointError
from mt3_infer.cli.options import given, with_options
from mt3_infer.errors import MT3Error
from mt3_infer.exports import ENDINGS, FORMATS, ExportFormat, export, format_of, get_format
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
    beside it.
    """
    if name is None and output is None:
        raise click.UsageError("Pass --format, or -o with a name that ends as the files of a format do.")
    try:
        chosen, implied = NAMES[name] if name is not None else format_of(output or Path())
        ending = _ending(get_format(chosen), implied | given(options))
        if name is None and ENDINGS.get(f".{ending}") != (chosen, implied):
            raise click.UsageError(f"These options make a .{ending} file: name it so, and pass --format {chosen}.")
        target = output or notes.with_name(f"{notes.stem}.{ending}")
        if target.exists() and not force:
            raise click.ClickException(f"{target} already exists: pass --force to replace it, or another -o.")
        transcription = Transcription.from_json(notes.read_bytes())
        export(transcription, chosen, target, implied | given(options), audio=audio, sound_font=sound_font)
    except (MT3Error, CheckpointError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{place}{error.strerror or error}.") from error
    click.echo(target)


def _ending(row: ExportFormat, options: dict[str, Any]) -> str:
    """Return what the file's name ends in: opus for preview.opus."""
    return row.file_name(row.check_options(options)).partition(".")[2]
