"""Programs that are in no Python package: from the PATH, or out of Debian packages, without installing them."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "build" / "debian"
DOWNLOAD_SECONDS = 120


@cache
def find_program(name: str, package: str) -> Path:
    """Return a program; skip the test where there is none and none can be had."""
    if found := shutil.which(name):
        return Path(found)
    program = _unpacked(package) / "usr" / "bin" / name
    if not program.exists():
        program = _unpacked(package) / "usr" / "sbin" / name
    if not program.exists():
        pytest.skip(f"no {name} here, and no Debian package to take it from (apt-get download {package})")
    return program


def _unpacked(package: str) -> Path:
    folder = FOLDER / package
    if (folder / "complete").exists() or not shutil.which("apt-get") or not shutil.which("dpkg"):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run(["apt-get", "download", package], folder)
        for archive in folder.glob("*.deb"):
            _run(["dpkg", "-x", archive.name, "."], folder)
            archive.unlink()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return folder
    (folder / "complete").touch()
    return folder


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=DOWNLOAD_SECONDS)
