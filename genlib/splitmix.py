"""SplitMix64's finaliser (Steele, Lea & Flood 2014, doi:10.1145/2714064.2660195), a bijection of 64-bit words that mixes all bits.

For tensors, arrays and single numbers: the same words, bit for bit.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
"""The odd constant by which SplitMix64 steps: 2**64 divided by the golden ratio."""
WORD = 0xFFFFFFFFFFFFFFFF
_FACTOR_1, _FACTOR_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def signed(word: int) -> int:
    """A word of 64 bits as the int64 of the same bits."""
    return word - (word >> 63 << 64)


def shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """Mixes int64; x is overwritten, as a new tensor for each step would cost more than the arithmetic."""
    x.bitwise_xor_(shift_right(x, 30)).mul_(signed(_FACTOR_1))
    x.bitwise_xor_(shift_right(x, 27)).mul_(signed(_FACTOR_2))
    return x.bitwise_xor_(shift_right(x, 31))


def mix_array(x: np.ndarray) -> np.ndarray:
    """Mixes uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_FACTOR_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_FACTOR_2)
    return x ^ (x >> np.uint64(31))


def mix_number(x: int) -> int:
    """Mixes one word."""
    x = (x ^ x >> 30) * _FACTOR_1 & WORD
    x = (x ^ x >> 27) * _FACTOR_2 & WORD
    return x ^ x >> 31
