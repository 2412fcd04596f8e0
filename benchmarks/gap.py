"""Measures the cost of `kd analyze-gap` beside the answers of its networks, and how much memory it
takes.

Networks are untrained and pictures are noise: what an analysis costs does not depend on what they
show.

    python -m benchmarks.gap
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.pairs import PAIRS, Pair, make_noise, make_teacher, workshop
from benchmarks.processes import summary_and_peak

MOST = 0.2  # of the networks' time, for everything that is not optional
IMAGES, MANY_IMAGES = 10_000, 50_000
SMALL = Pair("mlp", "mlp", shape=(1, 8, 8), classes=1_000, crop=0, flip=False)


def analysed(pair: Pair, images: int, folder: Path) -> tuple[dict[str, Any], float]:
    """The data of `kd analyze-gap --json` of a pair on so many test images, and the most memory of
    its process, MiB.
    """
    folder.mkdir()
    noise = make_noise(
        folder / "noise.npz", pair.shape, pair.classes, train=2 * pair.classes, test=images
    )
    teacher = make_teacher(pair, noise, folder / "teacher")
    student = make_teacher(
        Pair(pair.student, pair.student, pair.shape, pair.classes), noise, folder / "student"
    )
    return summary_and_peak(["analyze-gap", "--teacher", str(teacher), "--student", str(student)])


def cost(seconds: Mapping[str, float]) -> tuple[float, float]:
    """Seconds of the networks, and of all the rest."""
    return seconds["networks"], sum(value for name, value in seconds.items() if name != "networks")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gap", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--json", type=Path, help="where the numbers go; benchmarks/results/gap.json unless given"
    )
    options = parser.parse_args()
    facts = figures.machine()
    figures.show_machine(facts)
    with workshop() as folder:
        found, _ = analysed(PAIRS["resnet56-resnet20"], IMAGES, folder / "usual")
        networks, rest = cost(found["seconds"])
        verdict = "ok" if rest <= MOST * networks else "short"
        print(
            f"resnet56 and resnet20, {IMAGES:,} images, 100 classes: networks {networks:.1f} "
            f"s, analysis {rest:.1f} s,"
        )
        print(f"  {rest / networks:.0%} on top  {verdict} (<= {MOST:.0%})", flush=True)
        large = {
            count: analysed(SMALL, count, folder / str(count)) for count in (IMAGES, MANY_IMAGES)
        }
        print(f"two networks of {SMALL.classes:,} classes, peak memory of the process:")
        for count, (_, peak) in large.items():
            logits = 2 * 4 * count * SMALL.classes / 2**20
            print(
                f"  {count:,} images: {peak:,.0f} MiB, of which {logits:,.0f} are both "
                "networks' logits"
            )
    results = {
        "seconds": found["seconds"],
        "large": {count: peak for count, (_, peak) in large.items()},
    }
    figures.keep("gap", facts, results, options.json)


if __name__ == "__main__":
    main()
