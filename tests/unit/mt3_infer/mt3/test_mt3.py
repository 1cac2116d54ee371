"""Options, devices and the way from blocks to notes, on a network with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mt3_infer import InvalidOptionError, Model, Progress, load_model
from mt3_infer.audio.segments import split_segments
from mt3_infer.models import MODELS, MT3Options
from mt3_infer.models.mt3.config import GRID
from mt3_infer.models.mt3.network import MT3, load, real_frames
from mt3_infer.models.mt3.notes import start_step
from mt3_infer.models.t5 import T5Config
from mt3_infer.symbolic.instruments import Instrument, select
from mt3_infer.symbolic.vocabulary import MT3_CODEC, EventType
from tests.unit.mt3_infer.published import mt3_shapes

CONFIG = T5Config(
    d_kv=8, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, d_model=512, n_features=512
)
WAVEFORM = np.random.default_rng(1).uniform(-0.5, 0.5, 3 * 32_768 + 5_000).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A directory with random weights, as small as the front end allows."""
    directory = tmp_path_factory.mktemp("mt3")
    generator = torch.Generator().manual_seed(4)
    weights = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in mt3_shapes(CONFIG).items()}
    weights["lm_head.weight"][1] += 0.05  # sequences end at times
    save_file(weights, directory / "mt3.safetensors")
    sizes = {
        "d_model": CONFIG.d_model,
        "d_kv": CONFIG.d_kv,
        "d_ff": CONFIG.d_ff,
        "num_heads": CONFIG.num_heads,
        "num_layers": CONFIG.num_encoder_layers,
        "num_decoder_layers": CONFIG.num_decoder_layers,
        "vocab_size": CONFIG.vocabulary_size,
        "layer_norm_epsilon": CONFIG.epsilon,
    }
    (directory / "config.json").write_text(json.dumps(sizes))
    return directory


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> MT3:
    return load(checkpoint, device="cpu", batch_size=3)


def whole(model: MT3) -> Model:
    return Model(MODELS["mt3_pytorch"], model, "ab" * 32, "Apache-2.0")


def test_progress_counts_the_seconds_and_what_it_raises_ends_the_run(model):
    seen: list[float] = []

    def stop_after_two(progress: Progress) -> None:
        seen.append(progress.seconds_done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        whole(model).transcribe(WAVEFORM, 16_000, progress=stop_after_two)
    assert seen == [2.048, 4.096]


def test_every_segment_yields_tokens_and_invalid_ones_are_counted(model):
    counters = whole(model).transcribe(WAVEFORM, 16_000).provenance.counters
    assert len(list(model.tokens([WAVEFORM]))) == 4
    assert set(counters) == {"invalid_tokens", "dropped_tokens", "unfinished_segments"}
    assert sum(counters.values()) > 0


def test_segments_start_on_the_grid_of_10_ms_rounded_down():
    assert GRID.seconds == 2.048
    assert [start_step(index) for index in range(8)] == [0, 204, 409, 614, 819, 1024, 1228, 1433]
    assert start_step(15) == 3072


def test_frames_of_the_last_segment_end_with_the_recording():
    def frames(samples: int) -> list[int]:
        return [real_frames(segment) for segment in split_segments([np.ones(samples, np.float32)], GRID)]

    assert [frames(samples) for samples in (0, 1, 127, 128)] == [[1], [1], [1], [2]]
    assert [frames(32_768 + more) for more in (-1, 0, 1)] == [[256], [256, 1], [256, 1]]
    assert frames(2 * 32_768 + 1_000) == [256, 256, 8]


@pytest.mark.parametrize("instruments", [["bass"], ["piano", "drums"], ["drums"], ["violin", "voice"]])
def test_forbidden_instruments_never_occur(model, instruments):
    options = MT3Options(instruments=instruments)
    selection = select(instruments)
    for token_ids in model.tokens([WAVEFORM], options):
        for event in map(MT3_CODEC.decode, token_ids):
            if event is None:
                continue
            if event.type is EventType.PROGRAM:
                assert event.value in selection.family_programs
            assert (event.type is EventType.DRUM) <= ("drums" in instruments)
            assert (event.type is EventType.PITCH) <= bool(selection.programs)
    notes = whole(model).transcribe(WAVEFORM, 16_000, instruments=instruments).notes
    assert {note.program for note in notes if not note.is_drum} <= set(selection.programs)


def test_instruments_come_as_a_list_or_as_one_text():
    def instruments(value: Any) -> Any:
        return MODELS["mt3_pytorch"].check_options({"instruments": value}).model_dump()["instruments"]

    assert (
        instruments(["piano", "electric bass"])
        == instruments("piano, electric bass")
        == ("piano", "electric bass")
    )
    with pytest.raises(
        InvalidOptionError, match=r"Option instruments\.1 of mt3_pytorch: 'kazoo' is not an instrument"
    ):
        instruments(["piano", "kazoo"])


def test_instruments_and_a_single_instrument_exclude_each_other():
    with pytest.raises(InvalidOptionError, match="either instruments or single_instrument"):
        MODELS["mt3_pytorch"].check_options({"instruments": "piano", "single_instrument": "violin"})


def test_schema_names_the_families_and_refers_to_nothing_else():
    schema = MT3Options.model_json_schema()["properties"]["instruments"]
    assert schema["items"]["anyOf"][0]["enum"] == [instrument.value for instrument in Instrument]
    assert "$ref" not in json.dumps(schema)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"device": "mps"}, "runs on 'cpu' or 'cuda'"),
        ({"dtype": "int3"}, "no dtype 'int3'"),
        ({"dtype": "float16", "device": "cpu"}, "no dtype 'float16' on cpu"),
        ({"batch_size": 0}, "must be at least 1"),
    ],
)
def test_impossible_ways_to_run_are_refused(checkpoint, options, message):
    with pytest.raises(InvalidOptionError, match=message):
        load_model("mt3_pytorch", checkpoint_path=checkpoint, **options)


def test_model_without_dtype_option_refuses_it(tmp_path):
    (tmp_path / "nmp.onnx").touch()
    with pytest.raises(InvalidOptionError, match="basic_pitch takes no option 'dtype'"):
        load_model("basic_pitch", checkpoint_path=tmp_path, dtype="bfloat16")


def test_bfloat16_runs_on_a_cpu(checkpoint):
    model = load(checkpoint, device="cpu", dtype="bfloat16")
    assert len(list(model.tokens([WAVEFORM]))) == 4
