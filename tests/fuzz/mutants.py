"""Mutants of recordings: damage as done by storage, networks, editors and attackers."""

from __future__ import annotations

import random
import struct

LIMITS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a file in one to four ways."""
    mutant = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        if mutant:
            chance.choice([_bytes, _bits, _numbers, _cut, _remove, _repeat, _swap, _blank])(mutant, chance)
    return bytes(mutant)


def _position(mutant: bytearray, chance: random.Random) -> int:
    """Return a position in the file, in half of the cases in its header."""
    return chance.randrange(min(len(mutant), 512 if chance.random() < 0.5 else len(mutant)))


def _bytes(mutant: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 10, 100])):
        mutant[_position(mutant, chance)] = chance.randrange(256)


def _bits(mutant: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 5, 50])):
        mutant[_position(mutant, chance)] ^= 1 << chance.randrange(8)


def _numbers(mutant: bytearray, chance: random.Random) -> None:
    """Write a number at the edge of its range where a size or a count may stand."""
    for _ in range(chance.choice([1, 3])):
        kind = chance.choice(["<H", ">H", "<I", ">I", "<Q", ">Q"])
        number = chance.choice(LIMITS) & ((1 << 8 * struct.calcsize(kind)) - 1)
        at = _position(mutant, chance)
        packed = struct.pack(kind, number)
        mutant[at : at + len(packed)] = packed


def _cut(mutant: bytearray, chance: random.Random) -> None:
    del mutant[_position(mutant, chance) :]


def _remove(mutant: bytearray, chance: random.Random) -> None:
    at = _position(mutant, chance)
    del mutant[at : at + chance.choice([1, 100, 10_000])]


def _repeat(mutant: bytearray, chance: random.Random) -> None:
    at, length = _position(mutant, chance), chance.choice([4, 100, 5_000])
    mutant[at:at] = mutant[at : at + length] * chance.choice([1, 3, 50])


def _swap(mutant: bytearray, chance: random.Random) -> None:
    first, second = _position(mutant, chance), _position(mutant, chance)
    length = chance.choice([8, 1000])
    mutant[first : first + length], mutant[second : second + length] = (
        mutant[second : second + length],
        mutant[first : first + length],
    )


def _blank(mutant: bytearray, chance: random.Random) -> None:
    at, length = _position(mutant, chance), chance.choice([16, 1000, 20_000])
    mutant[at : at + length] = bytes(len(mutant[at : at + length]))
