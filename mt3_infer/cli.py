"""The command `mt3-infer`: transcribe, list, the commands for checkpoints, and what other packages add.

Commands of others are entry points of the group `mt3_infer.commands`, so that this package need not know them.
Results go to files, tables to stdout, progress and errors to stderr. An error is one sentence and exit code 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from checkpoints.cli import COMMANDS as CHECKPOINT_COMMANDS
from checkpoints.cli import Bar, fetch_bar, human_size
from mt3_infer.errors import MT3Error
from mt3_infer.models import MODELS
from mt3_infer.transcribe import DISTRIBUTION, Model, Progress, library_version

if TYPE_CHECKING:
    from mt3_infer.loading import ModelInfo

COMMANDS = "mt3_infer.commands"
SUFFIXES = {"mid": ".mid", "json": ".json"}
FORMATS = {".mid": "mid", ".midi": "mid", ".json": "json"}


class _Group(click.Group):
    """A group that also has the commands which installed packages announce."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *sorted(_announced())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in (announced := _announced()):
            return _load_command(announced[cmd_name])
        return command


def _announced() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=COMMANDS)}


def _load_command(point: metadata.EntryPoint) -> click.Command:
    """The command behind an entry point; where its packages are not installed, one that says so."""
    try:
        command = point.load()
    except ImportError as error:
        message = f"{point.name} needs more packages ({error}): pip install '{DISTRIBUTION}[{point.name}]'"

        return _missing_command(point.name, message)
    assert isinstance(command, click.Command)
    return command


def _missing_command(name: str, message: str) -> click.Command:
    @click.command(
        name,
        help=f"Not installed: pip install '{DISTRIBUTION}[{name}]'",
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def missing(arguments: tuple[str, ...]) -> None:
        raise click.ClickException(message)

    return missing


def _model_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of all models to a command: from the table, so that a new model brings its own."""
    takers: dict[str, list[str]] = {}
    for spec in MODELS.values():
        for name in spec.options.model_fields:
            takers.setdefault(name, []).append(spec.name)
    for name, models in reversed(takers.items()):
        field = MODELS[models[0]].options.model_fields[name]
        is_flag = field.annotation is bool
        default = "" if field.default == () else f"; default: {field.default}"
        add = click.option(
            f"--{name.replace('_', '-')}" + (f"/--no-{name.replace('_', '-')}" if is_flag else ""),
            name,
            type=field.annotation if field.annotation in (bool, int, float) else str,
            default=None,
            help=f"{field.description} [{', '.join(models)}{default}]",
        )
        function = add(function)
    return function


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(library_version(), prog_name="mt3-infer")
def main() -> None:
    """Turn recordings into notes: MIDI files, or JSON."""


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write, or folder to write to; without it, results lie beside the recordings.",
)
@click.option("-m", "--model", default="basic_pitch", show_default=True, help="Model; see `mt3-infer list`.")
@click.option(
    "--format", "file_format", type=click.Choice(list(SUFFIXES)), help="Default: as OUTPUT is named, else mid."
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights of your own.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:1.")
@click.option("--dtype", help="float32 or bfloat16, for models that can choose.")
@click.option("--batch-size", type=int, help="Segments worked on at once, for models that can choose.")
@_model_options
def transcribe(
    files: tuple[Path, ...],
    output: Path | None,
    model: str,
    file_format: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str | None,
    batch_size: int | None,
    **options: Any,
) -> None:
    """Transcribe recordings of any common format."""
    from mt3_infer.loading import CheckpointError

    options = {name: value for name, value in options.items() if value is not None}
    targets = _targets(files, output, file_format)
    try:
        loaded = _load(model, checkpoint, device=device, dtype=dtype, batch_size=batch_size)
        loaded.spec.check_options(options)
    except (MT3Error, CheckpointError, OSError) as error:
        raise click.ClickException(_sentence(error)) from error
    failed = 0
    for source, target in targets:
        try:
            _transcribe_file(loaded, source, target, options)
        except (MT3Error, OSError) as error:
            failed += 1
            click.echo(f"{source}: {_sentence(error)}", err=True)
    if failed:
        raise SystemExit(1)


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_command(as_json: bool) -> None:
    """Show the models."""
    from mt3_infer.loading import list_models

    models = list_models()
    if as_json:
        click.echo(json.dumps([_as_json(info) for info in models], indent=2))
        return
    rows = [("NAME", "ALIASES", "INSTALLED", "SIZE", "LICENCE", "WHAT")]
    for info in models:
        installed = "yes" if info.installed else "no"
        aliases = ", ".join(info.aliases) or "–"
        rows.append((info.name, aliases, installed, human_size(info.size), info.licence, info.description))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


for _command in CHECKPOINT_COMMANDS:
    main.add_command(_command)


def _targets(files: tuple[Path, ...], output: Path | None, file_format: str | None) -> list[tuple[Path, Path]]:
    """Pair each recording with the file to write."""
    to_folder = output is not None and (output.is_dir() or output.suffix == "" or len(files) > 1)
    if output is not None and not to_folder:
        named = FORMATS.get(output.suffix.lower())
        if named is None or (file_format or named) != named:
            wanted = f"{SUFFIXES[file_format]}" if file_format else ".mid or .json"
            raise click.UsageError(f"The name of the output file must end in {wanted}: {output}")
        return [(files[0], output)]
    if to_folder and output is not None:
        if output.is_file():
            raise click.UsageError(f"Several recordings need a folder to be written to, and {output} is a file.")
        output.mkdir(parents=True, exist_ok=True)
    suffix = SUFFIXES[file_format or "mid"]
    targets = [(file, (output or file.parent) / (file.stem + suffix)) for file in files]
    by_target: dict[Path, Path] = {}
    for file, target in targets:
        if by_target.setdefault(target, file) != file:
            raise click.UsageError(f"{by_target[target]} and {file} would both be written to {target}.")
    return targets


def _load(name: str, checkpoint: Path | None, **device_options: Any) -> Model:
    from mt3_infer.loading import load_model

    with fetch_bar() as progress:
        return load_model(name, checkpoint_path=checkpoint, progress=progress, **device_options)


def _transcribe_file(model: Model, source: Path, target: Path, options: dict[str, Any]) -> None:
    with Bar(source.name) as bar:

        def report(progress: Progress) -> None:
            bar.show(progress.seconds_done, progress.seconds_total, f"{progress.seconds_done:.0f} s")

        result = model.transcribe(source, progress=report, **options)
    result.save(target)
    click.echo(f"{target}: {len(result.notes)} notes", err=True)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}."
    return str(error)


def _as_json(info: ModelInfo) -> dict[str, Any]:
    return asdict(info) | {"options": info.options.model_json_schema()["properties"]}
