"""Results of segments as bytes, to be kept between the run of one shard and the collecting of all.

A result is what a network gives for one segment: token ids (lists of whole numbers, nested as the network likes)
or arrays of float32. What is unpacked is equal to what was packed, to the bit; tuples come back as lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np

ARRAY = 1
"""Type of the extension that an array is packed as: its shape, and float32 numbers, little-endian."""


def pack(results: Sequence[Any]) -> bytes:
    """Return the results of consecutive segments as bytes."""
    packed: bytes = msgpack.packb(list(results), default=_pack_array)
    return packed


def unpack(packed: bytes) -> list[Any]:
    """Return the results that `pack` was given."""
    results: list[Any] = msgpack.unpackb(packed, ext_hook=_unpack_array)
    return results


def _pack_array(value: Any) -> msgpack.ExtType:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32:
        raise TypeError(f"A result holds lists of whole numbers or arrays of float32, not {type(value).__name__}.")
    return msgpack.ExtType(ARRAY, msgpack.packb((value.shape, value.astype("<f4").tobytes())))


def _unpack_array(kind: int, payload: bytes) -> Any:
    if kind != ARRAY:
        return msgpack.ExtType(kind, payload)
    shape, numbers = msgpack.unpackb(payload)
    return np.frombuffer(numbers, "<f4").reshape(shape)
