"""Records of what `kd doctor --tune` has measured on a machine. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Threads = Literal["all", "one"]
Layout = Literal["channels_last", "contiguous"]
Half = Literal["fp32", "bf16"]

MOST = 64  # networks, and ways of each, that a file is believed to hold
GAIN = 1.05  # from which on a way is taken before the one that the rules say

WORDS: Mapping[str, str] = {  # for people
    "fp32": "fp32",
    "bf16": "bf16",
    "all": "all threads",
    "one": "one thread",
    "channels_last": "channels last",
    "contiguous": "channels first",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What a measurement is of, and of nothing else. cores: that this process may use. threads:
    torch's own choice. unit: what computes bf16, "" for none.
    """

    processor: str
    cores: int
    threads: int
    unit: str
    torch: str


@dataclass(frozen=True, slots=True)
class Way:
    """A way to train, and how fast it was."""

    precision: Half
    threads: Threads
    layout: Layout
    images_per_second: float

    @property
    def key(self) -> tuple[Half, Threads, Layout]:
        """What was chosen."""
        return self.precision, self.threads, self.layout


@dataclass(frozen=True, slots=True)
class TunedNetwork:
    """A network that was trained for some steps in several ways.

    density: multiply-accumulates for each value that it makes. macs: those of one image.
    compiled: speed of the first way with compiled code; None where it was not measured.
    compile_seconds: what compiling took.
    """

    name: str
    input_shape: tuple[int, int, int]
    density: float
    macs: int
    batch: int
    ways: tuple[Way, ...]
    compiled: float | None = None
    compile_seconds: float | None = None

    def distance(self, density: float, macs: int) -> float:
        """How much another network differs, in factors of both."""
        return math.hypot(
            math.log(max(density, 1e-3) / self.density), math.log(max(macs, 1) / self.macs)
        )


@dataclass(frozen=True, slots=True)
class TunedTeacher:
    """A network whose folded copy answered, by precision and by images at once: images/s."""

    name: str
    input_shape: tuple[int, int, int]
    fp32: float
    bf16: float | None
    bf16_large: float | None
    fp32_large: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """All that was measured. date: of the day, ISO 8601. large: images of a large batch of a
    teacher's.
    """

    date: str
    machine: Machine
    networks: tuple[TunedNetwork, ...]
    teachers: tuple[TunedTeacher, ...]
    large: int = 256

    @property
    def plausible(self) -> bool:
        """Tells whether all numbers can be what they are said to be."""
        speeds = [way.images_per_second for network in self.networks for way in network.ways]
        sizes: list[float | None] = [
            number
            for network in self.networks
            for number in (network.density, network.macs, network.batch, network.compiled)
        ]
        times: list[float | None] = [network.compile_seconds for network in self.networks]
        answers = [
            speed
            for each in self.teachers
            for speed in (each.fp32, each.bf16, each.bf16_large, each.fp32_large)
        ]
        numbers = (*speeds, *sizes, *times, *answers, self.large)
        return (
            0 < len(self.networks) <= MOST
            and len(self.teachers) <= MOST
            and all(0 < len(network.ways) <= MOST for network in self.networks)
            and all(number is None or 0 < number < 1e15 for number in numbers)
            and len(self.date) == len("2026-01-01")
        )

    def nearest(self, density: float, macs: int) -> TunedNetwork:
        """The network that is most like another one."""
        return min(self.networks, key=lambda network: network.distance(density, macs))

    def teachers_gain(self, ways: Mapping[str, str]) -> float | None:
        """How much faster teachers answer in one way than in another, on average (the geometric
        mean). ways: "of" and "over", names of two speeds of `TunedTeacher`.
        """
        ratios = [
            getattr(each, ways["of"]) / getattr(each, ways["over"])
            for each in self.teachers
            if getattr(each, ways["of"]) and getattr(each, ways["over"])
        ]
        return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None
