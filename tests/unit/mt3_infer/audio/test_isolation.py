"""A file costs at most itself: crashes, time and memory stay in the child process that decodes it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from mt3_infer import AudioError
from mt3_infer.audio import DecodeLimits, Waveform, isolation, open_audio
from mt3_infer.errors import CostlyAudioError
from tests.recordings import encode, tone, write

RATE = 16000


def decode(path: Path, limits: DecodeLimits | None = None) -> Waveform:
    with open_audio(path, sample_rate=RATE, limits=limits) as stream:
        return np.concatenate(list(stream))


def element(identifier: str, body: bytes) -> bytes:
    """An element of a Matroska file, its size in eight bytes."""
    return bytes.fromhex(identifier) + (len(body) | 1 << 56).to_bytes(8, "big") + body


def tagged_matroska(source: Path, path: Path, tags: int) -> Path:
    """A recording with many tags, which FFmpeg reads in quadratic time."""
    data = bytearray(encode(source, path, "flac", 44100, kind="matroska").read_bytes())
    simple = b"".join(
        element("67c8", element("45a3", b"k%d" % number) + element("4487", b"v")) for number in range(tags)
    )
    at = data.index(bytes.fromhex("18538067")) + 4
    size = int.from_bytes(data[at + 1 : at + 8], "big")
    extra = element("1254c367", element("7373", element("63c0", b"") + simple))
    data[at : at + 8] = (1 << 56 | size + len(extra)).to_bytes(8, "big")
    first = data.index(bytes.fromhex("1549a966"), at)  # before the info, so that it is read when opening
    data[first:first] = extra
    path.write_bytes(data)
    return path


def tagged_flac(source: Path, path: Path, tags: int) -> Path:
    data = encode(source, path, "flac", 44100).read_bytes()
    comments = b"".join(len(c).to_bytes(4, "little") + c for c in (b"k%d=v" % n for n in range(tags)))
    block = bytes(4) + tags.to_bytes(4, "little") + comments
    path.write_bytes(data[:42] + b"\x04" + len(block).to_bytes(3, "big") + block + data[42:])
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clip") / "a.wav", tone(2.0, RATE), RATE)


def test_quadratic_tags_end_at_the_limit_with_a_code_of_their_own(clip: Path, tmp_path: Path) -> None:
    path = tagged_matroska(clip, tmp_path / "a.mka", 60_000)
    began = time.monotonic()
    with pytest.raises(CostlyAudioError, match="too long") as caught:
        decode(path, DecodeLimits(probe_seconds=1))
    assert caught.value.code == "audio_too_costly"
    assert time.monotonic() - began < 20  # of a machine that does other things


def test_tags_of_a_flac_cost_nothing(clip: Path, tmp_path: Path) -> None:
    path = tagged_flac(clip, tmp_path / "a.flac", 50_000)
    assert len(decode(path, DecodeLimits(probe_seconds=1))) == 2 * RATE


def test_pictures_in_a_tag_cost_no_memory(clip: Path, tmp_path: Path) -> None:
    mp3 = encode(clip, tmp_path / "plain.mp3", "libmp3lame", 44100).read_bytes()
    size = 100_000_000
    head = b"ID3\x03\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0))
    path = tmp_path / "a.mp3"
    with path.open("wb") as file:
        file.write(head)
        file.seek(10 + size)
        file.write(mp3)
    assert len(decode(path, DecodeLimits(memory_bytes=64 * 1024**2))) == pytest.approx(2 * RATE, abs=500)


def test_memory_has_a_limit_which_an_attachment_does_not_take(clip: Path, tmp_path: Path) -> None:
    path = tagged_matroska(clip, tmp_path / "a.mka", 1)
    data = path.read_bytes()
    at = data.index(bytes.fromhex("1549a966"))
    name = element("466e", b"a.png") + element("4660", b"image/png") + element("46ae", b"\1")
    big = element("1941a469", element("61a7", name + element("465c", bytes(200_000_000))))
    start = data.index(bytes.fromhex("18538067")) + 4
    size = int.from_bytes(data[start + 1 : start + 8], "big") + len(big)
    path.write_bytes(data[:start] + (1 << 56 | size).to_bytes(8, "big") + data[start + 8 : at] + big + data[at:])
    assert len(decode(path, DecodeLimits(memory_bytes=64 * 1024**2))) == 2 * RATE
    with pytest.raises(CostlyAudioError, match="memory"):
        decode(path, DecodeLimits(memory_bytes=4096))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE])
def test_crash_of_a_decoder_costs_its_file_and_the_next_one_is_decoded(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    module = tmp_path / "crashing_decoder.py"
    module.write_text(
        "import os\n"
        "from mt3_infer.audio import isolation\n"
        "from mt3_infer.audio.decode import Recording\n"
        "blocks = Recording.blocks\n"
        "def crash(self):\n"
        "    if self.file.size < 2000:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    return blocks(self)\n"
        "Recording.blocks = crash\n"
        "serve = isolation.serve\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(isolation, "SERVE", "crashing_decoder")
    monkeypatch.setattr(isolation, "_current", None)
    small = write(tmp_path / "small.wav", tone(0.02, RATE), RATE)
    try:
        with pytest.raises(AudioError, match="crashed") as caught:
            decode(small)
        assert caught.value.code == "undecodable_audio"
        assert len(decode(clip)) == 2 * RATE
    finally:
        isolation._stop_server()


def test_server_that_died_is_replaced(clip: Path) -> None:
    decode(clip)
    server = isolation._current
    assert server is not None
    os.kill(server._process.pid, signal.SIGKILL)
    server._process.wait()
    assert len(decode(clip)) == 2 * RATE


def test_many_threads_decode_at_once(clip: Path) -> None:
    lengths: list[int] = []
    threads = [threading.Thread(target=lambda: lengths.append(len(decode(clip)))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [2 * RATE] * 16


def test_stream_that_is_closed_early_leaves_no_process(tmp_path: Path) -> None:
    path = write(tmp_path / "long.wav", np.zeros(600 * RATE, np.float32), RATE)
    with open_audio(path, sample_rate=RATE) as stream:
        blocks = iter(stream)
        next(blocks)
        pid = stream._pid  # type: ignore[attr-defined]
        assert psutil.pid_exists(pid)
    for _ in range(100):
        if not psutil.pid_exists(pid):
            break
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)


def test_memory_of_this_process_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    path = write(tmp_path / "long.flac", np.zeros(3600 * 8000, np.float32), 8000, "flac")
    decode(write(tmp_path / "short.flac", tone(2.0, 8000), 8000, "flac"))
    before = psutil.Process().memory_info().rss
    with open_audio(path, sample_rate=RATE) as stream:
        total = sum(len(block) for block in stream)
    assert total == 3600 * RATE
    assert psutil.Process().memory_info().rss - before < 20e6


def test_bytes_in_memory_and_pipes_are_recordings_too(clip: Path) -> None:
    data = clip.read_bytes()
    with open_audio(io.BytesIO(data), sample_rate=RATE) as stream:
        assert sum(map(len, stream)) == 2 * RATE
    reading, writing = os.pipe()

    def feed() -> None:
        with open(writing, "wb") as pipe:
            pipe.write(data)

    feeder = threading.Thread(target=feed)
    feeder.start()
    with open(reading, "rb") as pipe, open_audio(pipe, sample_rate=RATE) as stream:
        assert sum(map(len, stream)) == 2 * RATE
    feeder.join()


def test_script_without_a_main_guard_runs_once(clip: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from mt3_infer.audio import open_audio\n"
        "print('begins')\n"
        f"print(sum(map(len, open_audio({str(clip)!r}, sample_rate={RATE}))))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["begins", str(2 * RATE)]
    assert done.stderr == ""


def test_ctrl_c_ends_the_parent_and_its_decoder(tmp_path: Path) -> None:
    path = write(tmp_path / "long.wav", np.zeros(600 * RATE, np.float32), RATE)
    code = (
        "import sys\n"
        "from mt3_infer.audio import open_audio\n"
        f"stream = open_audio({str(path)!r}, sample_rate={RATE})\n"
        "blocks = iter(stream); next(blocks); print(stream._pid, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
        _, written = parent.communicate(timeout=20)
        assert written.count("Traceback") == 1, written  # the parent's own
    for _ in range(200):
        if not psutil.pid_exists(pid):
            break
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)
