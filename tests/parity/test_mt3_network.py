"""The network against Magenta's and MT3-PyTorch's: tiny random weights always, the published where at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mir_eval
import numpy as np
import pretty_midi
import pytest
import torch

from mt3_infer import transcribe
from mt3_infer.inference.decoding import SlotDecoder, make_decoder
from mt3_infer.inference.kv_cache import Limits
from mt3_infer.models.linear import optimize_for_inference
from mt3_infer.models.mt3.config import read_config
from mt3_infer.models.mt3.network import load
from mt3_infer.models.t5 import T5, Positions, T5Config
from mt3_infer.weights.files import read_weights
from tests.unit.mt3_infer.published import mt3_weights

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
WEIGHTS = Path(os.environ.get("MT3_TEST_WEIGHTS", ROOT.parent / "shared" / "weights")) / "mt3"
TINY = np.load(DATA / "tiny_models.npz")
OFFICIAL = np.load(DATA / "official_model.npz")
CPU = torch.device("cpu")


def with_weights(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs the published weights, which are not in the repository."""
    reason = f"no published weights in {WEIGHTS}; MT3_TEST_WEIGHTS names the folder above them"
    marked: Callable[..., None] = pytest.mark.weights(
        pytest.mark.skipif(not WEIGHTS.is_dir(), reason=reason)(test)
    )
    return marked


TINY_CONFIG = T5Config(
    n_features=64,
    d_model=64,
    d_kv=16,
    d_ff=96,
    num_heads=3,
    num_encoder_layers=2,
    num_decoder_layers=2,
    max_length=24,
)


def build(config: T5Config, weights: dict[str, torch.Tensor]) -> T5:
    network = T5(config)
    network.load_state_dict(mt3_weights(weights, config), strict=True)
    optimize_for_inference(network.eval(), device=CPU, compute_dtype=torch.float32)
    return network


def tiny(positions: Positions) -> T5:
    weights = {
        name.removeprefix("w/"): torch.from_numpy(TINY[name])
        for name in TINY.files
        if name.startswith("w/") and "segmem" not in name  # the memory of MR-MT3
    }
    return build(replace(TINY_CONFIG, positions=positions), weights)


@torch.inference_mode()
def keys_values(network: T5, features: Any) -> torch.Tensor:
    return network.decoder.segment_keys_values(network.encoder(torch.as_tensor(features)))


@torch.inference_mode()
def logits_of_steps(network: T5, features: Any, token_ids: Any) -> np.ndarray:
    """Logits of each step when the given tokens are fed; token_ids of shape (B, L), start token first."""
    segment = keys_values(network, features)
    config, (batch, length) = network.config, token_ids.shape
    tokens = list(torch.zeros(config.num_decoder_layers, 2, batch, config.num_heads, length, config.d_kv))
    steps = [
        network.decoder(
            torch.as_tensor(token_ids[:, step]).long(), torch.full((batch,), step), tokens, list(segment), step + 1
        )
        for step in range(length)
    ]
    return torch.stack(steps, 1).numpy()


@torch.inference_mode()
def greedy(network: T5, features: Any, max_tokens: int) -> list[list[int]]:
    encoded = network.encoder(torch.as_tensor(features))  # (B, T, D)
    count, frames, _ = encoded.shape
    limits = Limits(count, frames, max_tokens)
    decoder: SlotDecoder[int] = make_decoder(network.decoder, limits, device=CPU, dtype=torch.float32)
    decoder.add_requests(encoded, range(count))
    results: dict[int, list[int]] = {}
    while decoder.active:
        results |= dict(decoder.step())
    return [results[index] for index in range(count)]


@pytest.mark.parametrize(
    ("positions", "encoded"),
    [(Positions.MT3_PYTORCH, "enc"), (Positions.MAGENTA, "magenta_g1/enc")],
)
def test_encoder_of_a_tiny_network(positions, encoded):
    with torch.inference_mode():
        ours = tiny(positions).encoder(torch.from_numpy(TINY["features"])).numpy()
    np.testing.assert_allclose(ours, TINY[encoded], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("positions", "group"), [(Positions.MT3_PYTORCH, "base_g1"), (Positions.MAGENTA, "magenta_g1")]
)
def test_logits_and_tokens_of_a_tiny_network(positions, group):
    network = tiny(positions)
    tokens = TINY[f"{group}/tokens"]
    if group == "base_g1":  # stored with the start token
        tokens = tokens[:, 1:]
    fed = np.concatenate([np.zeros((3, 1), int), tokens[:, :5]], 1)
    np.testing.assert_allclose(
        logits_of_steps(network, TINY["features"], fed), TINY[f"{group}/logits"], rtol=0, atol=1e-4
    )
    assert greedy(network, TINY["features"], 24) == tokens.tolist()


def official(positions: Positions) -> tuple[T5, bool]:
    """The network with the weights at hand, and whether these were rounded to float16."""
    weights = read_weights(WEIGHTS)
    rounded = all(weight.dtype == torch.float16 for weight in weights.values())
    return build(replace(read_config(WEIGHTS), positions=positions), weights), rounded


@with_weights
def test_encoder_and_logits_with_the_published_weights():
    network, rounded = official(Positions.MAGENTA)
    reference = np.load(DATA / "official_model_fp16.npz") if rounded else OFFICIAL
    features = np.load(DATA / "frontend.npz")["logmel_seg0"][None]
    with torch.inference_mode():
        encoded = network.encoder(torch.from_numpy(features))[0].numpy()
    np.testing.assert_allclose(encoded, reference["enc_seg0"], rtol=0, atol=1e-4)
    fed = np.concatenate([[0], OFFICIAL["tokens"][0, :7]])[None]
    ours = logits_of_steps(network, features, fed)[0]
    np.testing.assert_allclose(ours, reference["logits_seg0_steps"], rtol=0, atol=1e-3)


@with_weights
@pytest.mark.parametrize(
    ("positions", "reference"),
    [(Positions.MAGENTA, "tokens"), (Positions.MT3_PYTORCH, "tokens_mt3pytorch_pos")],
)
def test_greedy_tokens_of_ten_seconds_of_bach(positions, reference):
    model = load(WEIGHTS, device="cpu", dtype="float32", positions=positions)
    samples = np.load(DATA / "audio_bach10s.npz")["samples_i16"] / np.float32(32768)
    ours = list(model.tokens([samples]))
    theirs = [row[: row.tolist().index(1) + 1].tolist() for row in OFFICIAL[reference]]
    assert ours == theirs


@with_weights
def test_bach_is_as_right_as_the_authors_made_it():
    reference = [
        note
        for instrument in pretty_midi.PrettyMIDI(str(ROOT / "tests" / "data" / "bach_piano.mid")).instruments
        for note in instrument.notes
    ]
    transcription = transcribe(
        ROOT / "tests" / "data" / "bach_piano.flac",
        model="mt3_pytorch",
        device="cpu",
        dtype="float32",
        checkpoint_path=WEIGHTS,
    )
    intervals = np.array([[note.start, note.end] for note in reference])
    pitches = mir_eval.util.midi_to_hz(np.array([note.pitch for note in reference]))
    ours = [note for note in transcription.notes if not note.is_drum]
    our_intervals = np.array([[note.onset, note.offset] for note in ours])
    our_pitches = mir_eval.util.midi_to_hz(np.array([note.pitch for note in ours]))
    f1 = {
        ratio: mir_eval.transcription.precision_recall_f1_overlap(
            intervals, pitches, our_intervals, our_pitches, offset_ratio=ratio
        )[2]
        for ratio in (None, 0.2)
    }
    assert f1[None] >= 0.93
    assert f1[0.2] >= 0.87
