"""Measures what precision, threads, memory layout, compiling and the batch of teachers cost on this
machine: `kd doctor --tune`. What it finds is what "auto" takes from then on.

Networks are untrained and pictures are noise, on a CPU. All ways of one network are taken in turn,
so that a busy moment of the machine meets all of them.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import Any

import torch
from torch.nn import functional

from kdcli.engine.memory import keep_memory
from kdcli.engine.optim import make_optimiser
from kdcli.engine.settings import OptimSettings
from kdcli.engine.teachers.inference import fold, lower
from kdcli.jobs.build import compiling
from kdcli.jobs.build.networks import build_network
from kdcli.jobs.build.tuned import this_machine, write_tuning
from kdcli.models.cost import density, macs
from kdcli.results.tuning import Half, Layout, Threads, TunedNetwork, TunedTeacher, Tuning, Way

Shape = tuple[int, int, int]
# from many multiply-adds a value to few, from large networks to small ones
NETWORKS: Mapping[str, Shape] = {
    "resnet20": (3, 32, 32),
    "cnn-small": (1, 28, 28),
    "resnet8x4": (3, 32, 32),
    "mobilenet_v2": (3, 32, 32),
    "fashion-mnist-student": (1, 28, 28),
    "shufflenet_v1": (3, 32, 32),
    "wrn_16_2": (3, 32, 32),
    "cnn-large": (1, 8, 8),
    "shufflenet_v2": (3, 32, 32),
    "mlp": (1, 28, 28),
    "vgg8": (3, 32, 32),
}
TEACHERS: Mapping[str, Shape] = {
    "resnet56": (3, 32, 32),
    "wrn_40_2": (3, 32, 32),
    "fashion-mnist-large": (1, 28, 28),
}
_BATCH, _LARGE = 64, 256
_COMPILED = ("resnet20", "cnn-small")  # of the networks: compiling takes long
_SECONDS = 0.15  # of a way in a round, at least
_ROUNDS = 3
_COMPILING = 15.0  # seconds that compiling may take, or it is not begun
_FOR_NETWORKS, _FOR_TEACHERS = 0.55, 0.7  # of the time that is there, when the next things begin

Work = Callable[[], int]  # gives the number of its images


def busy() -> float | None:
    """How many processes want to compute here for each core, where that is more than one: what is
    measured then misleads. None where it is not, or the system does not tell.
    """
    if not hasattr(os, "getloadavg"):
        return None
    share = os.getloadavg()[0] / this_machine().cores
    return share if share > 1 else None


def tune(
    seconds: float = 120.0,
    *,
    networks: Mapping[str, Shape] = NETWORKS,
    teachers: Mapping[str, Shape] = TEACHERS,
    told: Callable[[str], None] = lambda _: None,
) -> Tuning:
    """Measures this machine, keeps what was found, and gives it.

    Args:
        seconds: after which no further network is begun. networks, teachers: that are measured, by
            name. told: hears what is measured next.

    Raises:
        DiskFull, NotWritable: it cannot be kept.
    """
    keep_memory()  # as every run has it
    start = time.monotonic()
    machine = this_machine()
    precisions: tuple[Half, ...] = ("fp32", "bf16") if machine.unit else ("fp32",)
    found: list[TunedNetwork] = []
    end = start + seconds * _FOR_NETWORKS
    for name, shape in networks.items():
        if found and time.monotonic() > end:
            break
        told(name)
        found.append(_network(name, shape, precisions, machine.threads, end))
    answers: list[TunedTeacher] = []
    end = start + seconds * _FOR_TEACHERS
    for name, shape in teachers.items():
        if answers and time.monotonic() > end:
            break
        told(f"{name} as a teacher")
        answers.append(_teacher(name, shape, precisions, end))
    end = start + seconds
    for place, network in enumerate(found):
        if network.name in _COMPILED and time.monotonic() < end - _COMPILING:
            told(f"{network.name}, compiled")
            found[place] = _compiled(network, end)
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    tuning = Tuning(today, machine, tuple(found), tuple(answers), _LARGE)
    write_tuning(tuning)
    return tuning


def _network(
    name: str, shape: Shape, precisions: tuple[Half, ...], threads: int, end: float
) -> TunedNetwork:
    fresh = build_network(name, num_classes=10, input_shape=shape)
    image = torch.zeros(1, *shape)
    counts: tuple[Threads, ...] = ("all", "one") if threads > 1 else ("all",)
    layouts: tuple[Layout, ...] = ("channels_last", "contiguous")
    ways = list(product(precisions, counts, layouts))
    works = {
        way: _with_threads(threads if way[1] == "all" else 1, _step(name, shape, way[0], way[2]))
        for way in ways
    }
    speeds = _in_turn(works, end)
    torch.set_num_threads(threads)
    return TunedNetwork(
        name,
        shape,
        density(fresh, image),
        macs(fresh, shape, image),
        _BATCH,
        tuple(Way(*way, speeds[way]) for way in ways),
    )


def _compiled(network: TunedNetwork, end: float) -> TunedNetwork:
    """The same with the speed of compiled code, in the first of its ways; as it was where this
    machine compiles nothing.
    """
    compiling.prepare_cache()
    plain = network.ways[0]
    start = time.perf_counter()
    try:
        work = _step(
            network.name, network.input_shape, plain.precision, plain.layout, compiles=True
        )
        work()
    except Exception:  # noqa: BLE001  compilers fail in all kinds of ways, and then nothing is compiled
        return network
    took = time.perf_counter() - start
    usual = _step(network.name, network.input_shape, plain.precision, plain.layout)
    speeds = _in_turn({"plain": usual, "compiled": work}, end)
    # beside the speed that the file has: both in the same moments
    ratio = speeds["compiled"] / speeds["plain"]
    return replace(network, compiled=plain.images_per_second * ratio, compile_seconds=took)


def _teacher(name: str, shape: Shape, precisions: tuple[Half, ...], end: float) -> TunedTeacher:
    works = {
        (precision, batch): _answer(name, shape, precision, batch)
        for precision in precisions
        for batch in (_BATCH, _LARGE)
    }
    speeds = _in_turn(works, end)
    return TunedTeacher(
        name,
        shape,
        speeds["fp32", _BATCH],
        speeds.get(("bf16", _BATCH)),
        speeds.get(("bf16", _LARGE)),
        speeds["fp32", _LARGE],
    )


# ---- what is measured ----------------------------------------------------------------------------


def _step(
    name: str, shape: Shape, precision: Half, layout: Layout, *, compiles: bool = False
) -> Work:
    """A training step: forward pass, cross-entropy, backward pass, SGD."""
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    network: Any = build_network(name, num_classes=10, input_shape=shape).train()
    network = network.to(memory_format=memory)
    forward = torch.compile(network.forward, dynamic=False) if compiles else network.forward
    optimiser = make_optimiser(
        network.parameters(), OptimSettings("sgd", {"lr": 1e-3, "momentum": 0.9})
    )
    x = torch.randn(_BATCH, *shape).contiguous(memory_format=memory)
    y = torch.arange(_BATCH) % 10

    def step() -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = forward(x, ()).logits
        functional.cross_entropy(logits.float(), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
        return _BATCH

    return step


def _answer(name: str, shape: Shape, precision: Half, batch: int) -> Work:
    """An answer, by the copy that answers in training."""
    network = fold(build_network(name, num_classes=100, input_shape=shape)).network
    if precision == "bf16":
        lower(network, torch.bfloat16)
    network = network.to(memory_format=torch.channels_last)
    x = torch.randn(batch, *shape).contiguous(memory_format=torch.channels_last)

    def answer() -> int:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            network(x, ())
        return batch

    return answer


def _with_threads(threads: int, work: Work) -> Work:
    def on_threads() -> int:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return work()

    return on_threads


def _in_turn(works: Mapping[Any, Work], end: float) -> dict[Any, float]:
    """Images/s of each: the median of rounds that take them in turn, after one that does not
    count. end: after which no further round is begun.
    """
    with _own_draws():
        for work in works.values():
            work()
        speeds: dict[Any, list[float]] = {key: [] for key in works}
        for number in range(_ROUNDS):
            if number and time.monotonic() > end:
                break
            for key in list(works)[:: 1 if number % 2 == 0 else -1]:
                speeds[key].append(_speed(works[key]))
    return {key: statistics.median(values) for key, values in speeds.items()}


def _speed(work: Work) -> float:
    start, images = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < _SECONDS or not images:
        images += work()
    return images / taken if taken else float(images)


@contextmanager
def _own_draws() -> Iterator[None]:
    """Within, dropout draws nothing that others would have drawn."""
    with torch.random.fork_rng(devices=[]):
        yield
