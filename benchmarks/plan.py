"""Compares what kd plan says with what then happens: seconds of the whole command, peak memory,
files. Each run follows its plan, from empty folders.

python -m benchmarks.plan
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.pairs import Pair, make_noise, make_teacher
from benchmarks.segments import Place, write_recipe

WITHIN = 0.2  # what kd plan promises
PAIR = Pair("resnet20", "resnet8", shape=(1, 28, 28), classes=10, crop=0, flip=True)
IMAGES = 8000
# by name: epochs of that pair, or a shipped recipe, whose teacher is trained as well
RECIPES: dict[str, int | str] = {
    "quickstart": "quickstart",
    "noise, 2 epochs": 2,
    "noise, 10 epochs": 10,
}


def kd(arguments: Sequence[str], folder: Path) -> tuple[float, dict[str, Any]]:
    """Seconds from start to end of a command that keeps all it knows in a folder, and the data of
    its --json.
    """
    own = {
        "KD_CACHE_DIR": str(folder / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache" / "inductor"),
    }
    command = [
        sys.executable,
        "-m",
        "kdcli",
        *arguments,
        "--out",
        str(folder / "runs"),
        "-qq",
        "--json",
    ]
    start = time.perf_counter()
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, text=True, env={**os.environ, **own}
    )
    seconds = time.perf_counter() - start
    document = json.loads(done.stdout)
    if done.returncode != 0:
        raise RuntimeError(
            f"kd {' '.join(arguments)} ended with exit code {done.returncode}: {document['errors']}"
        )
    return seconds, document["data"]


def compared(recipe: str) -> dict[str, Any]:
    """Planned and measured, by what."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planning, plan = kd(["plan", recipe], folder)
        seconds, result = kd(["distill", recipe], folder)
        tables = sum(path.stat().st_size for path in folder.glob("cache/logits/*"))
        written = sum(
            path.stat().st_size for path in Path(result["run"]).rglob("*") if path.is_file()
        )
    pairs = {
        "seconds": (plan["seconds"], seconds),
        "memory, MiB": (plan["peak_memory_mib"], result["peak_memory_mib"]),
        "run, kB": (plan["run_bytes"] / 1e3, written / 1e3),
        "logits, kB": (sum(table["bytes"] for table in plan["tables"]) / 1e3, tables / 1e3),
    }
    return {
        "planning_seconds": planning,
        "plan": plan,
        "values": {what: pair for what, pair in pairs.items() if None not in pair and pair[1]},
    }


def recipe_for(epochs: int | str, folder: Path) -> str:
    """A recipe's name, or the file of one for the pair: so long, at the automatic settings, with
    everything that a run has by default.
    """
    if isinstance(epochs, str):
        return epochs
    noise = make_noise(
        folder / "noise.npz", PAIR.shape, PAIR.classes, train=IMAGES, test=IMAGES // 4
    )
    usual = {
        "train.epochs": epochs,
        "teacher.cache": "auto",
        "data.val_fraction": 0.1,
        "report.html": True,
        "report.probe": 512,
    }
    return str(
        write_recipe(
            folder / f"{epochs}.toml",
            PAIR,
            Place(noise.path),
            make_teacher(PAIR, noise, folder),
            usual,
        )
    )


def show(name: str, found: dict[str, Any]) -> None:
    """Print a recipe's ratios."""
    for what, (planned, measured) in found["values"].items():
        verdict = "ok" if abs(planned / measured - 1) <= WITHIN else "off"
        print(
            f"  {name:18} {what:12} {planned:10.1f} {measured:10.1f} "
            f"{planned / measured:7.2f}  {verdict}"
        )


def arguments() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plan", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="plans and runs of each recipe (default 3)"
    )
    parser.add_argument(
        "--only",
        choices=RECIPES,
        action="append",
        help="this recipe alone; may be given several times",
    )
    parser.add_argument(
        "--json", type=Path, help="where the numbers go; benchmarks/results/plan.json unless given"
    )
    return parser


def main() -> None:
    """Measure, print and write."""
    options = arguments().parse_args()
    facts = figures.machine()
    figures.show_machine(facts)
    print(f"  {'':31} {'planned':>10} {'measured':>10} {'ratio':>7}")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only or RECIPES}
    with tempfile.TemporaryDirectory() as folder:
        recipes = {name: recipe_for(RECIPES[name], Path(folder)) for name in found}
        for _ in range(options.rounds):
            for name, recipe in recipes.items():
                found[name].append(compared(recipe))
                show(name, found[name][-1])
    figures.keep(
        "plan", facts, {"settings": {"rounds": options.rounds}, "recipes": found}, options.json
    )


if __name__ == "__main__":
    main()
