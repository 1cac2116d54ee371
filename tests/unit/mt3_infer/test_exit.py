"""However a transcription ends half-way, the process ends in order: no abort in native code, no core dump."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints.store import CheckpointStore
from mt3_infer import download_model
from mt3_infer.models.t5 import T5Config
from mt3_infer.symbolic.vocabulary import END
from tests.unit.mt3_infer.published import mt3_shapes

SIZES = {
    "d_model": 512,
    "d_kv": 16,
    "d_ff": 64,
    "num_heads": 2,
    "num_layers": 1,
    "num_decoder_layers": 2,
    "vocab_size": 1500,
    "layer_norm_epsilon": 1e-6,
}

CAUGHT = """
try:
    run()
except ValueError:
    sys.exit({code})
"""

# A generator that is still open, with the network at work, when the interpreter ends.
LEFT_OPEN = """
results = model.network.infer(split_segments(blocks, model.network.grid), model.spec.check_options({}))
next(results)
"""

# Daemon threads at work, which nothing waits for.
DAEMONS = """
from threading import Event, Thread
begun = Event()
for _ in range(2):
    Thread(target=model.transcribe, args=(np.tile(minute, 10), rate), daemon=True, kwargs={
        "progress": lambda progress: begun.set()
    }).start()
begun.wait()
sys.exit(3)
"""

# A daemon thread that begins when engines have been stopped already.
LATE_DAEMON = """
from atexit import register
from threading import Event, Thread
from mt3_infer.inference.engine import _stop_engines
stopped = Event()
def late():
    stopped.wait()
    model.transcribe(minute, rate)
thread = Thread(target=late, daemon=True)
thread.start()
def end():
    _stop_engines()
    stopped.set()
    thread.join(2)
register(end)
sys.exit(3)
"""

ENDINGS = {
    "error": (CAUGHT.format(code=1), 1),
    "cancel": (CAUGHT.format(code=0), 0),
    "left open": (LEFT_OPEN, 0),
    "daemons": (DAEMONS, 3),
    "late daemon": (LATE_DAEMON, 3),
}

TIMES = [1, pytest.param(5, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]  # an abort may be rare

SCRIPT = """
import sys
from itertools import repeat
import numpy as np
from mt3_infer import load_model
from mt3_infer.audio.segments import split_segments

name, checkpoint, ending = sys.argv[1:]
model = load_model(name, checkpoint_path=checkpoint, device="cpu", batch_size=4 if name == "mt3_pytorch" else None)
rate = model.spec.sample_rate
minute = np.random.default_rng(1).normal(0, 0.1, 60 * rate).astype(np.float32)
blocks = repeat(minute, 60)

def stop(progress):
    raise ValueError("half-way")

def run():
    model.transcribe(np.tile(minute, 10), rate, progress=stop)

exec(ending)
"""


@pytest.fixture(scope="module")
def checkpoints(checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights of Basic Pitch, and random ones of a small MT3, whose segments end one by one."""
    config = T5Config(
        d_kv=16, d_ff=64, num_heads=2, num_encoder_layers=1, num_decoder_layers=2, vocabulary_size=1500
    )
    generator = torch.Generator().manual_seed(3)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in mt3_shapes(config).items()}
    weights["lm_head.weight"][END] *= 2
    folder = tmp_path_factory.mktemp("mt3_pytorch")
    torch.save(weights, folder / "mt3.pth")
    (folder / "config.json").write_text(json.dumps(SIZES))
    basic_pitch = download_model("basic_pitch", store=CheckpointStore(checkpoint_dir))
    return {"basic_pitch": basic_pitch, "mt3_pytorch": folder}


def assert_in_order(ended: subprocess.CompletedProcess[str], code: int) -> None:
    assert "terminate called" not in ended.stderr
    assert ended.returncode == code, ended.stderr


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("ending", list(ENDINGS))
@pytest.mark.parametrize("name", ["basic_pitch", "mt3_pytorch"])
def test_a_process_that_stops_half_way_ends_with_its_own_exit_code(
    checkpoints: dict[str, Path], name: str, ending: str, times: int
) -> None:
    code, status = ENDINGS[ending]
    for _ in range(times):
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT, name, str(checkpoints[name]), code],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert_in_order(ended, status)
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["basic_pitch", "mt3_pytorch"])
def test_a_signal_ends_the_command_in_order(
    checkpoints: dict[str, Path], tmp_path: Path, name: str, number: signal.Signals, times: int
) -> None:
    """The bar on the terminal shows when the transcription has begun."""
    for _ in range(times):
        ended = _interrupt(name, checkpoints[name], tmp_path, number)
        assert_in_order(ended, 128 + number)
        assert [path.name for path in tmp_path.iterdir()] == ["long.wav"]


def _interrupt(
    name: str, checkpoint: Path, folder: Path, number: signal.Signals
) -> subprocess.CompletedProcess[str]:
    recording = folder / "long.wav"
    if not recording.exists():
        recording.write_bytes(_noise(3600))
    screen, terminal = pty.openpty()
    command = f"-m mt3_infer transcribe {recording} -m {name} --checkpoint {checkpoint} --device cpu"
    if name == "mt3_pytorch":
        command += " --batch-size 4"
    process = subprocess.Popen([sys.executable, *command.split()], stderr=terminal)
    os.close(terminal)
    shown = b""
    while b" s" not in shown:  # so many seconds of the recording are done
        shown += os.read(screen, 4096)
    process.send_signal(number)
    try:
        for piece in iter(partial(os.read, screen, 4096), b""):
            shown += piece
    except OSError:  # Linux's way to show that nobody has the terminal open any more
        pass
    os.close(screen)
    return subprocess.CompletedProcess([], process.wait(timeout=60), None, shown.decode(errors="replace"))


def _noise(seconds: int) -> bytes:
    import wave

    file: Any = io.BytesIO()
    with wave.open(file, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(8000)
        recording.writeframes(os.urandom(2 * 8000) * seconds)
    return bytes(file.getvalue())
