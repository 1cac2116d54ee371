"""Recordings go in order, together as alone; published files find a training setup; wrong ones are refused."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mt3_infer import CheckpointNotFoundError, InvalidOptionError, load_model
from mt3_infer.audio.segments import Segment, SegmentGrid
from mt3_infer.errors import WeightsError
from mt3_infer.models import MT3Options
from mt3_infer.models.mr_mt3.network import MRMT3
from mt3_infer.models.mt3 import config as known
from mt3_infer.models.mt3 import network as mt3
from mt3_infer.models.mt3.config import FrontEnd, MemoryStart, TrainingSetup, training_setup_of
from mt3_infer.models.t5 import Positions, T5Config
from mt3_infer.symbolic.instruments import Instrument
from mt3_infer.symbolic.results import pack, unpack
from mt3_infer.symbolic.vocabulary import END
from mt3_infer.weights.files import read_weights
from tests.unit.mt3_infer.published import mt3_shapes, mt3_weights

CPU = torch.device("cpu")
FRAMES, KINDS, ROWS = 8, 6, 4
FEATURES = torch.randn(KINDS, FRAMES, 12, generator=torch.Generator().manual_seed(2))
CONFIG = T5Config(
    n_features=12,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_heads=3,
    num_encoder_layers=1,
    num_decoder_layers=1,
    max_length=24,
    positions=Positions.MT3_PYTORCH,
)


def random_weights(config: T5Config, *, memory: bool = True, end: float = 3.0) -> dict[str, torch.Tensor]:
    """Under the published names; the larger `end`, the sooner sequences end."""
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.empty(shape).normal_(0.0, 1.0 if len(shape) == 1 else 0.3, generator=generator)
        for name, shape in mt3_shapes(config, memory=memory).items()
    }
    weights["decoder_embed_tokens.weight"] *= 10
    weights["lm_head.weight"][END] *= end
    return weights


class TinyMRMT3(MRMT3):
    """Takes fixed features, selected by the first sample of the segment."""

    def features(self, segments: Sequence[Segment]) -> torch.Tensor:
        return FEATURES[[int(segment.waveform[0]) for segment in segments]]


def recording(kinds: Sequence[int], first: int = 0) -> Iterator[Segment]:
    for index, kind in enumerate(kinds, start=first):
        yield Segment(index, np.full(1, kind, np.float32), 1)


@pytest.fixture(scope="module")
def new() -> Callable[..., TinyMRMT3]:
    length = FRAMES * known.HOP_LENGTH
    weights = random_weights(CONFIG)

    def make(slots: int = 4, ahead: int = 1) -> TinyMRMT3:
        setup = TrainingSetup(positions=CONFIG.positions, memory_rows=ROWS)
        network = TinyMRMT3.build(weights, CONFIG, setup)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(mt3, "GRID", SegmentGrid(16_000, hop=length, length=length, tail=1))
            made = TinyMRMT3(network, setup, device=CPU, compute_dtype=torch.float32, batch_size=slots)
        made._ahead = ahead
        return made

    return make


@pytest.fixture(scope="module")
def alone(new):
    """A recording's tokens when nothing else runs."""
    network = new(slots=1)

    @cache
    def tokens(kinds: tuple[int, ...], options: MT3Options = OPTIONS[0]) -> list[list[int]]:
        return list(network.infer(recording(kinds), options))

    return tokens


OPTIONS = (MT3Options(), MT3Options(instruments=(Instrument.PIANO, Instrument.DRUMS)))

recordings = st.lists(
    st.tuples(st.lists(st.integers(0, KINDS - 1), max_size=5).map(tuple), st.sampled_from(OPTIONS)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=20, deadline=None)
@given(callers=recordings, slots=st.integers(1, 5), ahead=st.sampled_from([1, 3]))
def test_any_mix_of_recordings_yields_the_tokens_of_each_alone(new, alone, callers, slots, ahead):
    network = new(slots, ahead)

    def run(caller: tuple[tuple[int, ...], MT3Options]) -> list[list[int]]:
        kinds, options = caller
        return list(network.infer(recording(kinds), options))

    with ThreadPoolExecutor(len(callers)) as threads:
        results = list(threads.map(run, callers))
    assert results == [alone(kinds, options) for kinds, options in callers]


def test_previous_tokens_change_the_output(alone):
    first, second = alone((0, 1)), alone((2, 1))
    assert first[0] != second[0]
    assert first[1] != second[1]
    lengths = {len(tokens) for kinds in ((0, 1, 2), (3, 4, 5)) for tokens in alone(kinds)}
    assert len(lengths) > 2, "the sequences should be of several lengths"


@pytest.mark.parametrize("ahead", [1, 3])
def test_reading_goes_on_where_it_stopped(new, alone, ahead):
    kinds = (0, 3, 1, 5, 2, 4)
    whole = alone(kinds)
    network = new(ahead=ahead)
    for stop in range(1, len(kinds)):
        (before,) = unpack(pack([whole[stop - 1]]))
        rest = network.infer(recording(kinds[stop:], first=stop), OPTIONS[0], previous=before)
        assert list(rest) == whole[stop:]


def test_a_recording_that_is_given_up_leaves_the_others_alone(new, alone):
    network = new(slots=2)
    given_up = network.infer(recording([i % KINDS for i in range(1000)]), OPTIONS[0])
    next(given_up)
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(lambda: list(network.infer(recording((2, 0, 1, 4)), OPTIONS[0])))
        given_up.close()
        assert other.result(timeout=60) == alone((2, 0, 1, 4))


def test_an_error_ends_its_recording_and_no_other(new, alone, monkeypatch):
    network = new(slots=4)
    features = network.features
    seen: list[int] = []

    def picky(segments: Sequence[Segment]) -> torch.Tensor:
        seen.extend(segment.index for segment in segments if segment.waveform[0] < 0)
        if any(segment.waveform[0] == -2 for segment in segments):
            raise RuntimeError("not a number")
        computed: torch.Tensor = features([Segment(s.index, np.abs(s.waveform), 1) for s in segments])
        return computed

    monkeypatch.setattr(network, "features", picky)
    with ThreadPoolExecutor(2) as threads:
        good = threads.submit(lambda: list(network.infer(recording((2, 0, 1, 4)), OPTIONS[0])))
        bad = network.infer(recording((-1, -2, -1, -1)), OPTIONS[0])
        assert next(bad) == alone((1,))[0]
        with pytest.raises(RuntimeError, match="not a number"):
            next(bad)
        assert good.result(timeout=60) == alone((2, 0, 1, 4))
    assert seen == [0, 1], "nothing is read after what failed"


def test_engine_never_works_on_two_segments_of_a_recording_at_once(new):
    network = new(slots=4)
    encode = network._engine._network._encode
    under_way: list[int] = []
    lock = threading.Lock()

    def watched(segments: Sequence[Segment]) -> torch.Tensor:
        with lock:
            under_way.append(network.decoder.active + len(segments))
        encoded: torch.Tensor = encode(segments)
        return encoded

    network._engine._network._encode = watched
    assert len(list(network.infer(recording([0, 1, 2, 3, 4, 5]), OPTIONS[0]))) == 6
    assert under_way == [1] * 6


# --- Checkpoints
# -------------------------------------------------------------------------------------------------

TINY_SIZES = {
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_heads": 2,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "vocab_size": 40,
    "layer_norm_epsilon": 1e-6,
}
TINY = T5Config(n_features=16, d_model=16, d_kv=4, d_ff=24, num_heads=2, vocabulary_size=40)


class Junk:
    """Of a class that nobody else has; runs code when it is unpickled by a plain pickle."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('code was run')",)


def published(*, memory: bool = True) -> dict[str, torch.Tensor]:
    """A whole state dict: parameters, copies and buffers."""
    weights = random_weights(TINY, memory=memory)
    weights["encoder.embed_tokens.weight"] = weights["proj.weight"]
    weights["decoder.embed_tokens.weight"] = weights["decoder_embed_tokens.weight"]
    weights |= {f"{stack}.pos_emb.inv_freq": torch.ones(8) for stack in ("encoder", "decoder")}
    if memory:
        weights["segmem_encoder.embed_tokens.weight"] = weights["segmem_proj.weight"]
        weights["segmem_encoder.pos_emb.inv_freq"] = torch.ones(8)
    return weights


def write(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    path.parent.mkdir(exist_ok=True)
    (path.parent / "config.json").write_text(json.dumps(TINY_SIZES))
    if path.suffix == ".safetensors":
        save_file({name: weight.clone() for name, weight in weights.items()}, path)
    elif path.suffix == ".ckpt":
        lightning = {
            "epoch": 399,
            "state_dict": {f"model.{name}": weight for name, weight in weights.items()},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
            "callbacks": {"ModelCheckpoint": Junk()},
        }
        torch.save(lightning, path)
    else:
        torch.save(weights, path)
    return path


def test_there_are_as_many_parameters_as_published():
    assert len(published()) == 206
    shapes = mt3_shapes(T5Config(), memory=True)
    assert len(shapes) == 200
    assert sum(map(math.prod, shapes.values())) == 48_519_680


@pytest.mark.parametrize(
    ("suffix", "as_directory"),
    [(".ckpt", False), (".ckpt", True), (".pth", True), (".pt", False), (".safetensors", True)],
)
def test_every_container_loads_the_same_network(tmp_path, suffix, as_directory):
    path = write(tmp_path / f"exp_segmemV2_prev_context=32{suffix}", published())
    model = load_model("mr_mt3", checkpoint_path=tmp_path if as_directory else path, device="cpu", batch_size=1)
    network = model.network
    assert isinstance(network, MRMT3)
    assert network.setup == TrainingSetup(
        FrontEnd.TORCH_LEGACY, min_max=True, positions=Positions.MT3_PYTORCH, memory_rows=32
    )
    assert network.in_order
    loaded = read_weights(path)
    assert loaded.keys() == published().keys()
    expected = MRMT3.build(published(), TINY, network.setup).state_dict()
    found = MRMT3.build(loaded, TINY, network.setup).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    memory = torch.cat(
        [published()[f"segmem_encoder.block.0.layer.0.SelfAttention.{part}.weight"] for part in "qkv"]
    )
    assert torch.equal(found["memory.layer.query_key_value.weight"], memory)


LEGACY = TrainingSetup(FrontEnd.TORCH_LEGACY, min_max=True, positions=Positions.MT3_PYTORCH)
FROM_MT3 = TrainingSetup(FrontEnd.TF, min_max=True, positions=Positions.MT3_PYTORCH)


@pytest.mark.parametrize(
    ("stem", "front_end", "rows"),
    [
        ("exp_segmemV2_prev_context=0", "torch_legacy", 0),
        ("exp_segmemV2_prev_context=32", "torch_legacy", 32),
        ("exp_segmemV2_prev_context=64", "torch_legacy", 64),
        ("exp_segmemV2_prev_context=64_prevaug_frame=3", "torch_legacy", 64),
        ("exp_segmemV2_prev_context=64_prevaug_frame=8", "torch_legacy", 64),
        ("exp_segmemV2_prev_context=0_MT3_1e-5_ep100_norandom", "tf", 0),
        ("exp_segmemV2_prev_context=0_MT3_1e-5_ep100_random", "tf", 0),
        ("exp_segmemV2_prev_context=64_prevaug_frame=3_MT3_1e-5_ep100_random", "tf", 64),
        ("mr_mt3", "torch_legacy", 64),
    ],
)
def test_published_memory_networks_are_known_by_name(stem, front_end, rows, caplog):
    found = training_setup_of(stem, known.MR_MT3, {})
    assert (found.front_end, found.memory_rows) == (front_end, rows)
    assert (found.min_max, found.positions) == (True, "mt3_pytorch")
    assert found.memory_start is MemoryStart.WITH_PREV
    assert not caplog.messages


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("mt3", TrainingSetup(FrontEnd.TF, min_max=False, positions=Positions.MAGENTA)),
        ("anything", TrainingSetup(FrontEnd.TF, min_max=False, positions=Positions.MAGENTA)),
        ("slakh_f1_0.65", LEGACY),
        ("commu_mt3", FROM_MT3),
        ("exp_segmemV2_prev_context=64", LEGACY),
    ],
)
def test_published_networks_without_a_memory_are_known_by_name(stem, expected):
    assert training_setup_of(stem, known.MT3, {}) == expected


def test_unknown_number_of_memory_rows_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        assert training_setup_of("checkpoint", known.MR_MT3, {}).memory_rows == 64
        assert caplog.messages == [
            "the name checkpoint does not state the number of memory rows: 64 is assumed; "
            "set memory_rows=… if it differs"
        ]
        assert training_setup_of("checkpoint", known.MR_MT3, {"memory_rows": 16}).memory_rows == 16
        assert len(caplog.messages) == 1


def test_training_setups_can_be_given_when_it_is_loaded(tmp_path):
    path = write(tmp_path / "mr_mt3.pth", published())
    network = load_model(
        "mr_mt3",
        checkpoint_path=path,
        device="cpu",
        front_end="torch_current",
        min_max=False,
        positions="magenta",
        memory_rows=7,
        memory_start="v2",
    ).network
    assert isinstance(network, MRMT3)
    assert network.setup == TrainingSetup(FrontEnd.TORCH_CURRENT, False, Positions.MAGENTA, 7, MemoryStart.V2)
    assert network.network.config.positions is Positions.MAGENTA


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"front_end": "jax"}, "There is no front_end 'jax'; choose one of: tf, torch_legacy, torch_current."),
        ({"positions": "256"}, "There is no positions '256'; choose one of: magenta, mt3_pytorch."),
        ({"memory_start": "v3"}, "There is no memory_start 'v3'; choose one of: with_prev, v2."),
        ({"memory_rows": 1025}, "memory_rows is 1025, but must be a number from 0 to 1024."),
        ({"memory_rows": True}, "memory_rows is True, but must be a number from 0 to 1024."),
        ({"min_max": "yes"}, "min_max is 'yes', but must be True or False."),
        ({"depth": 2}, "mr_mt3 takes no option 'depth' when it is loaded: leave it out."),
    ],
)
def test_training_setups_that_do_not_exist_are_refused(tmp_path, given, message):
    path = write(tmp_path / "mr_mt3.pth", published())
    with pytest.raises(InvalidOptionError) as caught:
        load_model("mr_mt3", checkpoint_path=path, device="cpu", **given)
    assert str(caught.value) == message


def test_mt3_has_no_memory_to_be_told_of(tmp_path):
    path = write(tmp_path / "mt3.pth", published(memory=False))
    with pytest.raises(InvalidOptionError) as caught:
        load_model("mt3_pytorch", checkpoint_path=path, memory_rows=8)
    assert str(caught.value) == "mt3_pytorch takes no option 'memory_rows' when it is loaded: leave it out."


@pytest.mark.parametrize(
    ("model", "memory", "message"),
    [
        ("mr_mt3", False, 'These are weights of MT3, which has no memory: load them with model="mt3_pytorch".'),
        ("mt3_pytorch", True, 'These are weights of MR-MT3, which has a memory: load them with model="mr_mt3".'),
    ],
)
@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_weights_of_the_other_network_name_it(tmp_path, model, memory, message, suffix):
    path = write(tmp_path / f"mt3{suffix}", published(memory=memory))
    with pytest.raises(WeightsError) as caught:
        load_model(model, checkpoint_path=path, device="cpu")
    assert str(caught.value) == message


def test_a_parameter_too_few_or_too_many_is_named():
    weights = published()
    del weights["segmem_encoder.final_layer_norm.weight"]
    with pytest.raises(WeightsError, match=r"MR-MT3: missing segmem_encoder\.final_layer_norm\.weight\.$"):
        mt3_weights(weights, TINY, memory=True)
    weights = published() | {"segmem_encoder.block.1.layer.0.layer_norm.weight": torch.ones(16)}
    with pytest.raises(WeightsError, match=r"MR-MT3: unknown segmem_encoder\.block\.1\.layer\.0\."):
        mt3_weights(weights, TINY, memory=True)
    with pytest.raises(WeightsError, match=r"hold segmem_proj\.weight twice"):
        mt3_weights(published() | {"segmem_encoder.embed_tokens.weight": torch.ones(16, 16)}, TINY, memory=True)


def test_without_download_the_error_has_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("MT3_CHECKPOINT_DIR", str(tmp_path))
    for name in ("mr_mt3", "fast"):
        with pytest.raises(CheckpointNotFoundError, match="mt3-infer download mr_mt3"):
            load_model(name, auto_download=False)


@pytest.mark.parametrize("rows", [0, 8])
def test_a_recording_becomes_notes(tmp_path, rows):
    config = T5Config(d_kv=8, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
    sizes = TINY_SIZES | {"d_model": 512, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1}
    sizes["vocab_size"] = 1536
    weights = {name: weight / 10 for name, weight in random_weights(config, end=1.5).items()}
    path = write(tmp_path / f"exp_segmemV2_prev_context={rows}.pth", weights)
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    model = load_model("mr_mt3", checkpoint_path=path, device="cpu", dtype="bfloat16", batch_size=3)
    assert model.network.in_order is (rows > 0)
    waveform = np.random.default_rng(1).uniform(-0.5, 0.5, 2 * 32_768 + 5_000).astype(np.float32)
    done: list[float] = []
    transcription = model.transcribe(waveform, 16_000, progress=lambda p: done.append(p.seconds_done))
    assert done == [2.048, 4.096, len(waveform) / 16_000]
    assert transcription.provenance.model == "mr_mt3"
    assert transcription.provenance.license == "MIT"
    assert sum(transcription.provenance.counters.values()) > 0
