"""Measures what bfloat16 and compiling gain: one training step of students, and answers of folded
teachers, on a batch that lies ready.

Networks are untrained and pictures are noise. With --compiled each takes up to a minute more before
its first round, some far longer.

    python -m benchmarks.precision
    python -m benchmarks.precision --students fashion-mnist-student:1x28x28 --compiled --threads 1
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks import figures
from benchmarks.figures import Segment, Timed, in_turn, ratio, spread
from benchmarks.pairs import BATCH
from kdcli.engine.memory import keep_memory
from kdcli.engine.teachers.inference import fold, lower
from kdcli.jobs import build_network
from kdcli.models.cost import density

STUDENTS = (
    "mobilenet_v2:3x32x32",
    "shufflenet_v1:3x32x32",
    "shufflenet_v2:3x32x32",
    "fashion-mnist-student:1x28x28",
    "cnn-small:1x8x8",
    "cnn-small:1x28x28",
    "resnet8:1x28x28",
    "resnet8:3x32x32",
    "resnet20:3x32x32",
    "wrn_16_2:3x32x32",
    "cnn-large:1x8x8",
    "resnet8x4:3x32x32",
    "fashion-mnist-large:1x28x28",
    "vgg8:3x32x32",
    "mlp:1x28x28",
)
TEACHERS = (
    "resnet56:3x32x32",
    "resnet32x4:3x32x32",
    "wrn_40_2:3x32x32",
    "fashion-mnist-large:1x28x28",
    "vgg13:3x32x32",
)
SECONDS = 0.25  # of a segment at least
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def shape_of(case: str) -> tuple[str, tuple[int, int, int]]:
    """A network's name and [C,H,W], of NAME:CxHxW."""
    name, _, sides = case.partition(":")
    channels, height, width = (int(side) for side in sides.split("x"))
    return name, (channels, height, width)


def student(case: str, kind: str, *, compiled: bool) -> Callable[[], None]:
    """A training step: forward pass, cross-entropy, backward pass, SGD."""
    name, shape = shape_of(case)
    network = (
        build_network(name, num_classes=10, input_shape=shape)
        .train()
        .to(memory_format=torch.channels_last)
    )
    forward = torch.compile(network.forward, dynamic=False) if compiled else network.forward
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=True)
    x, y = (
        torch.randn(BATCH, *shape).contiguous(memory_format=torch.channels_last),
        torch.arange(BATCH) % 10,
    )

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            logits = forward(x, ()).logits
        functional.cross_entropy(logits.float(), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    return step


def teacher(case: str, kind: str, *, compiled: bool) -> Callable[[], None]:
    """An answer, by the copy that answers in training."""
    name, shape = shape_of(case)
    network = fold(build_network(name, num_classes=100, input_shape=shape)).network
    if kind == "bf16":
        lower(network, KINDS[kind])
    network = network.to(memory_format=torch.channels_last)
    forward = (
        torch.compile(network, dynamic=False, options={"freezing": True}) if compiled else network
    )
    x = torch.randn(BATCH, *shape).contiguous(memory_format=torch.channels_last)

    def answer() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            forward(x, ())

    return answer


def timed(work: Callable[[], None], seconds: float) -> Segment:
    """A segment that goes on for so long at least; the first three times are not part of any."""
    for _ in range(3):
        work()

    def segment() -> Timed:
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            work()
            count += 1
        return Timed(count * BATCH, time.perf_counter() - start)

    return segment


def measure(
    case: str,
    make: Callable[..., Callable[[], None]],
    *,
    compiled: bool,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Speeds of a network in turn, and what they say of each other."""
    ways = list(itertools.product(KINDS, ("plain", "compiled") if compiled else ("plain",)))
    speeds = in_turn(
        {
            f"{kind} {way}": timed(make(case, kind, compiled=way == "compiled"), seconds)
            for kind, way in ways
        },
        rounds,
    )
    ratios = {"bf16 / fp32": ratio("bf16 / fp32", speeds["bf16 plain"], speeds["fp32 plain"])}
    if compiled:
        ratios |= {
            f"{kind} compiled": ratio("", speeds[f"{kind} compiled"], speeds[f"{kind} plain"])
            for kind in KINDS
        }
    name, shape = shape_of(case)
    values = density(build_network(name, num_classes=10, input_shape=shape), torch.zeros(1, *shape))
    told = "  ".join(f"{label} {found.show()}" for label, found in ratios.items())
    print(
        f"{case:30} {values:5.0f}  fp32 {spread(speeds['fp32 plain']).median:9,.0f}  {told}",
        flush=True,
    )
    return {
        "values": values,
        "speeds": speeds,
        "ratios": {label: found.to_json() for label, found in ratios.items()},
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--students",
        nargs="*",
        default=STUDENTS,
        metavar="NAME:CxHxW",
        help="networks that are trained",
    )
    parser.add_argument(
        "--teachers", nargs="*", default=TEACHERS, metavar="NAME:CxHxW", help="networks that answer"
    )
    parser.add_argument("--compiled", action="store_true", help="compiled code too")
    parser.add_argument("--rounds", type=int, default=7, help="(default 7)")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice unless given")
    parser.add_argument(
        "--json",
        type=Path,
        help="where the numbers go; benchmarks/results/precision.json unless given",
    )
    given = parser.parse_args()
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    keep_memory()
    torch._dynamo.config.recompile_limit = 1024  # noqa: SLF001  all networks of a process share theirs
    facts = figures.machine()
    figures.show_machine(facts)
    found: dict[str, Any] = {}
    for role, make, cases in (
        ("students", student, given.students),
        ("teachers", teacher, given.teachers),
    ):
        print(f"{role}: multiply-adds a value, images/s, ratios with their range")
        found[role] = {
            case: measure(case, make, compiled=given.compiled, rounds=given.rounds, seconds=SECONDS)
            for case in cases
        }
    figures.keep(
        "precision",
        facts,
        {"settings": {"batch": BATCH, "rounds": given.rounds}, **found},
        given.json,
    )


if __name__ == "__main__":
    main()
