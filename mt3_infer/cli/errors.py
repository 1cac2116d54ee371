"""Errors of the library as messages of the command line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from checkpoints.errors import CheckpointError
from mt3_infer.errors import AudioError, MT3Error


@contextmanager
def as_click_errors(recording: Path | None = None) -> Iterator[None]:
    """Turn the library's errors into messages of the command line, which name the recording if it is at fault."""
    try:
        yield
    except (MT3Error, CheckpointError) as error:
        place = f"{recording}: " if recording is not None and isinstance(error, AudioError) else ""
        raise click.ClickException(f"{place}{error}") from error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{place}{reason(error)}.") from error


def reason(error: OSError) -> str:
    """Return what is wrong with a file; of a missing folder, which one to create."""
    if error.errno == errno.ENOENT and error.filename and not (folder := Path(error.filename).parent).is_dir():
        return f"The folder {folder} does not exist: create it first"
    return error.strerror or str(error)
