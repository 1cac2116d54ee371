"""YourMT3 on small networks with random weights: batches, callers, files of other networks, the way to notes."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mt3_infer import InvalidOptionError, load_model, transcribe
from mt3_infer.audio.segments import split_segments
from mt3_infer.errors import WeightsError
from mt3_infer.inference.decoding import MultiChannelDecoder, SlotDecoder, make_decoder
from mt3_infer.inference.engine import Request
from mt3_infer.inference.kv_cache import Limits
from mt3_infer.models import MODELS, YourMT3Options
from mt3_infer.models.t5 import T5Config
from mt3_infer.models.yourmt3 import network as yourmt3
from mt3_infer.models.yourmt3.config import GRID, MOE, MULTI, PLUS, SINGLE, YourMT3Config
from mt3_infer.models.yourmt3.network import YourMT3, build
from mt3_infer.models.yourmt3.perceiver import Mixture, PerceiverConfig
from mt3_infer.symbolic.results import pack, unpack
from mt3_infer.symbolic.vocabulary import END
from mt3_infer.weights.yourmt3 import has_layer_norm
from tests.parity.seeded_yourmt3 import seeded
from tests.unit.mt3_infer.published import mt3_shapes, yourmt3_shapes

CPU = torch.device("cpu")
WAVEFORM = np.random.default_rng(1).uniform(-0.5, 0.5, 4 * 32_767 + 5_000).astype(np.float32)
SMALL_T5 = replace(MOE.t5, d_model=32, d_kv=8, d_ff=48, num_heads=3, num_encoder_layers=1, num_decoder_layers=2)


def small(config: YourMT3Config) -> YourMT3Config:
    """The same kind of network, as small as its front end allows."""
    if config.perceiver is None:
        t5 = replace(SMALL_T5, d_model=512)
        return replace(config, t5=t5, max_tokens=24)
    perceiver = replace(
        config.perceiver, channels=4, width=32, num_heads=2, d_expert=16, num_blocks=1, num_layers=1
    )
    return replace(config, perceiver=perceiver, t5=SMALL_T5, max_tokens=24)


CONFIGS = {"yourmt3": MOE, "yourmt3_multi_ps": MULTI, "yourmt3_single": SINGLE, "yourmt3_plus": PLUS}
FUNCTIONS = {"yourmt3": "load_moe", "yourmt3_multi_ps": "load_multi"}
FUNCTIONS |= {"yourmt3_single": "load_single", "yourmt3_plus": "load_plus"}


def weights_of(config: YourMT3Config, *, layer_norm: bool = True) -> dict[str, torch.Tensor]:
    weights = {name: seeded(name, s) for name, s in yourmt3_shapes(config, layer_norm=layer_norm).items()}
    weights["lm_head.lm_head.weight"][END] *= 3.0  # sequences end at times
    return weights


def model_of(config: YourMT3Config, *, batch_size: int = 2) -> YourMT3:
    network = build(weights_of(config), config)
    return YourMT3(network, device=CPU, compute_dtype=torch.float32, batch_size=batch_size)


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def small_moe() -> YourMT3:
    return model_of(small(MOE))


@pytest.fixture(scope="module")
def alone() -> list[list[list[int]]]:
    return list(model_of(small(MOE), batch_size=1).tokens([WAVEFORM]))


# --- Batches ----------------------------------------------------------------------------------------------------


def test_sequences_are_of_many_lengths(alone):
    assert len(alone) == 5
    assert all(len(channels) == 13 for channels in alone)
    assert len({len(tokens) for channels in alone for tokens in channels}) > 3


@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_number_of_segments_at_once_does_not_matter(alone, batch_size):
    assert list(model_of(small(MOE), batch_size=batch_size).tokens([WAVEFORM])) == alone


def test_recordings_that_share_the_network_get_the_tokens_that_they_get_alone(small_moe, alone):
    with ThreadPoolExecutor(3) as threads:
        for tokens in threads.map(lambda _: list(small_moe.tokens([WAVEFORM])), range(3)):
            assert tokens == alone


def test_blocks_of_steps_give_the_same_tokens(alone):
    config = small(MOE)
    model = model_of(config)
    limits = Limits(slots=26, frames=110, max_tokens=config.max_tokens, first_end=1)
    decoder: SlotDecoder[tuple[int, int]] = make_decoder(
        model.network.decoder, limits, device=CPU, dtype=torch.float32, in_blocks=True
    )
    slots = MultiChannelDecoder(model.encode, decoder, channels=13)
    segments: list[Any] = [Request(segment) for segment in split_segments([WAVEFORM], GRID)]
    slots.add_requests(segments[:2], [0, 1])
    tokens: dict[Any, Any] = {}
    while slots.active:
        tokens |= dict(slots.step())
    assert [tokens[0], tokens[1]] == alone[:2]


def test_segment_that_is_given_up_leaves_the_others_alone(alone):
    model = model_of(small(MOE))
    slots: Any = model.slots
    segments: list[Any] = [Request(segment) for segment in split_segments([WAVEFORM], GRID)]
    slots.add_requests(segments[:2], ["first", "second"])
    slots.step()
    assert slots.abort(lambda request_id: request_id == "first") == ["first"]
    assert slots.active == 1
    done: list[Any] = []
    while slots.active:
        done += slots.step()
    assert done == [("second", alone[1])]
    assert slots.free == slots.slots == 2


@torch.inference_mode()
def test_experts_are_those_two_that_the_router_likes_best():
    mixture = Mixture(PerceiverConfig(width=16, d_expert=24))
    for number, parameter in enumerate(mixture.parameters()):
        parameter.copy_(seeded(f"{number}.weight", tuple(parameter.shape)))
    tokens = seeded("tokens.weight", (40, 16))
    expected = []
    for token in tokens:
        share = (mixture.router @ token).softmax(0)
        best = share.argsort(descending=True)[:2].tolist()
        parts = [share[e] * mixture.experts[e](token[None])[0] for e in best]
        expected.append((parts[0] + parts[1]) / share[best].sum())
    torch.testing.assert_close(mixture(tokens), torch.stack(expected), rtol=0, atol=1e-5)
    one_by_one = torch.cat([mixture(token[None]) for token in tokens])
    torch.testing.assert_close(mixture(tokens.view(5, 8, 16)).view(40, 16), one_by_one, rtol=0, atol=1e-6)


# --- Files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the table load small networks."""
    for row, function in FUNCTIONS.items():
        config = small(CONFIGS[row])
        monkeypatch.setattr(
            yourmt3, function, lambda path, config=config, **options: yourmt3._load(path, config, **options)
        )


def lightning(path: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint as the authors' trainer writes it, with classes that are nowhere when it is read."""
    module = ModuleType("utils.task_manager")
    exec("class TaskManager:\n    def __init__(self): self.vocabulary = {'a': 1}", module.__dict__)
    module.TaskManager.__module__ = "utils.task_manager"
    content = {
        "epoch": 3,
        "state_dict": weights,
        "optimizer_states": [
            {"state": {0: {"step": 1, "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.1}]}
        ],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "task_manager": module.TaskManager(),
            "eval_vocab": [np.arange(3)],
            "optimizer": None,
        },
    }
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "utils", ModuleType("utils"))
        patched.setitem(sys.modules, "utils.task_manager", module)
        torch.save(content, path)
    return path


@pytest.mark.usefixtures("small_table")
def test_published_file_and_safetensors_give_notes(tmp_path, monkeypatch, name):
    config = small(CONFIGS[name])
    weights = weights_of(config)
    save_file(weights, tmp_path / "model.safetensors")
    weights["pitchshift.pshifters.-2.kernel"] = torch.zeros(4, 1, 3)
    lightning(tmp_path / "last.ckpt", weights, monkeypatch)
    results = [
        transcribe(WAVEFORM, 16_000, model=name, device="cpu", checkpoint_path=tmp_path / file, batch_size=2)
        for file in ("model.safetensors", "last.ckpt")
    ]
    assert results[0].notes == results[1].notes
    assert set(results[0].provenance.counters) == {"invalid_tokens", "unmatched_offsets", "unfinished_sequences"}
    assert results[0].to_midi().startswith(b"MThd")
    assert results[0].duration == pytest.approx(len(WAVEFORM) / 16_000)


@pytest.mark.parametrize("given", CONFIGS)
def test_weights_of_another_network_are_named(name, given):
    if given == name:
        return
    weights = weights_of(small(CONFIGS[given]))
    with pytest.raises(WeightsError) as caught:
        build(weights, small(CONFIGS[name]))
    assert str(caught.value) == (
        f"These are weights of {CONFIGS[given].title}, not of {CONFIGS[name].title}: "
        f'load them with model="{given}".'
    )


@pytest.mark.parametrize(
    ("extra", "title", "row"), [([], "MT3", "mt3_pytorch"), (["segmem_proj.weight"], "MR-MT3", "mr_mt3")]
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_weights_of_mt3_are_named(extra, title, row, prefix):
    weights = {f"{prefix}{key}": torch.zeros(1) for key in [*mt3_shapes(T5Config()), *extra]}
    with pytest.raises(WeightsError) as caught:
        build(weights, MOE)
    assert str(caught.value) == (
        f'These are weights of {title}, not of YPTF.MoE+Multi: load them with model="{row}".'
    )


def test_missing_and_unknown_parameters_are_named():
    config = small(MOE)
    weights = weights_of(config)
    del weights["embed_tokens.weight"]
    with pytest.raises(WeightsError, match=r"YPTF\.MoE\+Multi: missing embed_tokens\.weight\.$"):
        build(weights, config)
    weights = weights_of(config) | {"pre_encoder.0.extra": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"YPTF\.MoE\+Multi: unknown pre_encoder\.0\.extra\.$"):
        build(weights, config)


def test_other_positions_are_noticed():
    config = small(MOE)
    weights = weights_of(config) | {"encoder.rotary_emb_sca.freqs": torch.tensor([1.0, 2.0])}
    with pytest.raises(WeightsError) as caught:
        build(weights, config)
    assert str(caught.value) == (
        "These weights were trained with other positions than YPTF.MoE+Multi: encoder.rotary_emb_sca.freqs."
    )


@pytest.mark.usefixtures("small_table")
def test_kind_of_norm_is_read_from_the_file(tmp_path):
    config = small(MOE)
    counts = {}
    for layer_norm in (True, False):
        weights = weights_of(config, layer_norm=layer_norm)
        assert has_layer_norm(weights) == layer_norm
        counts[layer_norm] = len(weights)
        save_file(weights, tmp_path / "model.safetensors")
        network: Any = load_model("yourmt3", checkpoint_path=tmp_path, device="cpu").network
        assert network.config.perceiver.layer_norm == layer_norm
        assert len(list(network.tokens([WAVEFORM[:40_000]]))) == 2
    assert counts[True] - counts[False] == 6  # the biases of one block's norms with one layer of each kind


def test_directory_without_weights_and_a_pointer(tmp_path):
    with pytest.raises(WeightsError, match="it holds none"):
        yourmt3.load_moe(tmp_path)
    (tmp_path / "last.ckpt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match="Git LFS pointer"):
        yourmt3.load_moe(tmp_path)


# --- Options and results ----------------------------------------------------------------------------------------


def test_options_are_refused():
    with pytest.raises(InvalidOptionError, match="takes no option 'instruments'; it takes: single_instrument"):
        MODELS["yourmt3"].check_options({"instruments": ["piano"]})


def test_results_of_shards_are_collected_as_of_one_run(small_moe, alone):
    options = YourMT3Options()
    whole, shards = small_moe.collect(options), small_moe.collect(options)
    for result in alone:
        whole.feed(result)
    for part in (alone[:2], alone[2:]):
        for result in unpack(pack(part)):
            shards.feed(result)
    assert shards.finish(len(WAVEFORM)) == whole.finish(len(WAVEFORM))


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (32_767, 1), (32_768, 2), (65_534, 2), (65_535, 3)])
def test_segments_are_as_many_as_the_authors_cut(samples, count):
    assert GRID.count(samples) == count


def test_bfloat16_runs_on_a_cpu():
    config = small(MOE)
    network = build(weights_of(config), config)
    model = YourMT3(network, device=CPU, compute_dtype=torch.bfloat16, batch_size=1)
    assert len(list(model.tokens([WAVEFORM[:40_000]]))) == 2


@pytest.mark.gpu
def test_cuda_yields_the_tokens_of_a_cpu(alone):
    config = small(MOE)
    network = build(weights_of(config), config)
    model = YourMT3(network, device=torch.device("cuda"), compute_dtype=torch.float32, batch_size=4)
    assert list(model.tokens([WAVEFORM])) == alone
