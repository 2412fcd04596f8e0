"""A believable run directory, written as the jobs write one: 30 epochs of SKD on 10 classes."""

import itertools
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from kdcli.files import finite
from kdcli.results.cost import Cost, Latency
from kdcli.results.dynamics import EnergiesAt, NetworkSnapshot, Snapshot
from kdcli.results.gap import GapAt, GapReport, PairAt, PairReport, Response, ResponseAt
from kdcli.results.intervals import Estimate, Interval
from kdcli.results.measures import GateResult, Measures
from kdcli.results.mistakes import (
    GivenAnswer,
    Mistake,
    Mistakes,
    MistakesOfClass,
    MistakesOfKind,
)
from kdcli.results.run import CalibrationCurve, RunAnalysis, RunResult, TeacherSummary

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

RECIPE = """\
seed = 0  # default
[data]
name = "digits"  # recipes/quickstart.toml
val_fraction = 0.1  # recipes/quickstart.toml
[student]
name = "cnn-small"  # --student
[[teacher]]
checkpoint = "runs/cnn-large-digits-1"  # --teacher
[method]
name = "skd"  # --method
temperature = 4.0  # default
[train]
epochs = 30  # recipes/quickstart.toml
[gates]
min_accuracy = 0.96  # --min-accuracy
"""

ENVIRONMENT = {
    "kdcli": "0.1.0",
    "python": "3.12.4",
    "torch": "2.8.0",
    "torchvision": "0.23.0",
    "cuda": "12.8",
    "device": "cuda:0",
    "device_name": "NVIDIA H200",
    "cpu": "x86_64",
    "threads": 8,
    "platform": "Linux-6.1",
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
    "command": "kd distill --teacher runs/cnn-large-digits-1 --method skd --min-accuracy 0.96",
    "started": "2026-11-21T00:12:03Z",
    "data": {"name": "digits", "fingerprint": "c0ffee", "train": 1294, "val": 143, "test": 360},
    "precision": "bf16",
    "precision_reason": "auto: compute capability 9.0",
    "device_reason": "auto: a CUDA device is there",
}


def measures(
    accuracy: float,
    *,
    n: int = 360,
    nll: float = 0.097,
    ece: float = 0.021,
    entropy: float = 0.112,
    **other,
) -> Measures:
    reach = 1.96 * math.sqrt(accuracy * (1 - accuracy) / n)
    defaults = {"top5": 1.0, "free_energy": 11.38, "logit_norm": 17.2}
    interval = Interval(accuracy - reach, min(accuracy + reach, 1.0))
    return Measures(
        n=n,
        accuracy=accuracy,
        accuracy_interval=interval,
        nll=nll,
        ece=ece,
        entropy=entropy,
        **(defaults | other),
    )


MEASURED = measures(0.9889, nll=0.041, ece=0.012, entropy=0.031, free_energy=11.42)


def teacher(test: Measures | None = MEASURED, **more) -> TeacherSummary:
    return TeacherSummary(
        "runs/cnn-large-digits-1/model.safetensors", "ab" * 32, "cnn-large", 1_430_000, test, **more
    )


def cost(seconds: float) -> Cost:
    """Of a network that takes so long for one image."""
    latency = Latency("eager", 1, Estimate(seconds, seconds, seconds), 30, "cpu", 1)
    return Cost(20_500, 105_000, 87_000, (latency,))


PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAA"
    "AABJRU5ErkJggg=="
)


def mistakes(most: int = 1, image: str = PIXEL, width: int = 1, height: int = 1) -> Mistakes:
    """Of classes two and three, and, beyond two pictures a kind, of as many of class two as asked."""

    def wrong(label: str, number: int, said: str, known: float) -> Mistake:
        own, taught = GivenAnswer("five", 0.93), GivenAnswer(said, known)
        file = f"test/{label}/{number}.png"
        return Mistake(image, width, height, number, file, label, own, taught)

    two = tuple(wrong("two", number, "two", 0.9991) for number in range(1, most + 1))
    three = (wrong("three", 7, "three", 0.61),) if most == 1 else ()
    both = tuple(wrong("nine", number, "four", 0.5) for number in range(most))
    of_two = MistakesOfClass("two", most + 1, two)
    return Mistakes(
        360,
        (
            MistakesOfKind("teacher-right", 3, (of_two, MistakesOfClass("three", 1, three))),
            MistakesOfKind("both-wrong", most, (MistakesOfClass("nine", most, both),)),
            MistakesOfKind("surest", most + 4, (), two),
        ),
    )


def summary(**changes) -> RunResult:
    values = {
        "command": "distill",
        "run": "runs/skd-cnn-small-digits-1",
        "checkpoint": "runs/skd-cnn-small-digits-1/model.safetensors",
        "name": "skd-cnn-small-digits-1",
        "network": "cnn-small",
        "parameters": 20_500,
        "data": "digits",
        "method": "skd",
        "seed": 0,
        "epochs": 30,
        "device": "cuda:0",
        "precision": "bf16",
        "test": measures(0.9722),
        "val": measures(0.9790, n=143, split="val"),
        "train_accuracy": 0.988,
        "teachers": (teacher(),),
        "gap": GapAt(1.0, 0.081, 0.04),
        "gaps": (
            GapAt(1.0, 0.081, 0.04),
            GapAt(1.0, 0.02, 0.01, aligned=True),
            GapAt(4.0, 0.31, 0.02),
        ),
        "gates": (GateResult("min_accuracy", 0.96, 0.9722, passed=True),),
        "recipe_sha256": "cd" * 32,
        "wall_seconds": 6.3,
        "images_per_second": 21034.0,
    }
    return RunResult(**(values | changes))


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.04 * abs(value), value + 0.04 * abs(value))


def spread(value: float, classes: int, salt: int) -> tuple[float, ...]:
    noise = np.random.default_rng(salt).normal(size=classes)
    return tuple((value * (1 + 0.9 * noise)).tolist())


def response(label: str, form: str, sharpness: float, temperatures, classes: int) -> Response:
    def at(tau: float) -> ResponseAt:
        entropy = math.log(classes) * (1 - math.exp(-((tau / sharpness) ** 2)))
        energy = tau * (math.log(classes) - entropy) + 11.4 / tau
        return ResponseAt(
            tau,
            estimate(entropy),
            estimate(energy),
            spread(entropy, classes, 1),
            spread(energy, classes, 2),
        )

    points = tuple(at(tau) for tau in temperatures)
    return Response(label, f"runs/{label}", label, 20_500, "skd", form, measures(0.97), points)


def pair(teacher: Response, student: Response, classes: int) -> PairReport:
    def at(of: ResponseAt, mine: ResponseAt) -> PairAt:
        entropy, energy = (
            mine.entropy.value - of.entropy.value,
            of.free_energy.value - mine.free_energy.value,
        )
        near = (entropy * 1.3, energy * 1.3, 1 / 1.3, 1 / 1.3)
        by_class = spread(entropy, classes, 3), spread(energy, classes, 4)
        return PairAt(
            of.temperature,
            estimate(entropy),
            estimate(energy),
            *near,
            of.temperature > 2,
            0.03,
            *by_class,
        )

    return PairReport(student.label, student.form, 0.981, tuple(map(at, teacher.at, student.at)))


def analysis(classes: int = 10, temperatures=(1.0, 2.0, 4.0), **changes) -> RunAnalysis:
    names = CLASSES if classes == 10 else tuple(f"class{number}" for number in range(classes))
    rng = np.random.default_rng(7)
    counts = np.diag(np.full(classes, 35)) + (rng.random((classes, classes)) < 0.08).astype(int)
    edges = tuple(np.linspace(0, 1, 16).tolist())
    filled = [0, 0, 0, 0, 1, 2, 3, 4, 3, 6, 9, 14, 22, 46, 250]

    def curve(ece: float, shift: float) -> CalibrationCurve:
        middle = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
        right = tuple(
            min(1.0, max(0.0, m + shift)) if c else None
            for m, c in zip(middle, filled, strict=True)
        )
        return CalibrationCurve(
            ece,
            edges,
            tuple(m if c else None for m, c in zip(middle, filled, strict=True)),
            right,
            tuple(filled),
        )

    label = "skd-cnn-small-digits-1"
    students = (
        response(label, "raw", 7.0, temperatures, classes),
        response(label, "aligned", 8.2, temperatures, classes),
    )
    known = response("cnn-large", "raw", 9.0, temperatures, classes)
    gap = GapReport(
        data="digits",
        split="test",
        n=360,
        class_names=names,
        temperatures=tuple(temperatures),
        teacher=known,
        students=students,
        pairs=tuple(pair(known, student, classes) for student in students),
    )
    values = {
        "calibration": {"teacher": curve(0.012, -0.02), "student": curve(0.021, 0.04)},
        "gap": gap,
    }
    return RunAnalysis(names, tuple(map(tuple, counts.tolist())), **(values | changes))


def epoch_lines(
    epochs: int = 30, *, val: bool = True, stage: str = "distill", terms=(("ce", 0.4), ("skd", 2.1))
) -> list[dict]:
    lines = [
        {
            "event": "stage",
            "stage": stage,
            "number": 1,
            "count": 1,
            "trainable": 20500,
            "batches": 23,
            "time": "2026-11-21T00:12:03Z",
        }
    ]
    for epoch in range(1, epochs + 1):
        rise = 1 - math.exp(-epoch / 5)
        held_out = asdict(measures(0.5 + 0.479 * rise, n=143, split="val")) if val else None
        lines.append(
            {
                "event": "epoch",
                "stage": stage,
                "epoch": epoch,
                "epochs": epochs,
                "step": 23 * epoch,
                "steps": 23 * epochs,
                "lr": 0.025 * (1 + math.cos(math.pi * epoch / epochs)),
                "losses": {name: start * math.exp(-epoch / 7) + 0.01 for name, start in terms},
                "train_accuracy": 0.44 + 0.548 * rise,
                "val": held_out,
                "best": epoch == epochs,
                "seconds": 0.2,
                "images_per_second": 21034.0,
                "time": "2026-11-21T00:12:04Z",
            }
        )
    return lines


def probe(
    progress: float,
    *,
    trained: str = "student",
    others: tuple[str, ...] = (),
    teacher: str | None = "teacher",
    **other,
) -> Snapshot:
    """What is seen when a share of training is done: networks that come from knowing nothing to
    where their teacher is.
    """

    def network(share: float, *, own: bool = False) -> NetworkSnapshot:
        at = tuple(
            EnergiesAt(
                tau,
                2.3 - 2.29 * share / tau,
                2.3 * tau + 10 * share,
                None if own else 2.4 - 2.35 * share,
            )
            for tau in (1.0, 4.0)
        )
        return NetworkSnapshot(0.1 + 0.89 * share, 1 + 17 * share, at)

    networks = {trained: network(0.9 * progress, own=True)} | {
        name: network(0.95 * progress) for name in others
    }
    gaps: tuple[GapAt, ...] = ()
    if teacher:
        networks[teacher] = network(1.0)
        pairs = list(zip(networks[trained].at, networks[teacher].at, strict=True))
        forms = [(aligned, z, v) for aligned in (False, True) for z, v in pairs]
        gaps = tuple(
            GapAt(z.temperature, z.entropy - v.entropy, v.free_energy - z.free_energy, aligned)
            for aligned, z, v in forms
        )
    return Snapshot(
        **(
            {"split": "val", "n": 143, "trained": trained, "networks": networks, "gaps": gaps}
            | other
        )
    )


def probed(lines: list[dict], **facts) -> list[dict]:
    """Lines of `epoch_lines` with a probe in each."""
    count = len(lines) - 1
    return [
        {**line, "probe": asdict(probe(number / count, **facts))}
        for number, line in enumerate(lines)
    ]


def write_run(folder: Path, *, result=None, details=None, lines=None, recipe: str = RECIPE) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(recipe)
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(finite(line)) + "\n" for line in lines or [])
    )
    if result:
        (folder / "summary.json").write_text(json.dumps(finite(asdict(result))))
    if details:
        (folder / "analysis.json").write_text(json.dumps(finite(asdict(details))))
    return folder


BASELINE_RECIPE = """\
seed = 0
[data]
name = "digits"
val_fraction = 0.1
[model]
name = "cnn-small"
[method]
name = "none"
[train]
epochs = 30
"""


def write_baseline(folder: Path) -> Path:
    """The network of `write_student`, trained in the same way on labels alone."""
    alone = {
        "command": "train-teacher",
        "method": "none",
        "teachers": (),
        "gap": None,
        "gaps": (),
        "gates": (),
    }
    result = summary(**alone, name="none-cnn-small-digits-1", test=measures(0.9528))
    return write_run(
        folder,
        result=result,
        lines=epoch_lines(stage="train", terms=(("ce", 2.0),)),
        recipe=BASELINE_RECIPE,
    )


def write_student(folder: Path) -> Path:
    write_run(folder, result=summary(), details=analysis(), lines=probed(epoch_lines()))
    (folder / "mistakes.json").write_text(json.dumps(asdict(mistakes())))
    return folder


def write_teacher(folder: Path) -> Path:
    recipe = '[data]\nname = "digits"\n[model]\nname = "cnn-large"\n[method]\nname = "none"\n'
    changes = {
        "command": "train-teacher",
        "method": "none",
        "teachers": (),
        "gap": None,
        "gaps": (),
        "gates": (),
        "val": None,
    }
    names = {
        "run": "runs/cnn-large-digits-1",
        "name": "cnn-large-digits-1",
        "network": "cnn-large",
        "parameters": 1_430_000,
    }
    details = analysis(gap=None, calibration={"student": analysis().calibration["student"]})
    lines = epoch_lines(val=False, stage="train", terms=(("ce", 2.0),))
    return write_run(
        folder, result=summary(**changes, **names), details=details, lines=lines, recipe=recipe
    )
