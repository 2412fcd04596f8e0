"""Counter-based randomness: every draw is a function of (seed, purpose, counters), never of what
was drawn before.

That is why a resumed run equals an uninterrupted one, and why the number of loader workers or ranks
changes nothing. The mixer is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable
pseudorandom number generators, OOPSLA 2014, section 4; constants of Stafford's variant 13). It is a
bijection of the 64-bit integers, so distinct counters give distinct values and a permutation needs
no tie-breaking. The tensor form and the integer form agree bit for bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix_int(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    # int64 shifts keep the sign; masking the copies of the sign bit makes the shift a logical one
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = x + _signed(_GOLDEN)
    x = (x ^ _logical_shift(x, 30)) * _signed(_FIRST)
    x = (x ^ _logical_shift(x, 27)) * _signed(_SECOND)
    return x ^ _logical_shift(x, 31)


def key(seed: int, purpose: str, *counters: int) -> int:
    """A 64-bit key for one purpose: `key(seed, "crop", epoch)`.

    Args:
        seed: the recipe's seed.
        purpose: names the draw; different purposes are independent.
        counters: integers such as epoch or step.
    """
    value = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    # mixed after each part, the seed too: else seed 1 in epoch 2 would draw what seed 2 draws in
    # epoch 1
    for counter in (seed, *counters):
        value = _mix_int(value ^ _mix_int(counter & _MASK))
    return value


def bits_int(stream: int, counter: int) -> int:
    """64 random bits (unsigned) for one counter under a key: the integer twin of `bits`."""
    return _mix_int((stream ^ _mix_int(counter & _MASK)) & _MASK)


def bits(stream: int, counters: Tensor) -> Tensor:
    """64 random bits (as int64) for each counter under a key. counters [...] int64, any device."""
    return _mix(_mix(counters) ^ _signed(stream))


def uniform(stream: int, counters: Tensor) -> Tensor:
    """Uniform float32 in [0, 1) for each counter; 24 bits, exact on every device."""
    return _logical_shift(bits(stream, counters), 40).to(torch.float32) * 2.0**-24


def uniform_int(stream: int, counter: int) -> float:
    """The integer twin of `uniform`."""
    return (bits_int(stream, counter) >> 40) * 2.0**-24


def normal(stream: int, counters: Tensor) -> Tensor:
    """Standard normal float32 for each counter, by the transform of Box and Muller (1958); at most
    5.8 away from 0.
    """
    first, second = (uniform(key(stream, purpose), counters) for purpose in ("radius", "angle"))
    # 1 - u is never 0
    return (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * math.pi * second)


def integers(stream: int, counters: Tensor, high: int | Tensor) -> Tensor:
    """Uniform int64 in [0, high) for each counter, high < 2**31; a tensor gives each counter its
    own.
    """
    return (_logical_shift(bits(stream, counters), 32) * high) >> 32


def integers_int(stream: int, counter: int, high: int) -> int:
    """The integer twin of `integers`."""
    return ((bits_int(stream, counter) >> 32) * high) >> 32


def permutation(stream: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """A permutation of range(n) that depends on the key alone, [n] int64."""
    return torch.argsort(bits(stream, torch.arange(n, device=device)))


@contextmanager
def seeded(seed: int, purpose: str, *counters: int) -> Iterator[None]:
    """Runs library code that draws from torch's global generators (weight init) as a function of
    (seed, purpose, counters).

    The generators' earlier state is put back afterwards, so nothing outside notices.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(key(seed, purpose, *counters) >> 1)
        yield
