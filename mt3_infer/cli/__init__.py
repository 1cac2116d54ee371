"""The command `mt3-infer`: transcribe, export, list, the commands for checkpoints, and what other packages add.

Commands of others are entry points of the group `mt3_infer.commands`, so that this package need not know them.
Results go to files, tables to stdout, progress and errors to stderr. An error is one sentence and exit code 1, a
wrong argument exit code 2, Ctrl-C 130.
"""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click

from checkpoints.cli import COMMANDS as CHECKPOINT_COMMANDS
from checkpoints.cli import human_size
from mt3_infer.cli.evaluating import compare_command, evaluate_command
from mt3_infer.cli.exporting import export_command
from mt3_infer.cli.serving import jobs_group, submit_command
from mt3_infer.cli.transcribing import transcribe_command
from mt3_infer.model import DISTRIBUTION, library_version

if TYPE_CHECKING:
    from mt3_infer.loading import ModelInfo

COMMANDS = "mt3_infer.commands"
EXTRA = "serve"  # of the distribution, with the packages that they need


class _Group(click.Group):
    """A group that also has the commands which installed packages announce."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *sorted(_announced())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in (announced := _announced()):
            return _load_command(announced[cmd_name])
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Ctrl-C ends it with the exit code that shells know it by."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Canceled.", err=True)
            raise SystemExit(128 + signal.SIGINT) from None


def _announced() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=COMMANDS)}


def _load_command(point: metadata.EntryPoint) -> click.Command:
    """Return the command behind an entry point; without its packages, one that names them."""
    try:
        command = point.load()
    except ImportError as error:
        message = f"{point.name} needs more packages ({error}): pip install '{DISTRIBUTION}[{EXTRA}]'"

        return _missing_command(point.name, message)
    assert isinstance(command, click.Command)
    return command


def _missing_command(name: str, message: str) -> click.Command:
    @click.command(
        name,
        help=f"Not installed: pip install '{DISTRIBUTION}[{EXTRA}]'",
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def missing(arguments: tuple[str, ...]) -> None:
        raise click.ClickException(message)

    return missing


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(library_version(), prog_name="mt3-infer")
def main() -> None:
    """Turn recordings into notes: MIDI files, tables, sound."""


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_command(as_json: bool) -> None:
    """Show the models."""
    from mt3_infer.loading import list_models

    models = list_models()
    if as_json:
        click.echo(json.dumps([_as_json(info) for info in models], indent=2))
        return
    rows = [("NAME", "ALIASES", "INSTALLED", "SIZE", "LICENSE", "DESCRIPTION")]
    for info in models:
        installed = "yes" if info.installed else "no"
        aliases = ", ".join(info.aliases) or "–"
        rows.append((info.name, aliases, installed, human_size(info.size), info.license, info.description))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


for _command in (
    transcribe_command,
    export_command,
    evaluate_command,
    compare_command,
    submit_command,
    jobs_group,
    *CHECKPOINT_COMMANDS,
):
    main.add_command(_command)


def _as_json(info: ModelInfo) -> dict[str, Any]:
    return asdict(info) | {"options": info.options.model_json_schema()["properties"]}
