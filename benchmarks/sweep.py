"""A sweep with several cells at once beside the same sweep one cell after another: kd sweep --jobs
N against --jobs 1.

One after another, each cell has all threads of this process; N at once, each has the cores of its
share. Cells are small students of one teacher, as those of tables for 28x28 pictures are, with the
teacher in the loop: both sides do the same work. The two sides take turns, and every sweep begins
with an empty folder.

    python -m benchmarks.sweep
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import figures
from benchmarks.figures import Timed
from benchmarks.pairs import BATCH, Noise, Pair, make_noise, make_teacher, workshop
from benchmarks.segments import Place, write_recipe
from kdcli.jobs import run_sweep
from kdcli.jobs.events import Event, FromRun, StageStarted
from kdcli.jobs.sweep.workers import machine_cores

PAIR = Pair("resnet20", "resnet8", shape=(1, 28, 28), classes=10, crop=0, flip=False)


class FirstStep:
    """Listener that notes when the first cell began to train."""

    def __init__(self) -> None:
        self.at: float | None = None

    def __call__(self, event: Event) -> None:
        inner = event.event if isinstance(event, FromRun) else event
        if self.at is None and isinstance(inner, StageStarted):
            self.at = time.perf_counter()


def write_sweep(folder: Path, noise: Noise, teacher: Path, *, cells: int, epochs: int) -> Path:
    """A sweep file whose cells are students that differ in their seed."""
    changes = {"teacher.cache": "off", "train.epochs": epochs}
    write_recipe(folder / "base.toml", PAIR, Place(noise.path), teacher, changes)
    path = folder / "sweep.toml"
    path.write_text(f'base = "base.toml"\n[axes]\nseed = {list(range(cells))}\n', encoding="utf-8")
    return path


def sweep_once(
    sweep: Path, outs: Iterator[Path], starts: list[float], *, jobs: int, images: int
) -> Timed:
    """One sweep from its start to its last report.

    Args:
        outs: folders to run in, each new. starts: gets the seconds until the first cell began to
            train. images: of all cells.
    """
    first = FirstStep()
    start = time.perf_counter()
    result = run_sweep(sweep, out=next(outs), listeners=[first], jobs=jobs)
    seconds = time.perf_counter() - start
    failed = [cell.error for cell in result.cells if cell.status != "done"]
    assert not failed, failed
    assert first.at is not None
    starts.append(first.at - start)
    return Timed(images, seconds)


def measure(*, jobs: int, cells: int, epochs: int, batches: int, rounds: int) -> dict[str, Any]:
    """Speeds of both sides, their ratio with and without the start of the workers, JSON-able."""
    with workshop() as folder:
        noise = make_noise(
            folder / "noise.npz", PAIR.shape, PAIR.classes, train=batches * BATCH, test=BATCH
        )
        sweep = write_sweep(
            folder, noise, make_teacher(PAIR, noise, folder), cells=cells, epochs=epochs
        )
        outs = (folder / f"runs-{number}" for number in itertools.count())
        images = cells * epochs * batches * BATCH
        starts: dict[str, list[float]] = {"one": [], "several": []}
        sides = {
            name: partial(sweep_once, sweep, outs, starts[name], jobs=n, images=images)
            for name, n in (("one", 1), ("several", jobs))
        }
        speeds = figures.in_turn(sides, rounds)
    seconds = {name: [images / speed for speed in values] for name, values in speeds.items()}
    started = {
        name: [whole - first for whole, first in zip(values, starts[name], strict=True)]
        for name, values in seconds.items()
    }
    return {
        "seconds": seconds,
        "seconds_to_first_step": starts,
        "images_per_second": speeds,
        "ratio": figures.ratio("several / one", speeds["several"], speeds["one"]).to_json(),
        "ratio_once_started": figures.ratio(
            "several / one, once started", started["one"], started["several"]
        ).to_json(),
    }


def show(found: dict[str, Any], jobs: int) -> None:
    """Print what was measured."""
    print(f"  {'':22} {'seconds':>8}  {'range':>17}    to the first step")
    for name, label in (("one", "one cell at a time"), ("several", f"{jobs} cells at a time")):
        start = figures.spread(found["seconds_to_first_step"][name])
        print(
            f"  {label:22} {figures.spread(found['seconds'][name]).show(1)}    {start.median:.1f}"
        )
    for key, label in (("ratio", "times as fast"), ("ratio_once_started", "times, once started")):
        values = found[key]
        print(f"  {label:22} {values['median']:8.2f}  {values['low']:.2f} - {values['high']:.2f}")


def arguments() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=(__doc__ or "").partition("\n")[0]
    )
    cores = len(machine_cores())
    parser.add_argument(
        "--jobs",
        type=int,
        default=cores,
        help=f"cells at a time (default: one a core, here {cores})",
    )
    parser.add_argument("--cells", type=int, default=4, help="of the sweep (default 4)")
    parser.add_argument("--epochs", type=int, default=5, help="of each cell (default 5)")
    parser.add_argument(
        "--batches", type=int, default=50, help=f"batches of {BATCH} in an epoch (default 50)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that the two take turns (default 3)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="CPU threads of a cell that is alone; torch's choice unless given",
    )
    parser.add_argument(
        "--json", type=Path, help="where the numbers go; benchmarks/results/sweep.json unless given"
    )
    return parser


def main() -> None:
    """Measure, print and write."""
    options = arguments().parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    facts = figures.machine()
    figures.show_machine(facts)
    settings = {
        key: value for key, value in vars(options).items() if key not in {"json", "threads"}
    }
    print(
        f"{options.cells} cells of {options.epochs} epochs of {options.batches} batches, "
        f"{PAIR.student} under {PAIR.teacher}, everything included"
    )
    found = measure(**settings)
    show(found, options.jobs)
    figures.keep("sweep", facts, {"settings": settings, **found}, options.json)


if __name__ == "__main__":
    main()
