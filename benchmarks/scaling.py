"""Measures how cost grows: with samples, length of a run, classes, students and ranks; memory with
the batch; and the time to the first step.

Cost per image must not grow with the number of samples, the length of the run or the number of
students. Networks are small on purpose: what grows shows beside them first.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --only samples memory --rounds 5
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import figures
from benchmarks.figures import Ratio, Segment, Spread, in_turn, ratio, spread
from benchmarks.pairs import BATCH, PAIRS, Pair, make_noise, make_teacher, workshop
from benchmarks.processes import (
    resident_mib,
    said_by,
    seconds_of,
    seconds_to_first_step,
    summary_of,
)
from benchmarks.segments import (
    Bare,
    Engine,
    Place,
    distill_recipe,
    fill_with_noise,
    plain_recipe,
    write_recipe,
)
from benchmarks.table import sweep_seconds, write_sweep
from kdcli.errors import KdError
from kdcli.recipe.resolve import resolve

SMALL = Pair("resnet14", "resnet8", shape=(3, 16, 16), classes=10, crop=0, flip=False)
# speed at the far end of an axis over that at its near end, where cost must not grow: the rest is
# noise
FLAT = 0.9


@dataclass(frozen=True, slots=True)
class Part:
    """What was measured along one axis.

    rows: values by label, several of one label where it was measured several times. ratios: what
    follows from them.
    """

    title: str
    unit: str
    rows: Mapping[str, Sequence[float]]
    ratios: Sequence[Ratio] = ()
    digits: int = 0

    def show(self) -> None:
        """Print it."""
        print(f"{self.title}\n  {self.unit:46}  {'median':>8}  {'range':>17}")
        for label, values in self.rows.items():
            found: Spread = spread(values)
            print(f"  {label:46}  {found.show(self.digits)}")
        if self.ratios:
            print(f"  {'ratio':58}  {'median':>6}  {'range':>13}")
        for item in self.ratios:
            print(f"  {item.name:58}  {item.show()}")
        print(flush=True)

    def to_json(self) -> dict[str, Any]:
        """Every value."""
        rows = {label: list(values) for label, values in self.rows.items()}
        return {
            "unit": self.unit,
            "rows": rows,
            "ratios": {item.name: item.to_json() for item in self.ratios},
        }


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; the tests take less."""

    rounds: int = 3
    threads: int | None = None
    samples: tuple[int, ...] = (1_024, 8_192, 32_768)
    epochs: int = 60
    classes: tuple[int, ...] = (10, 100, 1_000, 10_000)
    images: int = 40 * BATCH  # of any number of classes, but one each at least
    students: int = 12
    ranks: tuple[int, ...] = (1, 2)
    batches: tuple[int, ...] = (32, 64, 128, 256, 512)


def _engines(pair: Pair, folder: Path, samples: int, sizes: Sizes) -> dict[str, Engine]:
    """Plain training of a pair's student, and distillation with stored logits, on so many
    pictures.
    """
    noise = make_noise(
        folder / f"{samples}-{pair.classes}.npz",
        pair.shape,
        pair.classes,
        train=samples,
        test=BATCH,
    )
    teacher = make_teacher(pair, noise, folder)
    place, batches = Place(noise.path, sizes.threads), samples // BATCH
    stored = Engine(
        distill_recipe(pair, place, "auto", batches=batches, teacher=teacher, cache="exact")
    )
    fill_with_noise(stored)
    return {
        "student alone": Engine(plain_recipe(pair, place, "auto", batches=batches)),
        "stored logits": stored,
    }


def samples(sizes: Sizes) -> Part:
    """Whole epochs of training sets of different length."""
    with workshop() as folder:
        segments: dict[str, Segment] = {}
        for count in sizes.samples:
            segments |= {
                f"{name}, {count:,} images": engine.segment
                for name, engine in _engines(SMALL, folder, count, sizes).items()
            }
        speeds = _after_one(segments, sizes.rounds)
    least, most = sizes.samples[0], sizes.samples[-1]
    found = [
        ratio(
            f"{name}: {most:,} / {least:,} images",
            speeds[f"{name}, {most:,} images"],
            speeds[f"{name}, {least:,} images"],
            FLAT,
        )
        for name in ("student alone", "stored logits")
    ]
    return Part("cost against number of samples: whole epochs", "images/s", speeds, found)


def length(sizes: Sizes) -> Part:
    """One long run on few pictures: its second quarter beside its last."""
    with workshop() as folder:
        engine = _engines(SMALL, folder, sizes.samples[0], sizes)["stored logits"]
        engine.segment()
        quarter = max(sizes.epochs // 4, 1)
        early = [timed.speed for timed in engine.epochs(2 * quarter)][quarter:]
        before = resident_mib()
        late = [timed.speed for timed in engine.epochs(2 * quarter)][quarter:]
        after = resident_mib()
    rows = {
        f"epochs {quarter + 1} to {2 * quarter}": early,
        f"epochs {3 * quarter + 1} to {4 * quarter}": late,
    }
    if before is not None and after is not None:
        rows["memory gained in the second half, MiB"] = [after - before]
    medians = [statistics.median(values) for values in (late, early)]
    found = Ratio("late / early", (medians[0] / medians[1],), FLAT)
    return Part(
        f"cost against length of the run: epochs of {sizes.samples[0]:,} images, stored logits",
        "images/s",
        rows,
        [found],
    )


def classes(sizes: Sizes) -> Part:
    """Pictures of more and more classes; the head grows with them, so that the floor does too."""
    segments: dict[str, Segment] = {}
    with workshop() as folder:
        for number in sizes.classes:
            count = -(-max(number, sizes.images) // BATCH) * BATCH  # every class needs an image
            engines = _engines(replace(SMALL, classes=number), folder, count, sizes)
            segments |= {
                f"{name}, {number:,} classes": engine.segment for name, engine in engines.items()
            }
            segments[f"bare student, {number:,} classes"] = Bare(engines["student alone"]).segment
        speeds = _after_one(segments, sizes.rounds)
    pairs = (("student alone", "bare student"), ("stored logits", "student alone"))
    found = [
        ratio(
            f"{a} / {b}, {number:,} classes",
            speeds[f"{a}, {number:,} classes"],
            speeds[f"{b}, {number:,} classes"],
        )
        for a, b in pairs
        for number in sizes.classes
    ]
    return Part("cost against number of classes: whole epochs", "images/s", speeds, found)


def _after_one(segments: Mapping[str, Segment], rounds: int) -> dict[str, list[float]]:
    for segment in segments.values():
        segment()
    return in_turn(segments, rounds)


def students(sizes: Sizes) -> Part:
    """The cells of a sweep, everything included: the second third beside the last."""
    with workshop() as folder:
        noise = make_noise(
            folder / "noise.npz", SMALL.shape, SMALL.classes, train=16 * BATCH, test=4 * BATCH
        )
        teacher = make_teacher(SMALL, noise, folder)
        sweep = write_sweep(
            folder,
            SMALL,
            Place(noise.path, sizes.threads),
            teacher,
            students=sizes.students,
            epochs=1,
        )
        cells = sweep_seconds(sweep, folder / "runs")
    third = max(sizes.students // 3, 1)
    early, late = cells[-2 * third : -third], cells[-third:]
    rows = {"the first cell": cells[:1], "the second third": early, "the last third": late}
    found = Ratio(
        "speed of the last third / the second",
        (statistics.median(early) / statistics.median(late),),
        FLAT,
    )
    return Part(
        f"cost against number of students: {sizes.students} cells of one sweep",
        "seconds a cell",
        rows,
        [found],
        digits=2,
    )


def memory(sizes: Sizes) -> Part:
    """The most that a job takes, a process for each batch size. The batch of the test is small, so
    that training decides.
    """
    pair = PAIRS["resnet56-resnet20"]
    peaks: dict[int, float] = {}
    with workshop() as folder:
        noise = make_noise(
            folder / "noise.npz",
            pair.shape,
            pair.classes,
            train=2 * max(sizes.batches),
            test=2 * BATCH,
        )
        teacher = make_teacher(pair, noise, folder)
        for size in sizes.batches:
            changes = {"train.batch_size": size, "train.epochs": 1, "data.eval_batch_size": 32}
            recipe = write_recipe(
                folder / f"batch-{size}.toml",
                pair,
                Place(noise.path, sizes.threads),
                teacher,
                changes,
            )
            peaks[size] = summary_of(["distill", str(recipe), "--out", str(folder)])[
                "peak_memory_mib"
            ]
    rows = {f"batch {size}": [peak] for size, peak in peaks.items()}
    for smaller, larger in zip(sizes.batches, sizes.batches[1:], strict=False):
        rows[f"each image more, batch {smaller} to {larger}"] = [
            (peaks[larger] - peaks[smaller]) / (larger - smaller)
        ]
    return Part("memory against batch: resnet56-resnet20, live teacher", "MiB", rows, digits=2)


def memory_of(sizes: Sizes) -> Part:
    """What a job's memory is of, beside that of a loop with torch alone: processes look at
    themselves on the way.
    """
    pair = PAIRS["resnet56-resnet20"]
    with workshop() as folder:
        noise = make_noise(
            folder / "noise.npz", pair.shape, pair.classes, train=16 * BATCH, test=2 * BATCH
        )
        teacher, place = make_teacher(pair, noise, folder), Place(noise.path, sizes.threads)
        changes = {"train.batch_size": BATCH, "train.epochs": 1}
        recipe = write_recipe(folder / "parts.toml", pair, place, teacher, changes)
        module = ["-m", "benchmarks.memory_of"]
        found = {
            "kd distill": said_by([*module, "kd", str(recipe), str(folder)]),
            "torch alone": said_by([*module, "loop", "resnet56-resnet20", str(BATCH)]),
        }
    rows = {
        f"{who}: {name}": [mib] for who, memory in found.items() for name, mib in memory.items()
    }
    return Part(f"memory of what: resnet56-resnet20, batch {BATCH}, live teacher", "MiB", rows)


AFTER_TORCH = "not compiled, from the end of import torch"


def start(sizes: Sizes) -> Part:
    """Fresh processes from their start to the end of their first optimiser step, beside what
    importing torch takes.

    A job that is not compiled; the first one of a kind that is; and the second, which finds
    compiled code. What compiling takes longer is repaid after so many steps as it makes each of
    them faster.
    """
    pair = PAIRS["resnet56-resnet20"]
    jobs = {"not compiled": "off", "compiled": "on", "compiled before": "on"}
    taken: dict[str, list[float]] = {name: [] for name in ("import torch", *jobs, AFTER_TORCH)}
    with workshop() as folder:
        noise = make_noise(
            folder / "noise.npz", pair.shape, pair.classes, train=16 * BATCH, test=2 * BATCH
        )
        teacher, place = make_teacher(pair, noise, folder), Place(noise.path, sizes.threads)
        recipes = {
            value: write_recipe(
                folder / f"{value}.toml", pair, place, teacher, {"runtime.compile": value}
            )
            for value in ("off", "on")
        }
        for number in range(sizes.rounds):
            taken["import torch"].append(seconds_of(["-c", "import torch"]))
            for name, value in jobs.items():
                whole, after = seconds_to_first_step(
                    recipes[value], folder / "runs", folder / f"cache-{number}"
                )
                taken[name].append(whole)
                if name == "not compiled":
                    taken[AFTER_TORCH].append(after)
        engines = {
            value: Engine(resolve("distill", file=recipe).recipe)
            for value, recipe in recipes.items()
        }
        speeds = _after_one(
            {value: engine.segment for value, engine in engines.items()}, sizes.rounds
        )
    found = [ratio(f"{name} / import torch", taken[name], taken["import torch"]) for name in jobs]
    steps = {
        f"steps that repay it: {name}": [
            repaid(taken[name], taken["not compiled"], speeds["on"], speeds["off"])
        ]
        for name in ("compiled", "compiled before")
    }
    return Part(
        "start of kd distill to its first step: resnet56-resnet20, live teacher",
        "seconds",
        {**taken, **steps},
        found,
        digits=2,
    )


def repaid(
    compiled: Sequence[float], plain: Sequence[float], fast: Sequence[float], slow: Sequence[float]
) -> float:
    """Steps after which compiling has paid; infinity where it makes nothing faster.

    Args:
        compiled, plain: seconds to the first step. fast, slow: images/s with and without.
    """
    later = max(statistics.median(compiled) - statistics.median(plain), 0.0)
    gained = BATCH / statistics.median(slow) - BATCH / statistics.median(fast)
    return later / gained if gained > 0 else math.inf


def ranks(sizes: Sizes) -> Part:
    """One process beside several that share its minibatches and its cores: the speed of a run's
    last epoch.
    """
    counts = [count for count in sizes.ranks if count <= (os.cpu_count() or 1)]
    speeds: dict[str, list[float]] = {f"{count} rank{'s' * (count > 1)}": [] for count in counts}
    with workshop() as folder:
        noise = make_noise(
            folder / "noise.npz", SMALL.shape, SMALL.classes, train=32 * BATCH, test=BATCH
        )
        teacher, place = (
            make_teacher(SMALL, noise, folder),
            Place(noise.path, sizes.threads, device="cpu"),
        )
        recipes = [
            write_recipe(
                folder / f"{count}.toml",
                SMALL,
                place,
                teacher,
                {"runtime.devices": count, "train.epochs": 2},
            )
            for count in counts
        ]
        for _ in range(sizes.rounds):
            for recipe, values in zip(recipes, speeds.values(), strict=True):
                values.append(
                    summary_of(["distill", str(recipe), "--out", str(folder)])["images_per_second"]
                )
    first, *others = speeds
    found = [ratio(f"{name} / {first}", speeds[name], speeds[first]) for name in others]
    return Part(
        "cost against number of ranks: gloo, the same cores, the same batch in all",
        "images/s",
        speeds,
        found,
    )


PARTS: Mapping[str, Callable[[Sizes], Part]] = {
    "samples": samples,
    "length": length,
    "classes": classes,
    "students": students,
    "ranks": ranks,
    "memory": memory,
    "memory-of": memory_of,
    "start": start,
}


def arguments() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"of {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="rounds of samples, classes, ranks and start (default 3)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice unless given")
    parser.add_argument(
        "--json",
        type=Path,
        help="where the numbers go; benchmarks/results/scaling.json unless given",
    )
    return parser


def main() -> None:
    """Measure, print and write."""
    options = arguments().parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    facts = figures.machine()
    figures.show_machine(facts)
    found: dict[str, Any] = {}
    for name in options.only:
        try:
            part = PARTS[name](Sizes(rounds=options.rounds, threads=options.threads))
        except KdError as error:  # such as no compiler: the other parts can do without
            print(f"{name}: not measured: {error.message}\n", flush=True)
            continue
        part.show()
        found[name] = part.to_json()
    settings = {"batch": BATCH, "rounds": options.rounds, "threads": options.threads}
    figures.keep("scaling", facts, {"settings": settings, "parts": found}, options.json)


if __name__ == "__main__":
    main()
