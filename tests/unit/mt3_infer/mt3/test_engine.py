"""One engine, several callers: the same tokens as alone, in any mix; fair; nobody's fault is another's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mt3_infer.inference.decoding import EncoderDecoder, SlotDecoder, make_decoder
from mt3_infer.inference.engine import Engine, Request, RequestId, SingleStep
from mt3_infer.inference.kv_cache import Limits
from mt3_infer.models.linear import optimize_for_inference
from mt3_infer.models.t5 import T5
from mt3_infer.symbolic.vocabulary import END

CPU = torch.device("cpu")
FRAMES, MAX_TOKENS = 8, 30
FEATURES = torch.randn(10, FRAMES, 12, generator=torch.Generator().manual_seed(2))
EVEN_ONLY = torch.tensor([0.0 if token % 2 == 0 or token == END else -torch.inf for token in range(96)])


class TokenEngine(Engine[torch.Tensor, list[int]]):
    """With segments that are features alone, or share a logit bias."""

    def tokens(
        self, segments: Iterable[torch.Tensor], logit_bias: torch.Tensor | None = None
    ) -> Generator[list[int]]:
        return self.generate(Request(segment, logit_bias) for segment in segments)


@pytest.fixture(scope="module")
def network(random_t5: Callable[[], T5]) -> T5:
    made = random_t5()
    optimize_for_inference(made, device=CPU, compute_dtype=torch.float32)
    return made


@pytest.fixture(scope="module")
def engine(network: T5) -> Callable[..., TokenEngine]:
    def make(slots: int = 4, encode_at_once: int = 1) -> TokenEngine:
        decoder: SlotDecoder[RequestId] = make_decoder(
            network.decoder, Limits(slots, FRAMES, MAX_TOKENS), device=CPU, dtype=torch.float32
        )

        def encode(requests: Sequence[Request[torch.Tensor, list[int]]]) -> torch.Tensor:
            encoded: torch.Tensor = network.encoder(torch.stack([request.segment for request in requests]))
            return encoded

        return TokenEngine(EncoderDecoder(encode, decoder), add_at_once=encode_at_once)

    return make


@pytest.fixture(scope="module")
def alone(engine):
    """A segment's tokens when nothing else runs."""

    @cache
    def tokens(index: int, masked: bool = False) -> list[int]:
        return next(engine(slots=1).tokens([FEATURES[index]], logit_bias=EVEN_ONLY if masked else None))

    return tokens


recordings = st.lists(
    st.tuples(st.lists(st.integers(0, len(FEATURES) - 1), max_size=9), st.booleans()), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None)
@given(callers=recordings, slots=st.integers(1, 7), encode_at_once=st.integers(1, 4))
def test_any_mix_of_callers_yields_the_tokens_of_each_alone(engine, alone, callers, slots, encode_at_once):
    shared = engine(slots, encode_at_once)

    def run(caller):
        segments, masked = caller
        return list(shared.tokens((FEATURES[i] for i in segments), logit_bias=EVEN_ONLY if masked else None))

    with ThreadPoolExecutor(len(callers)) as threads:
        results = list(threads.map(run, callers))
    assert results == [[alone(i, masked) for i in segments] for segments, masked in callers]


def test_the_reference_has_sequences_of_several_lengths(alone):
    assert len({len(alone(i)) for i in range(len(FEATURES))}) > 2


def test_failing_source_reaches_its_caller_only(engine, alone):
    shared = engine()
    other = shared.tokens(FEATURES[i] for i in range(10))
    first = next(other)

    def broken():
        yield FEATURES[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(shared.tokens(broken()))
    assert [first, *other] == [alone(i) for i in range(10)]


def test_encoding_error_hits_only_the_segment_that_causes_it(engine, alone, network, monkeypatch):
    shared = engine(slots=4, encode_at_once=4)
    encode = network.encoder.forward

    def picky(features):
        if features.isnan().any():
            raise RuntimeError("not a number")
        return encode(features)

    monkeypatch.setattr(network.encoder, "forward", picky)
    poisoned = [FEATURES[0], torch.full_like(FEATURES[0], torch.nan)]
    with ThreadPoolExecutor(2) as threads:
        good = threads.submit(lambda: list(shared.tokens(FEATURES[i] for i in range(8))))
        bad = threads.submit(lambda: list(shared.tokens(poisoned)))
        with pytest.raises(RuntimeError, match="not a number"):
            bad.result()
        assert good.result() == [alone(i) for i in range(8)]


def test_engine_goes_on_after_a_failed_step(engine, alone, monkeypatch):
    shared = engine()
    with monkeypatch.context() as patched:
        patched.setattr(shared._network, "step", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(shared.tokens([FEATURES[0]]))
    assert list(shared.tokens([FEATURES[0]])) == [alone(0)]


def test_closing_early_frees_the_slots_and_ends_the_thread(engine, alone):
    shared = engine(slots=2)
    given_up = shared.tokens(FEATURES[i % 10] for i in range(1000))
    next(given_up)
    given_up.close()
    assert shared._thread is None
    assert list(shared.tokens([FEATURES[3]])) == [alone(3)]
    assert shared._thread is None
    assert shared._network.active == 0


@pytest.mark.parametrize("others", [0, 1])
def test_last_caller_to_leave_waits_for_the_step_under_way(engine, monkeypatch, others):
    """Whatever ends the process next would find the thread in native code."""
    shared = engine()
    step, is_in_step, may_end = shared._network.step, threading.Event(), threading.Event()

    def slow_step():
        is_in_step.set()
        assert may_end.wait(60)
        return step()

    generators = [shared.tokens(FEATURES[i % 10] for i in range(1000)) for _ in range(1 + others)]
    for generator in generators:
        next(generator)
    monkeypatch.setattr(shared._network, "step", slow_step)
    assert is_in_step.wait(60)
    with ThreadPoolExecutor(1) as threads:
        leaving = threads.submit(generators[0].close)
        if others:  # the thread lives on for them
            leaving.result(timeout=60)
            assert not may_end.is_set()
        may_end.set()
        leaving.result(timeout=60)
    assert (shared._thread is None) == (not others)
    generators[-1].close()
    assert shared._thread is None


def test_stopped_engine_takes_no_further_step(engine):
    shared = engine()
    results = shared.tokens(FEATURES[i % 10] for i in range(1000))
    next(results)
    shared.stop()
    assert shared._thread is None
    with pytest.raises(RuntimeError, match="shutting down"):
        list(shared.tokens([FEATURES[0]]))
    results.close()
    assert shared._thread is None


def test_caller_is_never_far_ahead_of_the_network(engine):
    shared = engine(slots=2)
    taken = 0

    def counted():
        nonlocal taken
        for i in range(100):
            taken += 1
            yield FEATURES[i % 10]

    for delivered, _ in enumerate(shared.tokens(counted())):
        assert taken - delivered <= shared.ahead


def test_short_recording_does_not_wait_for_a_long_one(engine):
    shared = engine(slots=2)
    order: list[str] = []

    def run(name: str, count: int) -> None:
        for _ in shared.tokens(FEATURES[i % 10] for i in range(count)):
            pass
        order.append(name)

    long = threading.Thread(target=run, args=("long", 300))
    long.start()
    run("short", 3)
    long.join()
    assert order == ["short", "long"]


def test_network_without_decoding_steps_infers_in_batches():
    batches = []

    def infer(numbers: Sequence[int]) -> list[int]:
        batches.append(len(numbers))
        return [2 * number for number in numbers]

    shared: Engine[int, int] = Engine(SingleStep(infer, slots=4), add_at_once=2)
    assert list(shared.generate(Request(number) for number in range(9))) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert sum(batches) == 9
    assert max(batches) <= 2


def test_network_that_returns_too_few_results_fails_its_caller():
    shared: Engine[int, int] = Engine(SingleStep(lambda numbers: [], slots=4), add_at_once=2)
    with pytest.raises(ValueError, match="shorter"):
        list(shared.generate([Request(1)]))


def test_requests_may_be_submitted_one_by_one():
    shared: Engine[int, int] = Engine(
        SingleStep(lambda numbers: [10 // one for one in numbers], slots=1), add_at_once=1
    )
    with shared.session() as session, shared.session() as other:
        for number in (1, 2, 0, 5):
            session.submit(Request(number))
        other.submit(Request(10))
        assert (session.take(), session.take(), other.take(), session.pending) == (10, 5, 1, 2)
        with pytest.raises(ZeroDivisionError):
            session.take()
        assert session.pending == 1, "the rest of them is aborted"
    assert shared._thread is None
