"""Does `kd search` find a better student than the defaults do in the time that it takes?

For each seed `kd search` is given a teacher and a size. It races students, methods, temperatures
and learning rates on held-out images and trains what it takes to the end. Beside it students of the
defaults, with the network and the method of the recipe that the search starts from:

    defaults            the recipe as it is
    defaults, as long   as many epochs as take as long as the whole search did, its trials, the
                        measuring of latency and the student that it took
    taken, as long      what the search took, with as many epochs: what it found out for short runs
                        may be worth something for longer ones. The search's time comes on top

For these no image is held out, since nothing is chosen with them. All are measured on the test
images, once, at their last epoch. Mean and 95 % interval (Student's t) over seeds; differences are
paired by seed. The teacher exists before the clock starts, and all distil from the same one.

    kd datasets cifar10 --download
    OMP_NUM_THREADS=1 python -m benchmarks.search --seeds 0 1 2

What is finished is found again, so it may be stopped and started; a search that was stopped counts
the time of all its processes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.find_teacher import Mean, mean_of, shown
from kdcli.jobs import search
from kdcli.jobs.searching.space import values_of
from kdcli.jobs.train.run import find_or_train
from kdcli.recipe.resolve import Flag, Resolved, resolve, resolve_teacher
from kdcli.recipe.schema import DistillRecipe
from kdcli.runs.read import Run

RECIPE = "cifar10/search-student"
RULES = ("kd search", "defaults", "defaults, as long", "taken, as long")


@dataclass(frozen=True, slots=True)
class Student:
    """A student of one rule with one seed. about: what it is, in words; seconds: that it took, all
    trials counted; accuracy: on the test images.
    """

    rule: str
    seed: int
    about: str
    epochs: int
    seconds: float
    accuracy: float


def students(
    recipe: str, seed: int, out: Path, *, trials: int, max_parameters: int
) -> tuple[Student, ...]:
    """The students of all rules with one seed, in the order of `RULES`."""
    teacher = _teacher(recipe, out)
    flags = (
        Flag("--teacher", "teacher.checkpoint", [str(teacher)]),
        Flag("--max-parameters", "gates.max_parameters", max_parameters),
        Flag("--seed", "seed", seed),
    )
    found = search(
        recipe,
        out=out / f"search-{seed}",
        trials=trials,
        flags=flags,
        command="python -m benchmarks.search",
    )
    taken = next(each for each in found.trials if each.number == found.chosen)
    assert found.test_accuracy is not None
    about = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{value}"
        for name, value in taken.parameters.items()
    )
    seconds = _taken_once(out / f"search-{seed}.json", found.seconds)
    first = Student(RULES[0], seed, about, found.rungs[-1], seconds, found.test_accuracy)
    same = {"seed": seed, "teacher.checkpoint": str(teacher)}
    short = _trained(RULES[1], recipe, same, out)
    epochs = max(round(seconds / short.seconds * short.epochs), short.epochs)
    longer = {**same, "train.epochs": epochs}
    tried = values_of(taken)
    return (
        first,
        short,
        _trained(RULES[2], recipe, longer, out),
        _trained(RULES[3], recipe, {**longer, **tried}, out),
    )


def _taken_once(file: Path, seconds: float) -> float:
    """The time that a search took when it ended, however often it is looked at afterwards."""
    if not file.exists():
        file.write_text(json.dumps(seconds), encoding="utf-8")
    return float(json.loads(file.read_text(encoding="utf-8")))


def _teacher(recipe: str, out: Path) -> Path:
    """The folder of the recipe's teacher, which is trained unless it has been."""
    (section,) = _recipe(resolve("distill", file=recipe)).teacher
    assert section.recipe is not None
    path, _ = find_or_train(resolve_teacher(section.recipe, section.epochs), out=out)
    return path


def _recipe(resolved: Resolved) -> DistillRecipe:
    assert isinstance(resolved.recipe, DistillRecipe)
    return resolved.recipe


def _trained(rule: str, recipe: str, values: Mapping[str, Any], out: Path) -> Student:
    resolved = resolve("distill", file=recipe, values=values)
    path, _ = find_or_train(resolved, out=out)
    run = Run.load(path)
    assert run.summary is not None
    assert run.summary.test.accuracy is not None
    asked = _recipe(resolved)
    return Student(
        rule,
        asked.seed,
        f"{asked.student.name}, {asked.method.name}",
        asked.train.epochs,
        run.summary.wall_seconds,
        run.summary.test.accuracy,
    )


def leads(found: Sequence[Student]) -> dict[str, Mean]:
    """By how much the search's student is better than another rule's, paired by seed."""
    by_rule = {
        rule: {each.seed: each.accuracy for each in found if each.rule == rule} for rule in RULES
    }
    own = by_rule[RULES[0]]
    return {
        rule: mean_of([own[seed] - accuracy for seed, accuracy in by_rule[rule].items()])
        for rule in RULES[1:]
    }


def _print(found: Sequence[Student]) -> None:
    print("accuracy on test images, %; mean and 95 % interval over seeds")
    lead = leads(found)
    for rule in RULES:
        own = [each for each in found if each.rule == rule]
        by = f"   the search leads by {shown(lead[rule])}" if rule in lead else ""
        print(f"  {rule:<20}{shown(mean_of([each.accuracy for each in own])):>16}{by}")
        for each in own:
            print(
                f"    seed {each.seed}: {100 * each.accuracy:.2f}, {each.epochs} epochs, "
                f"{each.seconds:.0f} s: {each.about}"
            )


def main() -> None:
    """Runs the study, and prints what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--max-parameters", type=int, default=80_000)
    parser.add_argument("--out", type=Path, default=Path("runs/search-study"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: list[Student] = []
    for seed in given.seeds:
        found += students(
            given.recipe, seed, given.out, trials=given.trials, max_parameters=given.max_parameters
        )
        _print(found)
    if given.json is not None:
        content = json.dumps([asdict(each) for each in found], indent=1)
        given.json.write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
