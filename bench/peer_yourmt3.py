"""Runs in the peer's environment: its YourMT3 on given segments and weights.

    python peer_yourmt3.py FOLDER    FOLDER holds segments.npy, shape (N, S), and weights.pt

Prints `{"seconds": …, "tokens": …, "memory": …, "sum": …}`: tokens up to the end of each sequence, which are those
that somebody gets, and their weighted sum, to be compared. Eight segments at a time, as the peer's own `forward`
does it.
"""

import json
import os
import resource
import sys
import time
import types
from copy import deepcopy
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import torch


class Spectrogram(torch.nn.Module):
    """The one part of torchaudio that is used; the package index has none that loads beside a PyTorch for CPUs."""

    def __init__(self, n_fft: int, hop_length: int, window_fn: type, power: float) -> None:
        super().__init__()
        assert power == 1.0
        self.hop_length = hop_length
        self.register_buffer("window", window_fn(n_fft))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Magnitudes of shape (B, 1, F, T)."""
        spectrum = torch.stft(
            x[:, 0], len(self.window), self.hop_length, window=self.window, pad_mode="reflect", return_complex=True
        )
        return spectrum.abs()[:, None]


torchaudio = types.ModuleType("torchaudio")
torchaudio.__spec__ = ModuleSpec("torchaudio", None)
torchaudio.transforms = types.SimpleNamespace(Spectrogram=Spectrogram)
sys.modules["torchaudio"] = torchaudio

from mt3_infer.models.yourmt3.model.ymt3 import YourMT3  # noqa: E402
from mt3_infer.models.yourmt3.utils.task_manager import TaskManager  # noqa: E402

from mt3_infer.models.yourmt3.config import config  # noqa: E402

BATCH_SIZE = 8
END = 1


def network() -> torch.nn.Module:
    """YPTF.MoE+Multi, configured as the options of the authors' own launcher configure it."""
    audio, model = deepcopy(config.audio_cfg), deepcopy(config.model_cfg)
    audio |= {"codec": "spec", "hop_length": 300}
    model |= {"encoder_type": "perceiver-tf", "decoder_type": "multi-t5"}
    model["encoder"]["perceiver-tf"] |= {
        "num_latents": 26,
        "sca_use_query_residual": True,
        "ff_layer_type": "moe",
        "ff_widening_factor": 4,
        "moe_num_experts": 8,
        "moe_topk": 2,
        "hidden_act": "silu",
        "position_encoding_type": "rope",
        "rope_partial_pe": True,
    }
    return YourMT3(audio, model, config.shared_cfg, task_manager=TaskManager("mc13_full_plus_256"))


def main() -> None:
    """Load, generate, report."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = network().eval()
    weights = torch.load(folder / "weights.pt", weights_only=True)
    model.load_state_dict({name: w for name, w in weights.items() if "pitchshift" not in name}, strict=True)
    segments = torch.from_numpy(np.load(folder / "segments.npy"))[:, None]
    with torch.inference_mode():
        model.inference(segments[:1], max_token_length=4)
        started = time.perf_counter()
        batches, _ = model.inference_file(bsz=BATCH_SIZE, audio_segments=segments)
        seconds = time.perf_counter() - started
    tokens = checksum = 0
    for sequence in (row for batch in batches for row in batch.reshape(-1, batch.shape[-1]).tolist()):
        length = sequence.index(END, 1) + 1 if END in sequence[1:] else len(sequence)
        tokens += length
        checksum += sum(place * token for place, token in enumerate(sequence[:length], start=1))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "tokens": tokens, "memory": memory, "sum": checksum}) + "\n")


if __name__ == "__main__":
    main()
