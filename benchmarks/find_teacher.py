"""Which rule takes the better teacher: short probes (`kd find-teacher`), accuracy, or entropy?

For each seed a pool of teachers is trained, each to its end: every combination of batch size, label
smoothing and epochs of a `Plan`, of one network on one set of images. They differ by what papers
say makes teachers differ. From the pool three rules take one, by held-out images alone:

    most accurate   the most accurate teacher
    most entropy    the one whose answers have most entropy (paper 001: soft labels of high entropy
                    are what makes distillation more than smoothing)
    probed pool     the one whose student is the most accurate after a short distillation

`kd find-teacher` does not see the pool. It races teachers of its own, of the same batch sizes and
smoothings and up to as many epochs, and takes a checkpoint and a temperature; the others, and
"find-teacher, usual temperature", distil at kd's own.

A student is distilled to the end of its recipe from every teacher of the pool and from what
find-teacher takes, with the same images held out, and measured on the test images. So it is known
how much there was to gain: what the best of the pool gives ("best of the pool", which no rule can
know), and what one taken at random does ("any of the pool", their mean). Where these two are closer
than the interval, the pool's teachers are alike, and no rule could have shown anything. Costs are
seconds of training before a teacher is taken: the whole pool, the pool and its probes, the race.
Mean and 95 % interval (Student's t) over seeds; differences are paired by seed.

An earlier form let the two rules choose among the checkpoints of find-teacher's own race. That was
no comparison: a race trains few teachers for long, namely those whose probes were good, so all
rules took the same checkpoint.

Scaled: teachers see 3,000 training images and students 1,000, those of CIFAR-10 at 16x16 pixels;
teachers are trained for 2 or 8 epochs, students for 10 (CIFAR-10: 9). A seed is 8 teachers, 8
probes, a race of 6 trials and 10 students. What is finished is found again, so it may be stopped
and started.

    kd datasets fashion-mnist --download
    kd datasets cifar10 --download
    OMP_NUM_THREADS=1 python -m benchmarks.find_teacher --data fashion-mnist --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from kdcli.jobs import find_teacher
from kdcli.jobs.train.run import find_or_train
from kdcli.recipe.resolve import Flag, Resolved, resolve, resolve_teacher
from kdcli.runs.read import Run

# the student's recipe and its teacher's, a train-teacher recipe of the same data
RECIPES = {
    "fashion-mnist": ("fashion-mnist/advice-student", "fashion-mnist/advice-teacher-large"),
    "cifar10": ("cifar10/search-student", "cifar10/scaled-teacher-resnet20"),
}
TEMPERATURE = 4.0  # kd's own
HELD_OUT = 0.1
RULES = (
    "find-teacher",
    "find-teacher, usual temperature",
    "probed pool",
    "most accurate",
    "most entropy",
    "any of the pool",
    "best of the pool",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained for one seed.

    student, teacher: recipes. batches, smoothings, epochs: of the pool's teachers, all combinations
    of them. probe_epochs: of a student that probes, the pool's and find-teacher's. trials: of
    find-teacher's race. teacher_images, student_images: that they see; None for what the recipes
    say.
    """

    student: str
    teacher: str
    batches: tuple[int, ...] = (32, 256)
    smoothings: tuple[float, ...] = (0.0, 0.3)
    epochs: tuple[int, ...] = (2, 8)
    probe_epochs: int = 3
    trials: int = 6
    teacher_images: int | None = 3000
    student_images: int | None = 1000

    def pool(self) -> Iterator[tuple[int, float, int]]:
        """Batch size, smoothing and epochs of each teacher."""
        return itertools.product(self.batches, self.smoothings, self.epochs)


@dataclass(frozen=True, slots=True)
class Pooled:
    """A teacher of the pool: what it is on held-out images, and its student after a probe there and
    after the whole of its recipe on the test images.
    """

    batch_size: int
    smoothing: float
    epochs: int
    accuracy: float
    entropy: float
    probed: float
    student: float


@dataclass(frozen=True, slots=True)
class Taken:
    """What one rule took with one seed, and its student on the test images. teacher: in words;
    cost: seconds of training until it could be taken, None for what is no rule.
    """

    data: str
    seed: int
    rule: str
    teacher: str
    temperature: float
    accuracy: float
    cost: float | None


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds and its 95 % interval; None of one seed."""

    value: float
    half: float | None
    seeds: int


# ---- one seed ------------------------------------------------------------------------------------


class Study:
    """One seed of one dataset. seconds: of training, by what it was for."""

    def __init__(self, data: str, plan: Plan, seed: int, out: Path) -> None:
        self.data, self.plan, self.seed = data, plan, seed
        self.folder = out / f"{data}-{seed}"
        self.seconds = {"pool": 0.0, "probes": 0.0, "race": 0.0}

    def run(self) -> tuple[list[Taken], list[Pooled]]:
        """What each rule takes, and the pool."""
        pool = [self._pooled(*each) for each in self.plan.pool()]
        students = [each.student for each in pool]
        trained = self.seconds["pool"]
        probed = trained + self.seconds["probes"]
        taken = [
            self._of_pool("probed pool", max(pool, key=lambda each: each.probed), probed),
            self._of_pool("most accurate", max(pool, key=lambda each: each.accuracy), trained),
            self._of_pool("most entropy", max(pool, key=lambda each: each.entropy), trained),
            self._of_pool("best of the pool", max(pool, key=lambda each: each.student), None),
            self._taken("any of the pool", "", TEMPERATURE, statistics.fmean(students), None),
        ]
        return [*self._found(), *taken], pool

    def _pooled(self, batch_size: int, smoothing: float, epochs: int) -> Pooled:
        method: dict[str, Any] = {"method.name": "none"}
        if smoothing:
            method = {"method.name": "label_smoothing", "method.smoothing": smoothing}
        values = {**method, "train.batch_size": batch_size, "train.epochs": epochs}
        recipe = resolve_teacher(self.plan.teacher, values={**self._teachers(), **values})
        run = self._trained(recipe, "pool")
        short = self._trained(self._student(run.path, self.plan.probe_epochs), "probes")
        whole = self._trained(self._student(run.path, None))
        assert run.summary is not None
        assert short.summary is not None
        assert whole.summary is not None
        val, probe = run.summary.val, short.summary.val
        assert val is not None
        assert probe is not None
        return Pooled(
            batch_size,
            smoothing,
            epochs,
            val.accuracy or math.nan,
            val.entropy,
            probe.accuracy or math.nan,
            whole.summary.test.accuracy or math.nan,
        )

    def _found(self) -> Iterator[Taken]:
        """What find-teacher takes, at its own temperature and at the usual one."""
        plan = self.plan
        limits = {"data.train_limit": plan.student_images}
        found = find_teacher(
            self._race_recipe(),
            out=self.folder / "race",
            probe_epochs=plan.probe_epochs,
            batches=plan.batches,
            smoothings=plan.smoothings,
            trials=plan.trials,
            sets=[f"{key}={value}" for key, value in limits.items() if value is not None],
            flags=(Flag("--seed", "seed", self.seed),),
            command="python -m benchmarks.find_teacher",
        )
        trial = next(each for each in found.trials if each.number == found.chosen)
        about = ", ".join(
            f"{name} {trial.parameters[name]}" for name in ("batch_size", "smoothing")
        )
        for rule, temperature in (
            ("find-teacher", found.temperature),
            ("find-teacher, usual temperature", TEMPERATURE),
        ):
            run = self._trained(self._student(Path(found.checkpoint), None, temperature))
            assert run.summary is not None
            yield self._taken(
                rule,
                f"{about}, {found.epochs} epochs",
                temperature,
                run.summary.test.accuracy or math.nan,
                found.seconds,
            )

    def _race_recipe(self) -> Path:
        """The student's recipe, whose teacher is one of the pool's: of the same images, and as long
        as the longest.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        images = self.plan.teacher_images
        teacher = self.folder / "race-teacher.toml"
        teacher.write_text(
            f'extends = "{self.plan.teacher}"\n'
            + ("" if images is None else f"[data]\ntrain_limit = {images}\n")
            + f"[train]\nepochs = {max(self.plan.epochs)}\n",
            encoding="utf-8",
        )
        student = self.folder / "race-student.toml"
        student.write_text(
            f'extends = "{self.plan.student}"\n[data]\nval_fraction = {HELD_OUT}\n'
            f'[teacher]\nrecipe = "{teacher.name}"\n',
            encoding="utf-8",
        )
        return student

    def _teachers(self) -> dict[str, Any]:
        return self._shared(self.plan.teacher_images)

    def _shared(self, images: int | None) -> dict[str, Any]:
        limit = {} if images is None else {"data.train_limit": images}
        return {"seed": self.seed, "data.val_fraction": HELD_OUT, **limit}

    def _student(
        self, teacher: Path, epochs: int | None, temperature: float = TEMPERATURE
    ) -> Resolved:
        values = {
            **self._shared(self.plan.student_images),
            "teacher.checkpoint": str(teacher),
            "method.name": "kd",
            "method.temperature": temperature,
            **({} if epochs is None else {"train.epochs": epochs}),
        }
        return resolve("distill", file=self.plan.student, values=values)

    def _trained(self, recipe: Resolved, purpose: str | None = None) -> Run:
        path, _ = find_or_train(recipe, out=self.folder)
        run = Run.load(path)
        assert run.summary is not None
        if purpose is not None:
            self.seconds[purpose] += run.summary.wall_seconds
        return run

    def _of_pool(self, rule: str, teacher: Pooled, cost: float | None) -> Taken:
        about = (
            f"batch_size {teacher.batch_size}, smoothing {teacher.smoothing}, "
            f"{teacher.epochs} epochs"
        )
        return self._taken(rule, about, TEMPERATURE, teacher.student, cost)

    def _taken(
        self, rule: str, teacher: str, temperature: float, accuracy: float, cost: float | None
    ) -> Taken:
        return Taken(self.data, self.seed, rule, teacher, temperature, accuracy, cost)


# ---- over seeds ----------------------------------------------------------------------------------


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
            "lead of find-teacher": mean_of([first[seed] - value for seed, value in found.items()]),
        }
        for rule, found in by_rule.items()
    }


def shown(found: Mean) -> str:
    """A mean of fractions and its interval, in per cent."""
    half = "" if found.half is None else f" ± {100 * found.half:.2f}"
    return f"{100 * found.value:.2f}{half}"


def _lines(data: str, taken: Sequence[Taken]) -> list[str]:
    lines = [f"{data}: accuracy on test images, %; mean and 95 % interval over seeds"]
    for rule, means in summary(taken).items():
        costs = [each.cost for each in taken if each.rule == rule and each.cost is not None]
        cost = f"   {statistics.fmean(costs):,.0f} s" if costs else ""
        lines.append(
            f"  {rule:<33}{shown(means['accuracy']):>16}   find-teacher leads by "
            f"{shown(means['lead of find-teacher']):>14}{cost}"
        )
    return lines


def _of_pool(pool: Sequence[Pooled]) -> str:
    """How unlike the teachers of a pool are, and their students."""

    def span(number: Callable[[Pooled], float]) -> str:
        values = [number(each) for each in pool]
        return f"{min(values):.3f} to {max(values):.3f}"

    return (
        f"  {len(pool)} teachers: accuracy {span(lambda each: each.accuracy)}, entropy "
        f"{span(lambda each: each.entropy)}; students {span(lambda each: each.student)}"
    )


def main() -> None:
    """Runs the study, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--data", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/find-teacher-study"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    every: list[Taken] = []
    pools: list[Mapping[str, Any]] = []
    for data in given.data:
        for seed in given.seeds:
            began = time.monotonic()
            taken, pool = Study(data, Plan(*RECIPES[data]), seed, given.out).run()
            every += taken
            pools += [{"data": data, "seed": seed, **asdict(each)} for each in pool]
            print(f"{data}, seed {seed}: {time.monotonic() - began:.0f} s\n{_of_pool(pool)}")
        own = [each for each in every if each.data == data]
        print("\n".join(_lines(data, own)), flush=True)
    if given.json is not None:
        content = {"taken": [asdict(each) for each in every], "pool": pools}
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
