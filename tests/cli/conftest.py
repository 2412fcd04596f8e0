"""How these tests run `kd`: in this process, with streams of their own, and with jobs that only
pretend.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import pytest

from kdcli.cli.app import run
from kdcli.cli.console import Environment
from kdcli.core.types import Progress
from kdcli.engine.events import EpochDone, StageDone, StageStarted, StepDone
from kdcli.jobs.events import Prepared
from kdcli.results.gap import GapAt
from kdcli.results.intervals import Interval
from kdcli.results.measures import GateResult, Measures
from kdcli.results.run import RunResult, TeacherSummary


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Answer:
    """What an invocation left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON document and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def kd(tmp_path, monkeypatch):
    """Call as kd("distill", "--json", environ={...}, stderr=Terminal()). Runs in a folder of its
    own.
    """
    monkeypatch.chdir(tmp_path)

    def call(
        *argv: str,
        environ: dict[str, str] | None = None,
        stdout: io.StringIO | None = None,
        stderr: io.StringIO | None = None,
    ) -> Answer:
        out, err = stdout or io.StringIO(), stderr or io.StringIO()
        code = run(argv, Environment(out, err, environ or {}))
        return Answer(code, out.getvalue(), err.getvalue())

    return call


# ---- what jobs give back -------------------------------------------------------------------------


def measures(accuracy: float = 0.972, **more: Any) -> Measures:
    facts = {
        "n": 360,
        "nll": 0.097,
        "ece": 0.021,
        "entropy": 0.112,
        "free_energy": 11.38,
        "logit_norm": 12.0,
        "top5": None,
    }
    return Measures(
        accuracy=accuracy,
        accuracy_interval=Interval(accuracy - 0.02, accuracy + 0.01),
        **{**facts, **more},
    )


def result(command: str = "distill", gates: tuple[GateResult, ...] = (), **more: Any) -> RunResult:
    teacher = TeacherSummary(
        "runs/cnn-large-digits-1",
        "ab" * 32,
        "cnn-large",
        638_000,
        measures(0.989, entropy=0.031, free_energy=11.42),
    )
    distilled = command == "distill"
    facts: dict[str, Any] = {
        "command": command,
        "run": "runs/skd-cnn-small-digits-1",
        "checkpoint": "runs/skd-cnn-small-digits-1/model.safetensors",
        "name": "skd-cnn-small-digits-1",
        "network": "cnn-small" if distilled else "cnn-large",
        "parameters": 20_500,
        "data": "digits",
        "method": "skd" if distilled else "none",
        "seed": 0,
        "epochs": 30,
        "device": "cpu",
        "precision": "fp32",
        "test": measures(),
        "teachers": (teacher,) if distilled else (),
        "gap": GapAt(1.0, 0.081, 0.04) if distilled else None,
        "gaps": (GapAt(1.0, 0.081, 0.04), GapAt(1.0, 0.02, 0.01, aligned=True))
        if distilled
        else (),
        "gates": gates,
        "wall_seconds": 6.3,
    }
    return RunResult(**{**facts, **more})


def prepared(command: str = "distill", **more: Any) -> Prepared:
    done = result(command)
    facts: dict[str, Any] = {
        "command": command,
        "run": done.run,
        "network": done.network,
        "parameters": done.parameters,
        "teachers": done.teachers,
        "data": "digits",
        "train": 1437,
        "val": 0,
        "test": 360,
        "classes": 10,
        "input_shape": (1, 8, 8),
        "device": "cpu",
        "device_name": "x86_64",
        "device_reason": "auto: no CUDA device here",
        "precision": "fp32",
        "precision_reason": "auto: on cpu",
        "method": done.method,
        "method_options": {"temperature": 4.0, "weight": 0.9, "align": "teacher_std"}
        if command == "distill"
        else {},
        "method_source": "",
        "epochs": 30,
        "batches": 23,
        "batch_size": 64,
        "optimiser": "sgd",
        "lr": 0.05,
        "schedule": "cosine",
    }
    names = Prepared.__dataclass_fields__
    return Prepared(**{key: value for key, value in {**facts, **more}.items() if key in names})


def training(
    epochs: int = 30, batches: int = 23, *, val: bool = True, lr=lambda epoch: 0.05
) -> list[Any]:
    """The events of one stage."""
    at = [
        Progress("distill", epoch, epochs, epoch * batches, epochs * batches)
        for epoch in range(1, epochs + 1)
    ]
    events: list[Any] = [
        StageStarted(Progress("distill", 1, epochs, 0, epochs * batches), 1, 1, batches, 20_500)
    ]
    for place in at:
        share = place.epoch / epochs
        events += [
            StepDone(place, batches, batches, lr(place.epoch), {"ce": 0.231 * (1 - share), "skd": 1.902 * (1 - share)}, 1400.0, 1437, 21034.0),
            EpochDone(
                place, lr(place.epoch), {"ce": 0.231, "skd": 1.902}, 0.44 + 0.5 * share, measures(0.778 + 0.2 * share) if val else None,
                best=place.epoch in {1, 2, epochs}, seconds=1.0, images_per_second=21034.0,
            ),
        ]  # fmt: skip
    return [*events, StageDone(at[-1], 1, 1)]


@pytest.fixture
def pretend(monkeypatch):
    """Replace a job: it tells `events` to its listeners, then returns the result or raises the
    error. Notes how it was called.
    """
    calls: list[dict[str, Any]] = []

    def replace(
        job: str, outcome: Any, events: tuple[Any, ...] | list[Any] = ()
    ) -> list[dict[str, Any]]:
        def fake(*arguments: Any, listeners: Any = (), **options: Any) -> Any:
            calls.append({"arguments": arguments, **options})
            for event in events:
                for listener in listeners:
                    listener(event)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(f"kdcli.jobs.{job}", fake)
        return calls

    return replace
