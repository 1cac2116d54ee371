"""Write files whole or not at all: into a file beside the target, which is then renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from checkpoints.files import replaced_atomically, temporary_part

PROBE = bytes(64 * 1024)
"""Written and removed to see whether there is room: more than most results need."""


def write_whole(target: Path, content: bytes) -> None:
    """Write a file, or leave what was there untouched. A device or a pipe is written to directly.

    Raises:
        OSError: it cannot be written; `filename` is the target.
    """
    with replacing(target) as part:
        part.write_bytes(content)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield the path of a file to write; it takes the place of the target if the block succeeds.

    Raises:
        OSError: it cannot be written; `filename` is the target.
    """
    with _named(target):
        if _is_special(target):
            yield target
            return
        real = Path(os.path.realpath(target))
        with replaced_atomically(real) as part:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            if real.exists():
                with suppress(PermissionError):
                    shutil.copymode(real, part)


def check_writable(target: Path) -> None:
    """Find out, before any work, whether `write_whole` would succeed.

    Raises:
        OSError: it would not; `filename` is the target.
    """
    with _named(target):
        with suppress(FileNotFoundError):
            target.lstat()  # a name that is too long is found here
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not _is_special(target):
            with temporary_part(Path(os.path.realpath(target)).parent) as part:
                part.write_bytes(PROBE)


def _is_special(target: Path) -> bool:
    """Return True for a device, a pipe or a folder: what cannot be replaced by a file."""
    return target.exists() and not target.is_file()


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Make an OSError name the target, not the temporary file beside it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
