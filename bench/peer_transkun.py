"""Runs in the peer's environment: transkun 2.0.1 on a waveform.

    python peer_transkun.py FOLDER    FOLDER holds waveform.npy, float32 at 44.1 kHz, shape (S,)

Writes events.npy, shape (N, 4): onset and offset in seconds, pitch, velocity; a pedal has its controller as pitch,
negated. Prints `{"seconds": …, "events": …, "memory": …, "imported": …}`, the last two in bytes: the peak, and the
one after the import, before the weights are read.
"""

import json
import os
import resource
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch


def no_filters(n_freqs: int, n_mels: int, **_: float) -> torch.Tensor:
    """Return a placeholder for the filters of torchaudio, which the weight file has too."""
    return torch.zeros(n_freqs, n_mels)


# The package index has no torchaudio that loads beside a PyTorch for CPUs. Only this function of it is used.
torchaudio = types.ModuleType("torchaudio")
torchaudio.functional = types.SimpleNamespace(melscale_fbanks=no_filters)
sys.modules["torchaudio"] = torchaudio

from transkun import ModelTransformer  # noqa: E402


def peak_memory() -> int:
    """Return the largest resident size so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load() -> torch.nn.Module:
    """Load the published network as its command does."""
    folder = Path(ModelTransformer.__file__).parent / "pretrained"
    config = ModelTransformer.Config()
    vars(config).update(json.loads((folder / "2.0.conf").read_text())["Model"]["config"])
    model = ModelTransformer.TransKun(config)
    weights = torch.load(folder / "2.0.pt", weights_only=True)
    model.load_state_dict(weights["state_dict"], strict=True)
    return model.eval()


def main() -> None:
    """Load, transcribe, report."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_grad_enabled(False)
    imported = peak_memory()
    model = load()
    waveform = torch.from_numpy(np.load(folder / "waveform.npy"))[:, None]
    started = time.perf_counter()
    events = model.transcribe(waveform)
    seconds = time.perf_counter() - started
    np.save(folder / "events.npy", np.array([(e.start, e.end, e.pitch, e.velocity) for e in events]))
    report = {"seconds": seconds, "events": len(events), "memory": peak_memory(), "imported": imported}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
