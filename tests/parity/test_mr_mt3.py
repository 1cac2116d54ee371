"""MR-MT3 against its authors' network on tiny random weights; its front ends, computed in another way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from mt3_infer.audio.segments import Segment, SegmentGrid, split_segments
from mt3_infer.audio.spectrogram import LogMel, mel_matrix
from mt3_infer.models import MT3Options
from mt3_infer.models.mr_mt3.network import MRMT3
from mt3_infer.models.mt3 import config as known
from mt3_infer.models.mt3 import network as mt3
from mt3_infer.models.mt3.config import FrontEnd, MemoryStart, TrainingSetup
from mt3_infer.models.t5 import Positions
from mt3_infer.symbolic.vocabulary import END, PAD
from tests.parity.test_mt3_network import CPU, DATA, TINY, TINY_CONFIG

FRAMES = 24
"""Also the most tokens of the tiny network."""

GROUPS = ["prev_L8_g1", "prev_L8_g2", "prev_L0_g1", "v2_L8_g2"]


class TinyMRMT3(MRMT3):
    """Takes stored features, selected by the index of the segment."""

    def features(self, segments: Sequence[Segment]) -> torch.Tensor:
        return torch.from_numpy(TINY["features"][[segment.index for segment in segments]])


def setup_of_group(group: str) -> TrainingSetup:
    return TrainingSetup(
        FrontEnd.TF,
        positions=Positions.MT3_PYTORCH,
        memory_rows=int(group[group.index("_L") + 2]),
        memory_start=MemoryStart.WITH_PREV if group.startswith("prev") else MemoryStart.V2,
    )


@pytest.fixture(params=GROUPS)
def group(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def network(group: str, monkeypatch: pytest.MonkeyPatch) -> TinyMRMT3:
    length = FRAMES * known.HOP_LENGTH
    monkeypatch.setattr(mt3, "GRID", SegmentGrid(16_000, hop=length, length=length, tail=1))
    weights = {name[2:]: torch.from_numpy(TINY[name].copy()) for name in TINY.files if name.startswith("w/")}
    if group.endswith("g2"):
        weights["lm_head.weight"][END] *= 2  # sequences end early
    setup = setup_of_group(group)
    config = replace(TINY_CONFIG, positions=setup.positions)
    return TinyMRMT3(
        TinyMRMT3.build(weights, config, setup), setup, device=CPU, compute_dtype=torch.float32, batch_size=2
    )


def stored_tokens(group: str) -> list[list[int]]:
    """Token ids of each segment, from the start token on; the published code cuts off the last of 24 and pads."""
    tokens: list[list[int]] = TINY[f"{group}/tokens"].tolist()
    return tokens


SEGMENTS = [Segment(index, np.zeros(FRAMES * known.HOP_LENGTH, np.float32), 1) for index in range(3)]


def test_tokens_are_those_of_the_published_network(group, network):
    ours = list(network.infer(SEGMENTS, MT3Options()))
    assert [([PAD, *output] + FRAMES * [PAD])[:FRAMES] for output in ours] == stored_tokens(group)


def test_memory_is_that_of_the_published_network(group, network):
    output = [None, *([row[1:] for row in stored_tokens(group)[:2]])]
    theirs = TINY[f"{group}/memory"]
    if theirs.size:
        np.testing.assert_allclose(network.remember(output).numpy(), theirs, rtol=0, atol=1e-4)
        one_by_one = [network.remember([one])[0].numpy() for one in output]
        np.testing.assert_allclose(one_by_one, theirs, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_logits_are_those_of_the_published_network(group, network):
    encoder = network.network.encoder(network.features(SEGMENTS))
    np.testing.assert_allclose(encoder.numpy(), TINY["enc"], rtol=0, atol=1e-4)
    memory = torch.from_numpy(TINY[f"{group}/memory"])
    decoder, config = network.network.decoder, network.network.config
    segment = decoder.segment_keys_values(torch.cat([encoder, memory], 1))
    tokens = list(torch.zeros(config.num_decoder_layers, 2, 3, config.num_heads, 6, config.d_kv))
    theirs = TINY[f"{group}/logits"]
    rows = torch.tensor(stored_tokens(group))
    for step in range(6):
        ours = decoder(rows[:, step], torch.full((3,), step), tokens, list(segment), step + 1).numpy()
        under_way = theirs[:, step].any(axis=1)
        assert step or under_way.all()
        np.testing.assert_allclose(ours[under_way], theirs[under_way, step], rtol=0, atol=1e-4)


# --- Front ends
# -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def waveforms() -> torch.Tensor:
    samples = np.load(DATA / "audio_bach10s.npz")["samples_i16"] / np.float32(32768)
    return torch.stack([torch.from_numpy(segment.waveform) for segment in split_segments([samples], known.GRID)])


def test_legacy_front_end_is_centered_to_8000_hz(waveforms):
    ours = LogMel(FrontEnd.TORCH_LEGACY.config())(waveforms)
    window = torch.hann_window(2048)
    magnitudes = torch.stft(waveforms, 2048, 128, window=window, pad_mode="reflect", return_complex=True).abs()
    low, high = (2595 * np.log10(1 + edge / 700) for edge in (20, 8000))
    points = 700 * (10 ** (np.linspace(low, high, 514) / 2595) - 1)
    bins = np.arange(1025) * 16_000 / 2048
    triangles = np.stack([np.interp(bins, points[band : band + 3], [0, 1, 0]) for band in range(512)])
    expected = (torch.from_numpy(triangles).float() @ magnitudes + 1e-6).log().mT
    assert ours.shape == (5, 257, 512)
    np.testing.assert_allclose(ours.numpy(), expected.numpy(), rtol=0, atol=5e-3)


def test_current_front_end_is_nearly_that_of_tensorflow(waveforms):
    tf, current = (LogMel(front_end.config())(waveforms) for front_end in (FrontEnd.TF, FrontEnd.TORCH_CURRENT))
    assert 1e-5 < (tf - current)[tf > np.log(1e-5)].abs().mean() < 1e-3
    assert torch.equal(mel_matrix(FrontEnd.TF.config()) > 0, mel_matrix(FrontEnd.TORCH_CURRENT.config()) > 0)


@pytest.mark.parametrize("front_end", FrontEnd)
def test_scaled_features_are_the_logarithms_from_minus_12_to_5(waveforms, front_end):
    plain, scaled = (LogMel(front_end.config(min_max=on))(waveforms) for on in (False, True))
    assert scaled.min() >= 0
    np.testing.assert_allclose(scaled, (plain.clamp(-12, 5) + 12) / 17, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("setup", "frames"), [(known.MT3, 256), (known.MR_MT3, 257)])
def test_frames_beyond_the_recording_are_zero(setup, frames):
    network = MRMT3.__new__(MRMT3)
    network._front_end, network._where = LogMel(setup.spectrogram), CPU
    full, short = (
        Segment(0, np.random.default_rng(1).uniform(-1, 1, 32_768).astype(np.float32), samples)
        for samples in (32_768, 1_000)
    )
    features = network.features([full, short])
    assert features.shape == (2, frames, 512)
    assert features[0, :256].any(dim=1).all()
    assert not features[0, 256:].any()
    assert features[1, :8].any(dim=1).all()
    assert not features[1, 8:].any()
