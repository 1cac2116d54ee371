"""Install one file: `.part`, verify, fsync, rename.

The invariant: **no file gets its final name unless its bytes were verified**, whatever dies on the way and
whether or not locks hold. It rests on three things. Each download writes a `.part` whose name no other process
knows, so nobody can change bytes between their verification and the rename. What an interrupted download left is
*copied* to begin the next one, never taken over, since its writer may be alive. A rename is atomic.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from uuid import uuid4

from checkpoints.errors import (
    CheckpointError,
    ChecksumError,
    DiskSpaceError,
    DownloadError,
    SourceError,
    StoreNotWritableError,
)
from checkpoints.files import CheckpointFile, mismatch_reason, resume_note
from checkpoints.sources import Source

_log = logging.getLogger(__name__)

_TRIES = 4
_ABANDONED_SECONDS = 60.0  # without a write; a source drops an idle connection sooner

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def install_file(
    path: Path,
    file: CheckpointFile,
    sources: Sequence[Source],
    progress: Callable[[int], None],
    *,
    title: str,
    accept: Callable[[Path, Source], None] = lambda part, source: None,
) -> Source | None:
    """Download one file from the first source that delivers it; return that source.

    Again if another process removed our part; None if that one has installed the file itself.

    Args:
        path: its final place.
        title: what the messages call the download.
        accept: called with the verified part and its source before it gets its name; what it raises prevents that.
    Raises:
        DownloadError (names each source and why), ChecksumError (every source gave wrong bytes), OSError.
    """
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _begin_part(path)
        try:
            source = _download(file, sources, part, progress, title)
            accept(part, source)
            _fsync(part)
            part.replace(path)
            _fsync(path.parent)
            for leftover in _parts(path):  # their writers find the file installed
                _remove_part(leftover)
        except FileNotFoundError:
            if part.exists():
                raise
        else:
            return source
        finally:
            if _size(part) == 0:  # renamed, or nothing came: no part, or none worth keeping, and its note
                _remove_part(part)
        if path.exists() and mismatch_reason(path, file) is None:
            return None  # that process has installed it
    raise CheckpointError(f"{title} could not be installed: other processes keep removing {path.parent}/.*.part.")


@contextmanager
def translate_os_errors(folder: Path, what: str, advice: str) -> Iterator[None]:
    """Translate OSErrors into errors of this package."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_WRITABLE:
            raise StoreNotWritableError(
                f"The {what} {folder} cannot be written to ({error.strerror}); {advice}."
            ) from error
        if error.errno in _DISK_FULL:
            raise DiskSpaceError(
                f"The disk of the {what} {folder} is full; what was downloaded is kept."
            ) from error
        raise


def _download(
    file: CheckpointFile, sources: Sequence[Source], part: Path, progress: Callable[[int], None], title: str
) -> Source:
    """Try the sources in order until `part` holds the verified bytes."""
    failures: list[tuple[str, CheckpointError]] = []
    for source in sources:
        try:
            _fetch_verified(source, file, part, progress)
        except (SourceError, ChecksumError) as error:
            failures.append((source.label, error))
            _log.warning("%s: %s failed: %s", title, source.label, error)
        else:
            return source
    attempts = [(label, str(error)) for label, error in failures]
    reasons = "; ".join(f"from {label}: {reason}" for label, reason in attempts)
    message = f"{title} could not be downloaded: {file.name} {reasons}."
    if all(isinstance(error, ChecksumError) for _, error in failures):
        raise ChecksumError(message)
    raise DownloadError(message, attempts)


def _fetch_verified(source: Source, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> None:
    """Fetch from one source; once more from the start if what an earlier try left turns out to spoil it."""
    for continued in (_size(part) > 0, False):
        sha256 = source.fetch(file, part, progress)
        wrong = mismatch_reason(part, file, sha256)
        if wrong is None:
            return
        part.write_bytes(b"")  # nothing to continue from
        resume_note(part).unlink(missing_ok=True)
        if not continued:
            raise ChecksumError(f"what came is not {file.name}: {wrong}")


def _begin_part(path: Path) -> Path:
    """Create a new part from the largest leftover of earlier downloads; remove abandoned leftovers."""
    leftovers = _parts(path)
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    part.touch()
    for leftover in sorted(leftovers, key=_size, reverse=True):
        # Only its writer, if alive after all, removes it between our look and our copy.
        with suppress(FileNotFoundError):
            if _size(part) == 0:
                shutil.copyfile(leftover, part)
                shutil.copyfile(resume_note(leftover), resume_note(part))
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS:
                _remove_part(leftover)
    return part


def _parts(path: Path) -> list[Path]:
    return list(path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 32}.part"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _remove_part(part: Path) -> None:
    part.unlink(missing_ok=True)
    resume_note(part).unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
