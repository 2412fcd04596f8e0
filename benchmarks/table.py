"""The wall time of a table: students of one teacher, one seed each, everything included, beside as
many runs of a textbook loop.

kd's side is a sweep: start, stored logits (from an empty table), training, measuring on the test
set, reports. The textbook's side is its loop, with workers and networks made for each run and the
test set measured after every epoch, as the field does; half of its runs come before the sweep and
half after it. The teacher exists before the clock starts.

Runs are short, so the augmentation is reduced with them: a table of ten students and 240 epochs
meets each of the 162 views of a picture 15 times; ten students of 2 epochs meet the 2 views that
flips alone make 10 times. `--crop 4` is the whole augmentation.

    python -m benchmarks.table
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import figures
from benchmarks.pairs import BATCH, PAIRS, Noise, Pair, make_noise, make_teacher, workshop
from benchmarks.segments import Place, write_recipe
from benchmarks.textbook import Textbook, TextbookRuns, make_loader
from kdcli.jobs import build_network, run_sweep
from kdcli.jobs.events import CellDone, Event


def write_sweep(
    folder: Path, pair: Pair, place: Place, teacher: Path, *, students: int, epochs: int
) -> Path:
    """A sweep file whose cells are students of one teacher that differ in their seed. Each is
    reported as any run of a sweep is.
    """
    changes = {
        "teacher.cache": "exact",
        "train.epochs": epochs,
        "report.html": "later",
        "report.probe": 512,
    }
    write_recipe(folder / "base.toml", pair, place, teacher, changes)
    sweep = folder / "sweep.toml"
    sweep.write_text(
        f'base = "base.toml"\n[axes]\nseed = {list(range(students))}\n', encoding="utf-8"
    )
    return sweep


def sweep_seconds(sweep: Path, out: Path, jobs: int = 1) -> list[float]:
    """Seconds from the end of one cell to the end of the next, of a sweep in which none fails."""
    ends = [time.perf_counter()]

    def note(event: Event) -> None:
        if isinstance(event, CellDone):
            ends.append(time.perf_counter())

    result = run_sweep(sweep, out=out, listeners=[note], jobs=jobs)
    failed = [cell.error for cell in result.cells if cell.status != "done"]
    assert not failed, failed
    return [after - before for before, after in itertools.pairwise(ends)]


def textbook_seconds(
    pair: Pair, noise: Noise, runs: TextbookRuns, *, workers: int, epochs: int, seed: int
) -> float:
    """Seconds of one run of the textbook loop, networks and workers included."""
    start = time.perf_counter()
    student = build_network(
        pair.student, num_classes=pair.classes, input_shape=pair.shape, seed=seed
    )
    training, test = (make_loader(pair, noise, workers, train=train) for train in (True, False))
    loop = Textbook(pair, student, runs.teacher, training, runs.device)
    for _ in range(epochs):
        loop.epoch()
        loop.validate(test)
    return time.perf_counter() - start


def measure(
    pair: Pair, *, students: int, epochs: int, batches: int, threads: int | None, jobs: int = 1
) -> dict[str, Any]:
    """Both sides' seconds, JSON-able."""
    with workshop() as folder:
        train = batches * BATCH
        noise = make_noise(
            folder / "noise.npz",
            pair.shape,
            pair.classes,
            train=train,
            test=max(train // 5, pair.classes),
        )
        teacher = make_teacher(pair, noise, folder)
        sweep = write_sweep(
            folder, pair, Place(noise.path, threads), teacher, students=students, epochs=epochs
        )
        runs = TextbookRuns(pair, noise, teacher)
        workers = max(runs.speeds, key=lambda number: runs.speeds[number])
        first, rest = range(students // 2), range(students // 2, students)
        textbook = [
            textbook_seconds(pair, noise, runs, workers=workers, epochs=epochs, seed=seed)
            for seed in first
        ]
        cells = sweep_seconds(sweep, folder / "runs", jobs)
        textbook += [
            textbook_seconds(pair, noise, runs, workers=workers, epochs=epochs, seed=seed)
            for seed in rest
        ]
    return {
        "workers": {"taken": workers, "trial": runs.speeds},
        "kd_seconds": sum(cells),
        "kd_cells": cells,
        "textbook_seconds": sum(textbook),
        "textbook_runs": textbook,
        "ratio": sum(textbook) / sum(cells),
    }


def arguments() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--pair",
        choices=PAIRS,
        default="resnet56-resnet20",
        metavar="PAIR",
        help=f"one of {', '.join(PAIRS)}",
    )
    parser.add_argument("--students", type=int, default=10, help="runs on each side (default 10)")
    parser.add_argument("--epochs", type=int, default=2, help="of each run (default 2)")
    parser.add_argument(
        "--batches", type=int, default=50, help=f"batches of {BATCH} in an epoch (default 50)"
    )
    parser.add_argument(
        "--crop",
        type=int,
        default=0,
        help="pixels of padding of the random crop; the field's is 4 (default 0: no crop)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="cells of the sweep that go on at once, as kd sweep --jobs (default 1)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice unless given")
    parser.add_argument(
        "--json", type=Path, help="where the numbers go; benchmarks/results/table.json unless given"
    )
    return parser


def main() -> None:
    """Measure, print and write."""
    options = arguments().parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    facts = figures.machine()
    figures.show_machine(facts)
    pair = replace(PAIRS[options.pair], crop=options.crop)
    settings = {
        key: value for key, value in vars(options).items() if key not in {"json", "pair", "crop"}
    }
    found = measure(pair, **settings)
    print(
        f"{options.pair}: {options.students} students, {options.epochs} epochs of "
        f"{options.batches} batches each, everything included"
    )
    print(
        f"  {found['textbook_seconds']:8.1f} s  runs of the textbook loop, "
        f"{found['workers']['taken']} workers (the best of those tried)"
    )
    print(
        f"  {found['kd_seconds']:8.1f} s  one kd sweep, {options.jobs} at a time; first cell "
        f"{found['kd_cells'][0]:.1f} s, last {found['kd_cells'][-1]:.1f} s"
    )
    print(f"  {found['ratio']:8.2f}    textbook / kd")
    settings |= {"pair": options.pair, "crop": options.crop}
    figures.keep("table", facts, {"settings": settings, **found}, options.json)


if __name__ == "__main__":
    main()
