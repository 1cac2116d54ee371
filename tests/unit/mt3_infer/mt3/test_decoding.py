"""Generation with caches and slots gives what recomputing everything for each token gives."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch.nn import functional

from mt3_infer.block_decoding import STEPS, BlockDecoder
from mt3_infer.decoding import FIRST_CAPACITY, SlotDecoder
from mt3_infer.models import linear
from mt3_infer.models.linear import prepare
from mt3_infer.models.t5 import T5
from mt3_infer.vocabulary import END, PAD

CPU = torch.device("cpu")
State = Mapping[str, torch.Tensor]
Kind = type[SlotDecoder[int]]
FRAMES, MAX_TOKENS = 8, 40


def prepared(network: T5) -> T5:
    prepare(network, device=CPU, dtype=torch.float32)
    return network


def random_features(count: int) -> torch.Tensor:
    return torch.randn(count, FRAMES, 12, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=[SlotDecoder, BlockDecoder])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


def new(
    kind: Kind, network: T5, *, slots: int, max_tokens: int = MAX_TOKENS, device: torch.device = CPU
) -> SlotDecoder[int]:
    return kind(
        network.decoder, slots=slots, frames=FRAMES, max_tokens=max_tokens, device=device, dtype=torch.float32
    )


@torch.inference_mode()
def generate(
    decoder: SlotDecoder[int], network: T5, features: torch.Tensor, *, penalty: torch.Tensor | None = None
) -> list[list[int]]:
    """All segments through one slot decoder, a free slot refilled as soon as there is one."""
    results: dict[int, list[int]] = {}
    waiting = list(range(len(features)))
    while waiting or decoder.active:
        while waiting and decoder.free:
            index = waiting.pop(0)
            decoder.admit(network.encoder(features[index : index + 1]), [index], [penalty])
        results |= dict(decoder.step())
    return [results[index] for index in range(len(features))]


# --- The slow twin: no cache, no slots, no packed products, everything anew for each token ----------------------


def naive_tokens(network: T5, features: torch.Tensor, max_tokens: int) -> list[int]:
    state = network.state_dict()
    encoded = naive_stack(state, "encoder", naive_inputs(network, state, features), None)
    token_ids = [PAD]
    while len(token_ids) <= max_tokens and token_ids[-1] != END:
        x = state["decoder.embedding.weight"][token_ids] + network.decoder.positions[: len(token_ids)]
        x = naive_stack(state, "decoder", x, encoded)
        token_ids.append(int((x[-1] @ state["decoder.logits.weight"].T).argmax()))
    return token_ids[1:]


def naive_inputs(network: T5, state: State, features: torch.Tensor) -> torch.Tensor:
    return features @ state["encoder.projection.weight"].T + network.encoder.positions[:FRAMES]


def naive_stack(state: State, stack: str, x: torch.Tensor, encoded: torch.Tensor | None) -> torch.Tensor:
    for layer in range(2):
        name = f"{stack}.layers.{layer}"
        q, k, v = (naive_norm(state, f"{name}.norm", x) @ state[f"{name}.query_key_value.weight"].T).chunk(3, 1)
        x = x + naive_attention(q, k, v, causal=encoded is not None) @ state[f"{name}.out.weight"].T
        if encoded is not None:
            q = naive_norm(state, f"{name}.cross_norm", x) @ state[f"{name}.cross_query.weight"].T
            k, v = (encoded @ state["decoder.cross_key_value.weight"].T).chunk(4, 1)[2 * layer : 2 * layer + 2]
            x = x + naive_attention(q, k, v, causal=False) @ state[f"{name}.cross_out.weight"].T
        normed = naive_norm(state, f"{name}.feed_forward.norm", x)
        gate, up, down = (state[f"{name}.feed_forward.{part}.weight"].T for part in ("gate", "up", "down"))
        x = x + (functional.gelu(normed @ gate, approximate="tanh") * (normed @ up)) @ down
    return naive_norm(state, f"{stack}.norm", x)


def naive_norm(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"]


def naive_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool) -> torch.Tensor:
    heads = []
    for h in range(3):
        columns = slice(8 * h, 8 * h + 8)
        scores = q[:, columns] @ k[:, columns].T
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(1) @ v[:, columns])
    return torch.cat(heads, 1)


def test_cached_generation_equals_recomputation(kind, random_t5):
    network = random_t5()
    features = random_features(6)
    with torch.inference_mode():
        expected = [naive_tokens(network, one, MAX_TOKENS) for one in features]
    assert len({len(tokens) for tokens in expected}) > 2, "the sequences should be of several lengths"
    assert generate(new(kind, prepared(network), slots=6), network, features) == expected


def test_products_that_cannot_be_packed_give_the_same_tokens(random_t5, monkeypatch):
    features = random_features(4)
    packed = prepared(random_t5())
    expected = generate(new(SlotDecoder, packed, slots=4), packed, features)
    monkeypatch.setattr(linear, "can_pack", lambda: False)
    plain = prepared(random_t5())
    assert any(isinstance(module, linear.Linear) for module in plain.modules())
    assert generate(new(SlotDecoder, plain, slots=4), plain, features) == expected


def test_number_of_slots_does_not_matter(kind, random_t5):
    network, features = prepared(random_t5()), random_features(9)
    one_by_one = generate(new(SlotDecoder, network, slots=1), network, features)
    for slots in (1, 2, 3, 5, 9, 20):
        assert generate(new(kind, network, slots=slots), network, features) == one_by_one


def test_decoder_can_be_used_again(kind, random_t5):
    network, features = prepared(random_t5()), random_features(5)
    decoder = new(kind, network, slots=3)
    assert generate(decoder, network, features) == generate(decoder, network, features)


def test_cache_grows_beyond_its_first_capacity(kind, random_t5):
    network, features = random_t5(end=0.0), random_features(1)
    limit = FIRST_CAPACITY + 40
    with torch.inference_mode():
        expected = naive_tokens(network, features[0], limit)
    assert len(expected) == limit
    assert generate(new(kind, prepared(network), slots=2, max_tokens=limit), network, features) == [expected]


def test_sequence_beside_one_that_was_long_says_the_same(random_t5):
    network, features = prepared(random_t5()), random_features(2)
    limit = 4 * FIRST_CAPACITY
    expected = generate(new(SlotDecoder, network, slots=1, max_tokens=limit), network, features[1:])
    endless = torch.zeros(96)
    endless[END] = -torch.inf
    decoder = new(SlotDecoder, network, slots=2, max_tokens=limit)
    with torch.inference_mode():
        decoder.admit(network.encoder(features[:1]), [0], [endless])
        for _ in range(3 * FIRST_CAPACITY):
            assert decoder.step() == []
        decoder.admit(network.encoder(features[1:]), [1], [None])
    assert decoder.step() == []
    assert decoder.drop(lambda ticket: ticket == 0) == [0]
    results: dict[int, list[int]] = {}
    while decoder.active:
        results |= dict(decoder.step())
    assert results == {1: expected[0]}


def test_sequence_without_an_end_stops_at_the_limit(kind, random_t5):
    network = prepared(random_t5(end=0.0))
    decoder = new(kind, network, slots=2, max_tokens=7)
    assert [len(tokens) for tokens in generate(decoder, network, random_features(3))] == [7, 7, 7]


def test_forbidden_tokens_are_never_chosen(kind, random_t5):
    network, features = prepared(random_t5()), random_features(4)
    decoder = new(kind, network, slots=4)
    free = {token for tokens in generate(decoder, network, features) for token in tokens}
    forbidden = sorted(free - {END})[::2]
    penalty = torch.zeros(96)
    penalty[forbidden] = -torch.inf
    masked = generate(decoder, network, features, penalty=penalty)
    assert {token for tokens in masked for token in tokens}.isdisjoint(forbidden)
    assert all(masked)


def test_penalty_of_one_sequence_leaves_the_others_alone(kind, random_t5):
    network, features = prepared(random_t5()), random_features(2)
    decoder = new(kind, network, slots=2)
    plain = generate(decoder, network, features)
    penalty = torch.zeros(96)
    penalty[plain[0][0]] = -torch.inf
    with torch.inference_mode():
        decoder.admit(network.encoder(features), [0, 1], [penalty, None])
    results: dict[int, list[int]] = {}
    while decoder.active:
        results |= dict(decoder.step())
    assert results[0] != plain[0]
    assert results[1] == plain[1]


def test_dropped_sequence_leaves_the_others_alone(kind, random_t5):
    network, features = prepared(random_t5()), random_features(4)
    decoder = new(kind, network, slots=4)
    plain = generate(decoder, network, features)
    assert len(plain[0]) > STEPS, "it should not be over before it can be dropped"
    with torch.inference_mode():
        decoder.admit(network.encoder(features), range(4), [None] * 4)
    results = dict(decoder.step())
    assert decoder.drop(lambda ticket: ticket == 0) == [0]
    while decoder.active:
        results |= dict(decoder.step())
    assert results == {1: plain[1], 2: plain[2], 3: plain[3]}


@pytest.mark.gpu
def test_cuda_graphs_give_the_tokens_of_a_cpu(random_t5):
    features = random_features(9)
    on_cpu = prepared(random_t5())
    expected = generate(new(SlotDecoder, on_cpu, slots=4), on_cpu, features)
    cuda = torch.device("cuda")
    on_cuda = random_t5()
    prepare(on_cuda, device=cuda, dtype=torch.float32)
    decoder = new(BlockDecoder, on_cuda, slots=4, device=cuda)
    assert generate(decoder, on_cuda, features.to(cuda)) == expected
