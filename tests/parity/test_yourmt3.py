"""YourMT3's four networks at their full size, and its token language, against the authors' code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import torch

from mt3_infer.audio.spectrogram import NormalizedSpectrogram
from mt3_infer.models.linear import optimize_for_inference
from mt3_infer.models.t5 import sinusoids
from mt3_infer.models.yourmt3.config import MOE, MULTI, PLUS, SINGLE, T5_SIZES
from mt3_infer.models.yourmt3.network import YourMT3, YourMT3Network, build
from mt3_infer.models.yourmt3.notes import (
    WRITTEN_PROGRAMS,
    ChannelDecoder,
    mix_channels,
    read_segment,
    to_general_midi,
)
from mt3_infer.models.yourmt3.perceiver import rotate, spatial_frequencies, temporal_frequencies
from mt3_infer.symbolic.notes import Note
from mt3_infer.symbolic.vocabulary import PAD, YOURMT3_CODEC
from tests.parity.seeded_yourmt3 import SHAPES, published, seeded

DATA = Path(__file__).parent / "data"
REFERENCE = np.load(DATA / "yourmt3.npz")
TOKENS = json.loads((DATA / "yourmt3_tokens.json").read_text(encoding="utf-8"))
AUDIO = REFERENCE["yptf_moe_multi/audio"]  # two segments
CONFIGS = {"yptf_moe_multi": MOE, "yptf_multi": MULTI, "yptf_single": SINGLE, "ymt3plus": PLUS}
CPU = torch.device("cpu")


class Case:
    """A network with seeded weights, and what it makes of the recording."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.config = CONFIGS[name]
        self.network = build(published(name), self.config)
        self.weights = {name: weight.clone() for name, weight in self.network.state_dict().items()}
        optimize_for_inference(self.network, device=CPU, compute_dtype=torch.float32)
        with torch.inference_mode():
            front_end = NormalizedSpectrogram(self.config.front_end)
            self.features = front_end(torch.from_numpy(AUDIO.reshape(2, -1)))
            kept: list[torch.Tensor] = []
            hook = self.network.encoder.register_forward_hook(lambda *given: kept.append(given[2]))
            # One at a time, as the engine encodes on a CPU.
            self.memory = torch.cat([self.network(features[None]) for features in self.features])
            self.encoded = torch.cat(kept)
            hook.remove()

    def reference(self, array: str) -> Any:
        return REFERENCE[f"{self.name}/{array}"]

    def model(self, *, max_tokens: int, end: torch.Tensor | None = None) -> YourMT3:
        """The network behind the engine, what it encodes already known; `end`: other weights of the end token."""
        network = YourMT3Network(replace(self.config, max_tokens=max_tokens)).eval()
        weights = dict(self.weights)
        if end is not None:
            weights["decoder.logits.weight"] = weights["decoder.logits.weight"].clone()
            weights["decoder.logits.weight"][1] = end
        network.load_state_dict(weights, strict=True)
        model = YourMT3(network, device=CPU, compute_dtype=torch.float32, batch_size=2)
        rows = self.memory.unflatten(0, (2, -1))
        model.slots._encode = lambda segments: rows[[s.index for s in segments]].flatten(0, 1)
        return model


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_seeded_weights_are_those_of_the_reference(case):
    names = sorted(
        name
        for name in SHAPES[case.name]
        if not name.startswith("spectrogram.")
        and not name.endswith((".freqs", "additive_pe.weight", "num_batches_tracked"))
    )
    assert len(names) == len(case.reference("w_sum"))
    for name, total in list(zip(names, case.reference("w_sum"), strict=True))[::7]:
        ours = seeded(name, tuple(SHAPES[case.name][name])).double().sum().item()
        assert ours == pytest.approx(total, abs=1e-4), name


def test_features(case):
    np.testing.assert_allclose(case.features[0, ::8, ::8], case.reference("spec_seg0"), rtol=0, atol=1e-5)


def test_silence_has_no_features(case):
    assert not NormalizedSpectrogram(case.config.front_end)(torch.zeros(1, 32_767)).any()


def test_encoder(case):
    if case.config.perceiver is None:
        np.testing.assert_allclose(case.encoded[0, ::8], case.reference("enc_out_seg0"), rtol=0, atol=5e-4)
        return
    for segment in range(2):
        reference = case.reference(f"enc_out_seg{segment}")
        np.testing.assert_allclose(case.encoded[segment, ::10, :, ::2], reference, rtol=0, atol=5e-4)


def test_convolutions(case):
    if case.config.perceiver is None:
        pytest.skip("it has none")
    with torch.inference_mode():
        ours = case.network.encoder.pre_encoder(case.features[:1])[0].transpose(1, 2)  # (T, F, C)
    reference = case.reference("pre_seg0_slice")
    np.testing.assert_allclose(ours[[0, 5, 50, 109]][:, ::4, ::4], reference, rtol=0, atol=1e-4)


def test_what_the_channels_look_at(case):
    if case.config.perceiver is None:
        pytest.skip("the encoder's output as it is")
    ours = (
        case.memory[[0, 4, 12]][:, [0, 54, 109], ::4] if case.config.channels > 1 else case.memory[0, [0, 54, 109]]
    )
    np.testing.assert_allclose(ours, case.reference("predec_seg0_slice"), rtol=0, atol=5e-4)


@torch.inference_mode()
def test_logits(case):
    reference, tokens = case.reference("logits_first"), case.reference("greedy_tokens")
    if case.config.channels > 1:
        rows, output = case.memory[[0, 4, 12]], tokens[0, [0, 4, 12]]
    else:
        rows, output = case.memory, tokens
    decoder, (count, steps, _) = case.network.decoder, reference.shape
    fed = torch.from_numpy(np.concatenate([np.zeros((count, 1), np.int64), output[:, : steps - 1]], 1))
    config = decoder.config
    kept = list(torch.zeros(config.num_decoder_layers, 2, count, config.num_heads, steps, config.d_kv))
    segment = list(decoder.segment_keys_values(rows))
    for step in range(steps):
        logits = decoder(fed[:, step], torch.full((count,), step), kept, segment, step + 1)
        np.testing.assert_allclose(logits, reference[:, step], rtol=0, atol=5e-4)


def padded(result: list[list[list[int]]], length: int) -> list[list[list[int]]]:
    return [[(output + [PAD] * length)[:length] for output in channels] for channels in result]


def test_greedy_tokens(case):
    reference = case.reference("greedy_tokens").reshape(2, case.config.channels, -1)
    assert padded(list(case.model(max_tokens=48).tokens([AUDIO])), 48) == reference.tolist()


def test_ends(case):
    """A likelier end token: many lengths, and sequences that begin with it, which ends nothing."""
    reference = case.reference("eosA_tokens").reshape(2, case.config.channels, -1)
    longest = 256 if case.config.channels > 1 else 160
    model = case.model(max_tokens=longest, end=6.0 * case.weights["decoder.logits.weight"][1])
    output = list(model.tokens([AUDIO]))
    assert padded(output, reference.shape[-1]) == reference.tolist()
    assert max(map(len, (tokens for channels in output for tokens in channels))) <= reference.shape[-1]


def test_end_as_likely_as_another_token(case):
    if case.config is not MOE:
        pytest.skip("no reference")
    model = case.model(max_tokens=24, end=1.01 * case.weights["decoder.logits.weight"][88])
    assert padded(list(model.tokens([AUDIO])), 24) == case.reference("eosB_tokens").tolist()


def test_only_queries_turn_and_only_four_of_sixteen_numbers():
    query = torch.from_numpy(REFERENCE["yptf_moe_multi/rope_in"])
    count = query.shape[2]
    across = torch.linspace(-1.0, 1.0, count)[:, None] * spatial_frequencies()
    along = torch.arange(count)[:, None] * temporal_frequencies()
    for angles, name in ((across, "rope_sca_out"), (along, "rope_temporal_out")):
        np.testing.assert_allclose(rotate(query, angles), REFERENCE[f"yptf_moe_multi/{name}"], rtol=0, atol=1e-5)


def test_positions():
    rows = REFERENCE["yptf_moe_multi/pe_rows"]
    table = sinusoids(T5_SIZES)[rows][:, ::8]
    np.testing.assert_allclose(table, REFERENCE["yptf_moe_multi/pe_values"], rtol=0, atol=1e-4)


# --- Tokens, notes, MIDI ----------------------------------------------------------------------------------------


def rows_of(notes: list[Note]) -> list[list[Any]]:
    return [[n.is_drum, 128 if n.is_drum else n.program, n.onset, n.offset, n.pitch, 1] for n in notes]


def decoded(case: dict[str, Any]) -> list[ChannelDecoder]:
    decoders = []
    for channel in case["channels"]:
        decoder = ChannelDecoder()
        for tokens, start in zip(channel["tokens"], case["start_times"], strict=True):
            decoder.feed(tokens, start)
        decoders.append(decoder)
    return decoders


@pytest.fixture(params=TOKENS["cases"])
def tokens_case(request: pytest.FixtureRequest) -> Any:
    return TOKENS["cases"][request.param]


def test_events_ties_and_what_sounds_at_the_end_of_a_segment(tokens_case):
    for channel in tokens_case["channels"]:
        errors = 0
        for tokens, reference in zip(channel["tokens"], channel["segments"], strict=True):
            found = read_segment(tokens, reference["start_time"])
            events = [
                [e.is_drum, 128 if e.is_drum else e.program, e.time, int(e.is_onset), e.pitch]
                for e in found.events
            ]
            assert sorted(events, key=lambda e: (e[2], e[0], e[1], e[3], e[4])) == reference["note_events"]
            assert [list(tie) for tie in found.ties] == reference["tie_note_events"]
            assert [list(key) for key in found.sounding] == reference["last_activity"]
            errors += found.invalid_tokens
        assert errors == sum(channel["decode_errors"].values())


def test_notes_of_each_channel_and_of_all_together(tokens_case):
    channels = []
    for decoder, reference in zip(decoded(tokens_case), tokens_case["channels"], strict=True):
        channels.append(decoder.finish())
        assert rows_of(channels[-1]) == reference["notes"]
        assert decoder.unmatched_offsets == reference["note_errors"].get("Err/onset not found", 0)
    assert rows_of(mix_channels(channels)) == tokens_case["mixed_notes"]


def test_midi_programs_and_ticks(tokens_case):
    """Compare each note's program, pitch, and first and last tick with the authors' file."""
    theirs = set()
    for track in tokens_case["midi"]["tracks"]:
        now, program, open_notes = 0, 0, {}
        for message in track:
            now += message[-1]
            match message[0]:
                case "program_change":
                    program = message[1]
                case "note_on":
                    open_notes[message[1]] = now
                case "note_off" if message[1] in open_notes:
                    is_drum = message[3] == 9
                    theirs.add((is_drum, program, message[1], open_notes.pop(message[1]), now))
    notes = to_general_midi(mix_channels(decoder.finish() for decoder in decoded(tokens_case)))
    ours = {
        (n.is_drum, n.program, n.pitch, round(n.onset * 960), round(n.offset * 960))
        for n in notes
        if n.velocity == 100
    }
    assert ours == theirs


def test_every_program_is_written_as_the_authors_write_it():
    table = {int(program): row[0] for program, row in TOKENS["midi_output_inverse_vocab_gm_ext_plus"].items()}
    table |= {100: 65, 101: 53}  # the singing voice and the choir, changed once more
    assert {program: WRITTEN_PROGRAMS.get(program, program) for program in table} == table
    assert mido.Message("program_change", program=max(table.values())).program < 128


def test_token_ids_mean_what_they_mean_to_the_authors():
    assert len(YOURMT3_CODEC) == 596
    for row in TOKENS["boundaries"]:
        event = YOURMT3_CODEC.decode(row["id"])
        if row["type"] in ("PAD", "EOS", "UNK"):
            assert event is None
        else:
            assert event is not None
            assert (event.type, event.value) == (row["type"], row["value"])
