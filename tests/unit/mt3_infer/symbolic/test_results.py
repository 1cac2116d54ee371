"""Results of segments survive being kept as bytes."""

from __future__ import annotations

import numpy as np
import pytest

from mt3_infer.symbolic.results import pack, unpack


@pytest.mark.parametrize("results", [[], [[1]], [[5, 1131, 1], []], [[[1], [2, 3]], [[4], []]]])
def test_token_ids_come_back(results):
    assert unpack(pack(results)) == results


def test_arrays_come_back_to_the_bit():
    frames = np.random.default_rng(1).standard_normal((142, 88)).astype(np.float32)
    frames[0, :3] = np.array([1e-45, -0.0, np.inf])
    (back,) = unpack(pack([(frames, frames[:0])]))
    assert [array.shape for array in back] == [(142, 88), (0, 88)]
    assert back[0].tobytes() == frames.tobytes()


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match="float32, not ndarray"):
        pack([np.zeros(3)])
