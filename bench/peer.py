"""Runs in the peer's environment: its network and its generation, on given features and weights.

    python peer.py FOLDER CONFIG    FOLDER holds features.npy, shape (N, T, F), and weights.pt

Prints `{"seconds": …, "tokens": …, "memory": …}`. One segment at a time, as the peer's own `forward` does it.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from mt3_infer.models.mt3_pytorch.t5 import T5Config, T5ForConditionalGeneration

LEFT_OUT = {  # copies and buffers that a state dict may come without
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder_embed_tokens.weight",
    "encoder.pos_emb.inv_freq",
    "decoder.pos_emb.inv_freq",
}


def main() -> None:
    """Load, generate, report."""
    folder, config = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network = T5ForConditionalGeneration(T5Config.from_dict(json.loads(config.read_text())))
    weights = torch.load(folder / "weights.pt", weights_only=True)
    embedding = weights.get("decoder_embed_tokens.weight", weights.get("decoder.embed_tokens.weight"))
    weights |= {
        "encoder.embed_tokens.weight": weights["proj.weight"],
        "decoder.embed_tokens.weight": embedding,
        "decoder_embed_tokens.weight": embedding,
    }
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= LEFT_OUT, missing
    network.eval()
    segments = torch.from_numpy(np.load(folder / "features.npy"))
    tokens = 0
    with torch.no_grad():
        network.generate(inputs=segments[:1], max_length=4)
        started = time.perf_counter()
        for segment in segments:
            generated = network.generate(inputs=segment[None], max_length=1024)
            tokens += generated.shape[1] - 1  # the start token is not output
        seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "tokens": tokens, "memory": memory}) + "\n")


if __name__ == "__main__":
    main()
