"""Fetches one file with git and git-lfs, where they are installed and asked for: `--source git`.

For repositories that only the user's own git can read (its credentials, its SSH keys). Everybody else is served
faster by `git_lfs`, which needs neither program and continues what broke off.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile

_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class GitSource:
    """A file of a repository; the options are those of `git_lfs`."""

    repository: str
    revision: str
    path: str
    timeout: float = 3600.0  # seconds for each command

    @property
    def label(self) -> str:
        """The repository."""
        return f"git clone of {self.repository}"

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> str | None:
        """Clone the one commit without its files; check the one file out; have git-lfs replace its pointer."""
        for program in ("git", "git-lfs"):
            if shutil.which(program) is None:
                raise SourceError(f"{program} is not installed; the source git_lfs does without it")
        with tempfile.TemporaryDirectory(prefix="mt3-git-", dir=part.parent) as folder:
            clone = Path(folder) / "clone"

            def git(*arguments: str) -> None:
                self._run(arguments, Path(folder), lambda: progress(_bytes_in(clone)))

            clone_options = ("--quiet", "--depth=1", "--no-checkout", "--branch", self.revision)
            git("clone", *clone_options, "--", self.repository, str(clone))
            git("-C", str(clone), "checkout", "--quiet", self.revision, "--", self.path)
            git("-C", str(clone), "lfs", "pull", f"--include={self.path}")
            (clone / self.path).replace(part)
        return None

    def _run(self, arguments: tuple[str, ...], folder: Path, alive: Callable[[], None]) -> None:
        environment = {**os.environ, "GIT_LFS_SKIP_SMUDGE": "1", "GIT_TERMINAL_PROMPT": "0"}
        messages = folder / "messages"
        deadline = time.monotonic() + self.timeout
        with messages.open("wb") as log:
            process = subprocess.Popen(
                ["git", *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            try:
                while process.poll() is None:
                    if time.monotonic() > deadline:
                        raise SourceError(f"git did not end within {self.timeout:g} s")
                    alive()
                    time.sleep(_POLL_SECONDS)
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0:
            last = messages.read_text(errors="replace").strip().splitlines()[-1:]
            raise SourceError(f"git failed: {last[0] if last else 'without a word'}")


def _bytes_in(folder: Path) -> int:
    """Return how much git has fetched so far."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:
                continue  # git moves its files about
    return total
