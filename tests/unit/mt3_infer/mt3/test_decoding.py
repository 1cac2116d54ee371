"""Generation with caches and slots gives what recomputing everything for each token gives."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch.nn import functional

from mt3_infer.inference.cuda_graphs import STEPS
from mt3_infer.inference.decoding import SlotDecoder, make_decoder
from mt3_infer.inference.kv_cache import FIRST_LENGTH, KVCache, Limits
from mt3_infer.models import linear
from mt3_infer.models.linear import optimize_for_inference
from mt3_infer.models.t5 import T5, T5Config
from mt3_infer.symbolic.vocabulary import END, PAD

CPU = torch.device("cpu")
State = Mapping[str, torch.Tensor]
FRAMES, MAX_TOKENS = 8, 40


def prepared(network: T5) -> T5:
    optimize_for_inference(network, device=CPU, compute_dtype=torch.float32)
    return network


def random_features(count: int) -> torch.Tensor:
    return torch.randn(count, FRAMES, 12, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=[False, True], ids=["steps", "blocks"])
def in_blocks(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


def new(
    network: T5, *, slots: int, in_blocks: bool = False, max_tokens: int = MAX_TOKENS, device: torch.device = CPU
) -> SlotDecoder[int]:
    limits = Limits(slots, FRAMES, max_tokens)
    return make_decoder(network.decoder, limits, device=device, dtype=torch.float32, in_blocks=in_blocks)


@torch.inference_mode()
def generate(
    decoder: SlotDecoder[int], network: T5, features: torch.Tensor, *, logit_bias: torch.Tensor | None = None
) -> list[list[int]]:
    """All segments through one slot decoder, a free slot refilled as soon as there is one."""
    results: dict[int, list[int]] = {}
    waiting = list(range(len(features)))
    while waiting or decoder.active:
        while waiting and decoder.free:
            index = waiting.pop(0)
            decoder.add_requests(network.encoder(features[index : index + 1]), [index], [logit_bias])
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


def test_cached_generation_equals_recomputation(in_blocks, random_t5):
    network = random_t5()
    features = random_features(6)
    with torch.inference_mode():
        expected = [naive_tokens(network, one, MAX_TOKENS) for one in features]
    assert len({len(tokens) for tokens in expected}) > 2, "the sequences should be of several lengths"
    assert generate(new(prepared(network), in_blocks=in_blocks, slots=6), network, features) == expected


def test_products_that_cannot_be_packed_give_the_same_tokens(random_t5, monkeypatch):
    features = random_features(4)
    packed = prepared(random_t5())
    expected = generate(new(packed, slots=4), packed, features)
    monkeypatch.setattr(linear, "can_pack", lambda: False)
    plain = prepared(random_t5())
    assert any(isinstance(module, linear.Linear) for module in plain.modules())
    assert generate(new(plain, slots=4), plain, features) == expected


def test_number_of_slots_does_not_matter(in_blocks, random_t5):
    network, features = prepared(random_t5()), random_features(9)
    one_by_one = generate(new(network, slots=1), network, features)
    for slots in (1, 2, 3, 5, 9, 20):
        assert generate(new(network, in_blocks=in_blocks, slots=slots), network, features) == one_by_one


def test_decoder_can_be_used_again(in_blocks, random_t5):
    network, features = prepared(random_t5()), random_features(5)
    decoder = new(network, in_blocks=in_blocks, slots=3)
    assert generate(decoder, network, features) == generate(decoder, network, features)


def test_cache_grows_beyond_its_first_capacity(in_blocks, random_t5):
    network, features = random_t5(end=0.0), random_features(1)
    limit = FIRST_LENGTH + 40
    with torch.inference_mode():
        expected = naive_tokens(network, features[0], limit)
    assert len(expected) == limit
    assert generate(new(prepared(network), in_blocks=in_blocks, slots=2, max_tokens=limit), network, features) == [
        expected
    ]


def test_sequence_beside_a_long_one_has_the_same_tokens(random_t5):
    network, features = prepared(random_t5()), random_features(2)
    limit = 4 * FIRST_LENGTH
    expected = generate(new(network, slots=1, max_tokens=limit), network, features[1:])
    endless = torch.zeros(96)
    endless[END] = -torch.inf
    decoder = new(network, slots=2, max_tokens=limit)
    with torch.inference_mode():
        decoder.add_requests(network.encoder(features[:1]), [0], [endless])
        for _ in range(3 * FIRST_LENGTH):
            assert decoder.step() == []
        decoder.add_requests(network.encoder(features[1:]), [1])
    assert decoder.step() == []
    assert decoder.abort(lambda request_id: request_id == 0) == [0]
    results: dict[int, list[int]] = {}
    while decoder.active:
        results |= dict(decoder.step())
    assert results == {1: expected[0]}


def test_sequence_without_an_end_stops_at_the_limit(in_blocks, random_t5):
    network = prepared(random_t5(end=0.0))
    decoder = new(network, in_blocks=in_blocks, slots=2, max_tokens=7)
    assert [len(tokens) for tokens in generate(decoder, network, random_features(3))] == [7, 7, 7]


def test_forbidden_tokens_are_never_chosen(in_blocks, random_t5):
    network, features = prepared(random_t5()), random_features(4)
    decoder = new(network, in_blocks=in_blocks, slots=4)
    free = {token for tokens in generate(decoder, network, features) for token in tokens}
    forbidden = sorted(free - {END})[::2]
    bias = torch.zeros(96)
    bias[forbidden] = -torch.inf
    masked = generate(decoder, network, features, logit_bias=bias)
    assert {token for tokens in masked for token in tokens}.isdisjoint(forbidden)
    assert all(masked)


def test_logit_bias_of_one_sequence_leaves_the_others_alone(in_blocks, random_t5):
    network, features = prepared(random_t5()), random_features(2)
    decoder = new(network, in_blocks=in_blocks, slots=2)
    plain = generate(decoder, network, features)
    bias = torch.zeros(96)
    bias[plain[0][0]] = -torch.inf
    with torch.inference_mode():
        decoder.add_requests(network.encoder(features), [0, 1], [bias, None])
    results: dict[int, list[int]] = {}
    while decoder.active:
        results |= dict(decoder.step())
    assert results[0] != plain[0]
    assert results[1] == plain[1]


def test_aborted_sequence_leaves_the_others_alone(in_blocks, random_t5):
    network, features = prepared(random_t5()), random_features(4)
    decoder = new(network, in_blocks=in_blocks, slots=4)
    plain = generate(decoder, network, features)
    assert len(plain[0]) > STEPS, "it should not be over before it can be aborted"
    with torch.inference_mode():
        decoder.add_requests(network.encoder(features), range(4))
    results = dict(decoder.step())
    assert decoder.abort(lambda request_id: request_id == 0) == [0]
    while decoder.active:
        results |= dict(decoder.step())
    assert results == {1: plain[1], 2: plain[2], 3: plain[3]}


# --- The cache


def test_cache_keeps_what_it_holds_while_it_grows_moves_and_shrinks():
    config = T5Config(num_decoder_layers=2, num_heads=2, d_kv=3)
    limits = Limits(slots=3, frames=4, max_tokens=5 * FIRST_LENGTH)
    cache = KVCache(config, limits, device=CPU, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    segment = torch.randn(2, 2, 2, 4, 3, generator=generator)
    cache.put(2, segment)
    tokens, _ = cache.rows(3)
    for layer in tokens:
        layer.copy_(torch.randn(layer.shape, generator=generator))
    before = [layer.clone() for layer in tokens]
    lengths = []
    for span in (1, FIRST_LENGTH, FIRST_LENGTH + 1, 5 * FIRST_LENGTH, 3 * FIRST_LENGTH, 2 * FIRST_LENGTH, 7):
        cache.fit(span)
        lengths.append(cache.length // FIRST_LENGTH)
        for layer, kept in zip(cache.rows(3)[0], before, strict=True):
            assert torch.equal(layer[:, :, :, :FIRST_LENGTH], kept)
    assert lengths == [1, 1, 2, 5, 5, 2, 2], "it shrinks only when more than half of it is unused"
    cache.move(2, 0, 5)
    tokens, segments = cache.rows(1)
    for layer, kept in zip(tokens, before, strict=True):
        assert torch.equal(layer[:, 0, :, :5], kept[:, 2, :, :5])
        assert torch.equal(layer[:, 0, :, 5:FIRST_LENGTH], kept[:, 0, :, 5:]), "no more than asked for"
    assert all(torch.equal(layer[:, 0], one) for layer, one in zip(segments, segment, strict=True))
    cache.clear()
    assert cache.length == FIRST_LENGTH


def test_cache_that_must_stay_in_place_is_whole_from_the_start():
    limits = Limits(slots=1, frames=4, max_tokens=3 * FIRST_LENGTH)
    cache = KVCache(T5Config(), limits, device=CPU, dtype=torch.float32, whole=True)
    assert cache.length == 3 * FIRST_LENGTH


@pytest.mark.gpu
def test_cuda_graphs_give_the_tokens_of_a_cpu(random_t5):
    features = random_features(9)
    on_cpu = prepared(random_t5())
    expected = generate(new(on_cpu, slots=4), on_cpu, features)
    cuda = torch.device("cuda")
    on_cuda = random_t5()
    optimize_for_inference(on_cuda, device=cuda, compute_dtype=torch.float32)
    decoder = new(on_cuda, in_blocks=True, slots=4, device=cuda)
    assert generate(decoder, on_cuda, features.to(cuda)) == expected
