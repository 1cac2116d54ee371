"""A file is written whole or not at all."""

from __future__ import annotations

import os
import resource
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mt3_infer import Note
from mt3_infer.files import check_writable, write_whole
from tests.fakes import transcription

MANY_NOTES = [Note(i / 10, i / 10 + 1, 60, 90) for i in range(20_000)]


@contextmanager
def full_disk(size: int = 8192) -> Iterator[None]:
    """No file may grow beyond so many bytes, which is as a disk that is full."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", ["song.mid", "song.json"])
@pytest.mark.parametrize("before", [None, b"an older result"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, name: str, before: bytes | None) -> None:
    target = tmp_path / name
    if before is not None:
        target.write_bytes(before)
    with full_disk(), pytest.raises(OSError, match=name) as raised:
        transcription(MANY_NOTES, 2000.0).save(target)
    assert raised.value.filename == str(target)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({name: before} if before else {})
    transcription(MANY_NOTES, 2000.0).save(target)
    assert target.stat().st_size > 8192


def test_a_full_disk_is_found_before_the_work(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(OSError, match=r"song\.mid"):
        check_writable(tmp_path / "song.mid")
    assert list(tmp_path.iterdir()) == []


def test_the_mode_of_a_file_and_what_a_link_leads_to_are_kept(tmp_path: Path) -> None:
    real, link = tmp_path / "real.mid", tmp_path / "link.mid"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_that_the_user_wants(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        write_whole(tmp_path / "new.mid", b"new")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new.mid").stat().st_mode) == 0o640


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mid"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    check_writable(pipe)
    write_whole(pipe, b"new")
    reader.join(timeout=10)
    assert read == [b"new"]


def test_an_open_descriptor_is_written_to(tmp_path: Path) -> None:
    """Its path leads to a name that is none, such as pipe:[4711]."""
    reader, writer = os.pipe()
    with open(reader, "rb") as read:
        with open(writer, "wb"):
            check_writable(Path(f"/dev/fd/{writer}"))
            write_whole(Path(f"/dev/fd/{writer}"), b"new")
        assert read.read() == b"new"


def test_the_longest_name_that_a_folder_takes_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 251 + ".mid")
    check_writable(target)
    write_whole(target, b"new")
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("place", ["none/song.mid", "file/song.mid", "folder", "n" * 300 + ".mid"])
def test_a_place_that_cannot_be_written_to_is_found_before_the_work(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for act in (check_writable, lambda target: write_whole(target, b"new")):
        with pytest.raises(OSError) as raised:  # noqa: PT011 - it may be any of them; the name is what counts
            act(tmp_path / place)
        assert raised.value.filename == str(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
