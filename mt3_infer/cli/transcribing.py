"""The command `mt3-infer transcribe`: recordings of any number, one result each, and a summary of them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from checkpoints.cli import fetch_bar
from checkpoints.errors import CheckpointError
from mt3_infer.cli.errors import reason
from mt3_infer.cli.options import given, with_options
from mt3_infer.cli.paths import (
    PIPE,
    SUFFIXES,
    Recording,
    find_recordings,
    format_of,
    pair_with_outputs,
    write_to_stdout,
)
from mt3_infer.cli.progress import BatchBar, echo_line
from mt3_infer.errors import MT3Error
from mt3_infer.exports import ENDINGS, export
from mt3_infer.files import check_writable
from mt3_infer.model import DEFAULT_MODEL, Model
from mt3_infer.models import MODELS
from mt3_infer.transcription import Transcription

if TYPE_CHECKING:
    from mt3_infer.errors import AudioWarning

NAMED = 3
"""Outputs that an error names; of more it gives the number."""


class OutputError(Exception):
    """A result cannot be written where it is wanted."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Outcome:
    """The outcome for one recording, as shown in the summary."""

    source: str
    output: str | None
    model: str
    notes: int | None = None
    duration: float | None = None
    seconds: float | None = None
    warnings: list[AudioWarning] = field(default_factory=list)
    error: dict[str, str] | None = None

    def fail(self, error: Exception) -> None:
        """Record why there is no result."""
        self.error = {"code": getattr(error, "code", "unreadable_input"), "detail": _sentence(error)}


@dataclass
class Batch:
    """The recordings of one command, and where their results go.

    Attributes:
        targets: the file for each recording that can be transcribed; None is standard output.
        outcomes: one for each recording, also for those that cannot.
    """

    targets: dict[Recording, Path | None]
    outcomes: dict[Recording, Outcome]
    file_format: str | None
    options: dict[str, Any]

    def run(self, load: Callable[[], Model], *, quiet: bool) -> None:
        """Transcribe one recording after the other, whether or not some fail."""
        model = load() if self.targets else None
        with BatchBar(len(self.outcomes), quiet=quiet) as bar:
            for recording, outcome in self.outcomes.items():
                bar.begin(recording.source)
                if model is not None and recording in self.targets:
                    self._transcribe(model, recording, outcome, bar)
                bar.end()
                _show(outcome, quiet=quiet)

    def fail(self, error: dict[str, str]) -> None:
        """Record an error for all that have not ended."""
        for outcome in self.outcomes.values():
            if outcome.notes is None and outcome.error is None:
                outcome.error = error

    def _transcribe(self, model: Model, recording: Recording, outcome: Outcome, bar: BatchBar) -> None:
        started = time.monotonic()
        outcome.model = model.spec.name
        target = self.targets[recording]
        try:
            source = sys.stdin.buffer if recording.source == PIPE else recording.source
            result = model.transcribe(source, progress=bar.report, **self.options)
            outcome.warnings = list(result.warnings)
            with _as_output_error(target):
                _write(result, target, format_of(target, self.file_format))
        except (MT3Error, CheckpointError, OutputError, OSError) as error:
            outcome.fail(error)
        else:
            outcome.notes = len(result.notes)
            outcome.duration = round(result.duration, 3)
        outcome.seconds = round(time.monotonic() - started, 3)


@click.command("transcribe")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-o",
    "--output",
    help="File to write, folder to write to (FOLDER/), or - for standard output; without it, results lie beside"
    " the recordings.",
)
@click.option("-f", "--force", is_flag=True, help="Replace outputs that exist already.")
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True, help="Model; see `mt3-infer list`.")
@click.option(
    "--format", "file_format", type=click.Choice(list(SUFFIXES)), help="Default: as OUTPUT is named, else mid."
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights of your own.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:1.")
@click.option("--dtype", help="float32 or bfloat16, for models that can choose.")
@click.option("--batch-size", type=int, help="Segments worked on at once, for models that can choose.")
@click.option("-q", "--quiet", is_flag=True, help="Show errors and warnings only.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON on standard output.")
@with_options({name: spec.options for name, spec in MODELS.items()})
def transcribe_command(
    files: tuple[str, ...],
    output: str | None,
    force: bool,
    model: str,
    file_format: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str | None,
    batch_size: int | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Transcribe recordings of any common format.

    FILE is a recording, a folder, a pattern in quotes such as "live/*.flac", or - for standard input. Folders are
    searched with all folders in them for files that are named like recordings; hidden ones are skipped. With
    -o FOLDER/ the results keep the layout of the folders. A file that is named twice is transcribed once.

    An output that exists already is an error before any work, unless --force is given. If a recording fails, the
    others are still transcribed, and the exit code is 1.

    The summary of --json is a list with an object for each recording: source, output, model, number of notes,
    duration and seconds taken, warnings, and error (null, or code and detail).
    """
    if output == "/dev/stdout":
        output = PIPE
    if output == PIPE and as_json:
        raise click.UsageError("--json and -o - both need standard output: write the result to a file.")
    recordings = find_recordings(files)
    targets = pair_with_outputs(recordings, output, file_format)
    batch = Batch(
        targets,
        {recording: Outcome(recording.source, _shown(targets, recording), model) for recording in recordings},
        file_format,
        given(options),
    )
    for recording, outcome in batch.outcomes.items():
        if recording.problem is not None:
            outcome.error = {"code": "unreadable_input", "detail": recording.problem}
    try:
        with _ended_by_sigterm():
            _check_options(model, batch.options)
            _check_outputs(targets, output, force=force)
            batch.run(
                lambda: _load(model, checkpoint, quiet, device=device, dtype=dtype, batch_size=batch_size),
                quiet=quiet,
            )
    except (MT3Error, CheckpointError, OutputError, OSError) as error:
        batch.fail({"code": getattr(error, "code", "os_error"), "detail": _sentence(error)})
        raise click.ClickException(_sentence(error)) from error
    except (KeyboardInterrupt, SystemExit):
        batch.fail({"code": "canceled", "detail": "Canceled before it was done."})
        raise
    finally:
        if as_json:
            click.echo(json.dumps([asdict(outcome) for outcome in batch.outcomes.values()], indent=2))
    if any(outcome.error for outcome in batch.outcomes.values()):
        raise SystemExit(1)


def _check_options(model: str, options: Mapping[str, Any]) -> None:
    from mt3_infer.loading import get_model_spec

    get_model_spec(model).check_options(options)


def _check_outputs(targets: Mapping[Recording, Path | None], output: str | None, *, force: bool) -> None:
    """Find out, before any work, whether all results can be written; make the folders that OUTPUT stands for.

    Raises:
        OutputError: an output exists already, is the recording itself, or cannot be written.
    """
    outputs = {target: recording for recording, target in targets.items() if target is not None}
    sources = {os.path.realpath(recording.source) for recording in targets}
    for target, recording in outputs.items():
        if os.path.realpath(target) in sources:
            message = f"{target} is the recording {recording.source} itself: choose another output."
            raise OutputError(message, "output_exists")
    with_file = [str(target) for target in outputs if target.is_file()]
    if with_file and not force:
        names = ", ".join(with_file[:NAMED])
        more = f" and {len(with_file) - NAMED} more" if len(with_file) > NAMED else ""
        verb, them = ("exists", "it") if len(with_file) == 1 else ("exist", "them")
        message = f"{names}{more} already {verb}: pass --force to replace {them}, or choose another output."
        raise OutputError(message, "output_exists")
    for target in outputs:
        with _as_output_error(target):
            if output is not None and Path(output) in target.parents:
                target.parent.mkdir(parents=True, exist_ok=True)
            check_writable(target)


def _load(name: str, checkpoint: Path | None, quiet: bool, **device_options: Any) -> Model:
    from mt3_infer.loading import load_model

    if quiet:
        return load_model(name, checkpoint_path=checkpoint, **device_options)
    with fetch_bar() as progress:
        return load_model(name, checkpoint_path=checkpoint, progress=progress, **device_options)


def _write(result: Transcription, target: Path | None, file_format: str) -> None:
    name, options = ENDINGS[SUFFIXES[file_format]]
    if target is not None:
        export(result, name, target, options)
        return
    write_to_stdout(lambda path: export(result, name, path, options))


def _show(outcome: Outcome, *, quiet: bool) -> None:
    for warning in outcome.warnings:
        echo_line(f"{outcome.source}: warning: {warning.detail}")
    if outcome.error is not None:
        echo_line(f"{outcome.source}: {outcome.error['detail']}")
    elif not quiet:
        echo_line(f"{outcome.output}: {outcome.notes} notes")


def _shown(targets: Mapping[Recording, Path | None], recording: Recording) -> str | None:
    target = targets.get(recording)
    return str(target) if target is not None else PIPE if recording in targets else None


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}."
    return str(error)


@contextmanager
def _as_output_error(target: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = "standard output" if target is None else f"the output {target}"
        raise OutputError(f"Cannot write {place}: {reason(error)}.", "unwritable_output") from error


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM end the command cleanly: running work is aborted and temporary files are removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, before)
