"""Which rule takes the better teacher: short probes (`kd find-teacher`), accuracy, or entropy?

For each seed `kd find-teacher` races teachers on held-out images. Of the very checkpoints that it
has then, three rules take one:

    probed         whose probe's student was the most accurate, at the temperature of that probe
    most accurate  that was itself the most accurate, at kd's usual temperature
    most entropy   of those trained longest, whose answers have most entropy, likewise (paper 001:
                   soft labels of high entropy are what makes distillation more than smoothing)

and "probed, usual temperature" parts the checkpoint from the temperature. The race trains few
teachers for long, so the rules often take the same checkpoint, and then say nothing about each
other: --trials makes that rarer. A student is trained
from each for the whole of its recipe, with the same images held out, and measured on the test
images. Mean and 95 % interval (Student's t) over seeds; differences are paired by seed.

Scaled: the teachers see 20,000 images of Fashion-MNIST (10,000 of CIFAR-10), the students 3,000
(2,000), and eight (ten) epochs of a teacher are raced; docs/results/advice.md is on the same pairs.
What is finished is found again, so it may be stopped and started.

    kd datasets fashion-mnist --download
    kd datasets cifar10 --download
    python -m benchmarks.find_teacher --seeds 0 1 2 --json docs/results/find-teacher.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy import stats

from kdcli.jobs import find_teacher
from kdcli.jobs.train.run import find_or_train
from kdcli.recipe.resolve import Flag, resolve
from kdcli.results.search import FoundTeacher, Score
from kdcli.runs.read import Run

RECIPES = {"fashion-mnist": "fashion-mnist/advice-student", "cifar10": "cifar10/advice-student"}
TEMPERATURE = 4.0  # kd's own
TRIALS = 8
RULES = ("probed", "probed, usual temperature", "most accurate", "most entropy")


@dataclass(frozen=True, slots=True)
class Taken:
    """What one rule took with one seed, and its student on the test images."""

    data: str
    seed: int
    rule: str
    teacher_accuracy: float
    teacher_entropy: float
    epochs: int
    temperature: float
    accuracy: float
    n: int


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds and its 95 % interval; None of one seed."""

    value: float
    half: float | None
    seeds: int


def choices(found: FoundTeacher) -> dict[str, tuple[Score, float]]:
    """What each rule takes: the checkpoint's score, and the temperature to distil at."""
    scores = {(trial.number, each.epochs): each for trial in found.trials for each in trial.scores}
    probed = scores[found.chosen, found.epochs]
    return {
        "probed": (probed, found.temperature),
        "probed, usual temperature": (probed, TEMPERATURE),
        "most accurate": (scores[found.most_accurate], TEMPERATURE),
        "most entropy": (scores[found.most_entropy], TEMPERATURE),
    }


def study(data: str, seed: int, out: Path, trials: int) -> list[Taken]:
    """One seed of one dataset."""
    folder = out / f"{data}-{seed}"
    found = find_teacher(
        RECIPES[data],
        out=folder,
        trials=trials,
        flags=(Flag("--seed", "seed", seed),),
        command="python -m benchmarks.find_teacher",
    )
    taken = []
    for rule, (score, temperature) in choices(found).items():
        resolved = resolve(
            "distill",
            file=RECIPES[data],
            values={
                "seed": seed,
                "data.val_fraction": 0.1,
                "teacher.checkpoint": score.checkpoint,
                "method.temperature": temperature,
            },
        )
        run, _ = find_or_train(resolved, out=folder)
        summary = Run.load(run).summary
        assert summary is not None
        taken.append(
            Taken(
                data,
                seed,
                rule,
                score.teacher_accuracy or math.nan,
                score.teacher_entropy or math.nan,
                score.epochs,
                temperature,
                summary.test.accuracy or math.nan,
                summary.test.n,
            )
        )
    return taken


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of one number a seed."""
    n = len(values)
    middle = statistics.fmean(values)
    if n < 2:
        return Mean(middle, None, n)
    quantile = float(stats.t.ppf(0.975, n - 1))
    return Mean(middle, quantile * statistics.stdev(values) / math.sqrt(n), n)


def summary(taken: Sequence[Taken]) -> dict[str, dict[str, Mean]]:
    """By rule: its accuracy, and by how much the first rule is better, paired by seed."""
    by_rule = {
        rule: {each.seed: each.accuracy for each in taken if each.rule == rule} for rule in RULES
    }
    first = by_rule[RULES[0]]
    return {
        rule: {
            "accuracy": mean_of(list(found.values())),
            "lead of probed": mean_of([first[seed] - value for seed, value in found.items()]),
        }
        for rule, found in by_rule.items()
    }


def _shown(found: Mean) -> str:
    half = "" if found.half is None else f" ± {100 * found.half:.2f}"
    return f"{100 * found.value:.2f}{half}"


def _lines(data: str, found: Mapping[str, Mapping[str, Mean]]) -> list[str]:
    lines = [f"{data}: accuracy on test images, %; mean and 95 % interval over seeds"]
    lines += [
        f"  {rule:<27}{_shown(means['accuracy']):>16}   probed leads by "
        f"{_shown(means['lead of probed'])}"
        for rule, means in found.items()
    ]
    return lines


def main() -> None:
    """Runs the study, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--data", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--out", type=Path, default=Path("runs/find-teacher-study"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    every: list[Taken] = []
    for data in given.data:
        for seed in given.seeds:
            began = time.monotonic()
            every += study(data, seed, given.out, given.trials)
            print(f"{data}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
        own = [each for each in every if each.data == data]
        print("\n".join(_lines(data, summary(own))), flush=True)
    if given.json is not None:
        content = [asdict(each) for each in every]
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
