"""git itself as a source: a real git and a real repository, with a git-lfs that knows one object."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from checkpoints.catalog import Catalog, Entry
from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile, SourceSpec
from checkpoints.sources.git import GitSource
from checkpoints.store import CheckpointStore
from tests.unit.checkpoints.fakes import SHA256, WEIGHTS

FILE = CheckpointFile("weights.bin", len(WEIGHTS), SHA256, ())
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA256}\nsize {len(WEIGHTS)}\n"

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository with a pointer; git-lfs, as `git lfs pull --include=PATH`, puts the object in its place."""
    folder, programs = tmp_path / "repository", tmp_path / "bin"
    (folder / "folder").mkdir(parents=True)
    (folder / "folder" / "weights.pth").write_text(POINTER)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    programs.mkdir()
    (tmp_path / "object").write_bytes(WEIGHTS)
    script = f'#!/bin/sh\ntest "$1" = pull && cp {tmp_path / "object"} "${{2#--include=}}"\n'
    (programs / "git-lfs").write_text(script)
    (programs / "git-lfs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return folder.as_uri()


def test_git_and_git_lfs_fetch_the_file(repository: str, tmp_path: Path) -> None:
    part = tmp_path / "part"
    GitSource(repository, "main", "folder/weights.pth").fetch(FILE, part, lambda _: None)
    assert part.read_bytes() == WEIGHTS
    assert not list(tmp_path.glob("mt3-git-*"))


def test_what_is_to_be_had_from_git_lfs_is_to_be_had_from_git(repository: str, tmp_path: Path) -> None:
    options = {"repository": repository, "revision": "main", "path": "folder/weights.pth"}
    file = CheckpointFile("weights.bin", len(WEIGHTS), SHA256, (SourceSpec("git_lfs", options),))
    store = CheckpointStore(tmp_path, catalog=Catalog({"tiny": Entry("tiny", (), "", "", "", (file,))}))
    assert (store.fetch("tiny", source="git") / "weights.bin").read_bytes() == WEIGHTS


def test_git_errors_are_reported(repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def error_of(source: GitSource) -> str:
        with pytest.raises(SourceError) as caught:
            source.fetch(FILE, tmp_path / "part", lambda _: None)
        return str(caught.value)

    assert (
        error_of(GitSource(repository, "other", "w"))
        == "git failed: fatal: Remote branch other not found in upstream origin"
    )
    assert error_of(GitSource(repository, "main", "w")).startswith("git failed: error: pathspec 'w' did not match")
    assert error_of(GitSource(repository, "main", "w", timeout=0)) == "git did not end within 0 s"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert error_of(GitSource(repository, "main", "w")) == (
        "git is not installed; the source git_lfs does without it"
    )
