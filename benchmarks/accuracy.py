"""Measures what the fast path costs in accuracy: students of one teacher trained in pairs that
differ in arithmetic alone.

Every variant trains the same students: same data, same initial weights, same order and views of
images, seed by seed. The last epoch is measured on the whole test split, in float32. Differences
are paired by seed, with a t interval over seeds.

    python -m benchmarks.accuracy --data fashion-mnist --variants fp32 fast --seeds 10

A student that is finished is not trained again: the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from scipy import stats
from torch import Tensor, nn

from kdcli.core.network import Network
from kdcli.engine.evaluator import collect, evaluating
from kdcli.engine.runtime import Runtime
from kdcli.jobs import distill
from kdcli.jobs.build.datasets import open_feed
from kdcli.jobs.build.networks import load_network
from kdcli.recipe.resolve import resolve

BASELINE = "fp32"


# ---- what is varied ------------------------------------------------------------------------------


def _head_in_bf16() -> AbstractContextManager[Any]:
    return patch.object(Network, "classify", lambda network, pooled: network.head(pooled))


def _norms_in_fp32() -> AbstractContextManager[Any]:
    forward = nn.BatchNorm2d.forward
    return patch.object(
        nn.BatchNorm2d, "forward", lambda norm, x: forward(norm, x.float()).to(x.dtype)
    )


def _weights_in_bf16() -> AbstractContextManager[Any]:
    step = Runtime.step

    def rounded(
        runtime: Runtime, optimiser: torch.optim.Optimizer, clip_norm: float | None
    ) -> None:
        step(runtime, optimiser, clip_norm)
        with torch.no_grad():
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    parameter.copy_(parameter.bfloat16())

    return patch.object(Runtime, "step", rounded)


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to compute: recipe keys, and a change of the code where no key does it."""

    about: str
    keys: Mapping[str, str]
    change: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext


_BF16 = {"runtime.precision": "bf16", "runtime.teacher_precision": "fp32", "runtime.compile": "off"}
VARIANTS: Mapping[str, Variant] = {
    BASELINE: Variant(
        "everything in float32, nothing compiled",
        {"runtime.precision": "fp32", "runtime.compile": "off"},
    ),
    "fast": Variant(
        "the fast path: teacher and student in bf16, head in float32, compiled",
        {"runtime.precision": "bf16", "runtime.compile": "on"},
    ),
    "compiled": Variant(
        "float32, compiled", {"runtime.precision": "fp32", "runtime.compile": "on"}
    ),
    "teacher": Variant(
        "the teacher alone in bf16",
        {
            "runtime.precision": "fp32",
            "runtime.teacher_precision": "bf16",
            "runtime.compile": "off",
        },
    ),
    "bf16": Variant("the student in bf16, its head in float32", _BF16),
    "head": Variant("the student in bf16, its head too", _BF16, _head_in_bf16),
    "norms": Variant(
        "the student in bf16, its head and batch norms in float32", _BF16, _norms_in_fp32
    ),
    "weights": Variant(
        "the student in bf16, its weights kept in bf16 too", _BF16, _weights_in_bf16
    ),
}


# ---- students ------------------------------------------------------------------------------------


def student(data: str, variant: str, seed: int, out: Path) -> float:
    """Test accuracy of one student, trained now unless it is there."""
    run = out / f"{data}-{variant}-{seed}"
    summary = run / "summary.json"
    if not summary.exists():
        chosen = VARIANTS[variant]
        with chosen.change():
            distill(
                f"{data}/speed",
                out=out,
                name=run.name,
                seed=seed,
                overrides={**chosen.keys, "report.html": False, "report.probe": 0},
            )
    found: float = json.loads(summary.read_text(encoding="utf-8"))["test"]["accuracy"]
    return found


def evaluated_in_bf16(data: str, variant: str, seed: int, out: Path) -> float:
    """Test accuracy of a trained student if its evaluation ran in bf16, its head too."""
    network = load_network(out / f"{data}-{variant}-{seed}")[0]
    feed = open_feed(
        resolve("distill", file=Path(f"{data}/speed")).recipe.data,
        device=torch.device("cpu"),
        seed=seed,
    )

    def answer(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = network(x).logits
        return logits

    with evaluating(network), _head_in_bf16():
        logits, targets = collect(lambda batch: answer(batch.x), feed.split("test"))
    return float((logits.argmax(1) == targets).double().mean())


# ---- differences ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """Points of accuracy that a variant gains over the baseline: mean over pairs, and a 95 % t
    interval.
    """

    mean: float
    low: float
    high: float
    deviation: float
    pairs: int


def paired(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """The difference over the seeds that both have; two or more. Fractions in, percentage points
    out.
    """
    points = [
        100 * (variant[seed] - baseline[seed]) for seed in sorted(variant.keys() & baseline.keys())
    ]
    mean, deviation = statistics.mean(points), statistics.stdev(points)
    half = float(stats.t.ppf(0.975, len(points) - 1)) * deviation / len(points) ** 0.5
    return Difference(mean, mean - half, mean + half, deviation, len(points))


def rows(found: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    """The table, a line for each variant."""
    yield (
        f"{'variant':14} {'accuracy':>9} {'difference':>11} {'95 % interval':>19} {'sd':>6}  seeds"
    )
    for name, accuracies in found.items():
        line = f"{name:14} {100 * statistics.mean(accuracies.values()):8.2f} %"
        shared = accuracies.keys() & found[BASELINE].keys()
        if name != BASELINE and len(shared) > 1:
            change = paired(accuracies, found[BASELINE])
            line += (
                f" {change.mean:+10.2f}  [{change.low:+.2f}, {change.high:+.2f}]".ljust(32)
                + f"{change.deviation:7.2f}"
            )
        yield line + f"  {len(accuracies)}".rjust(60 - len(line) if len(line) < 55 else 4)


def main() -> None:
    """Train what is missing and print the differences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        nargs="+",
        choices=["fashion-mnist", "cifar10"],
        default=["fashion-mnist", "cifar10"],
    )
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=[BASELINE, "fast"])
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[10],
        help="one number: so many, from 0; several: these",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/accuracy"), help="folder of the runs"
    )
    parser.add_argument("--json", type=Path, help="where to write every accuracy and difference")
    given = parser.parse_args()
    seeds = range(given.seeds[0]) if len(given.seeds) == 1 else given.seeds
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "data": {},
    }
    for data in given.data:
        found: dict[str, dict[int, float]] = {
            name: {} for name in dict.fromkeys([BASELINE, *given.variants])
        }
        for seed in seeds:  # seed by seed, so that what is finished early is paired
            for name, accuracies in found.items():
                accuracies[seed] = student(data, name, seed, given.out)
                print(f"{data} {name} seed {seed}: {100 * accuracies[seed]:.2f} %", flush=True)
        found |= {
            f"{name}, tested so": {
                seed: evaluated_in_bf16(data, name, seed, given.out) for seed in seeds
            }
            for name in given.variants
            if name == "head"
        }
        print(f"\n{data}", *rows(found), sep="\n")
        result["data"][data] = {
            name: {str(seed): value for seed, value in accuracies.items()}
            for name, accuracies in found.items()
        }
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
