"""Records of what a run will take, as `kd plan` says it before the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class PlannedNetwork:
    """A network of a run. macs: multiply-accumulates of one image. checkpoint: of a teacher that is
    there; "" for one that is not.
    """

    role: Literal["teacher", "reference", "student", "model"]
    architecture: str
    parameters: int
    macs: int
    checkpoint: str = ""


@dataclass(frozen=True, slots=True)
class PlannedChoice:
    """What a run will choose, and why. of: which teacher, for stored_logits. teacher_batch: images
    that it answers at once.
    """

    what: Literal[
        "device",
        "precision",
        "teacher_precision",
        "teacher_batch",
        "compile",
        "graphs",
        "stored_logits",
    ]
    value: str
    reason: str
    of: str = ""


@dataclass(frozen=True, slots=True)
class PlannedTable:
    """A table of teacher logits that a run will use. stored: rows that it holds now, of `rows`; 0
    where there is no table yet.

    path: its file, or its folder where the teacher is yet to be trained.
    """

    path: str
    bytes: int
    rows: int
    stored: int


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage of training. step_seconds: of a minibatch, on average over the stage. asked: share of
    the images whose answers the teacher computes, 1 where none are stored; asked_seconds,
    looked_up_seconds: a minibatch of which all, or none, are.
    """

    name: str
    epochs: int
    batches: int
    step_seconds: float
    asked: float
    asked_seconds: float
    looked_up_seconds: float


@dataclass(frozen=True, slots=True)
class PlannedSeconds:
    """Where the time will go.

    start: until the first stage begins: imports, data, networks. teachers: whole runs of teachers
    that come first. first_steps: what the first steps take more than others, compiling above all.
    training: minibatches. evaluation: held-out images after each epoch, and at the end the test
    images. probes: report.probe. upkeep: states, the order of the samples, logs. report: analysis
    and files at the end.
    """

    start: float
    teachers: float
    first_steps: float
    training: float
    evaluation: float
    probes: float
    upkeep: float
    report: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The `data` of `kd plan --json`.

    seconds: the sum of `parts`. images_per_second: in training. peak_memory_mib: as in
    summary.json. run_bytes: the run's folder when it is finished; state_bytes: what it holds beyond
    that on the way. probed_steps: minibatches that were timed for this.
    first: plans of teachers that have to be trained before: their time is in this plan's, their
    files are not. notes: one sentence each.
    """

    command: Literal["train-teacher", "distill"]
    recipe_sha256: str
    networks: tuple[PlannedNetwork, ...]
    method: str
    data: str
    train: int
    val: int
    test: int
    epochs: int
    batch_size: int
    device_name: str
    choices: tuple[PlannedChoice, ...]
    seconds: float
    parts: PlannedSeconds
    stages: tuple[PlannedStage, ...]
    images_per_second: float
    peak_memory_mib: float | None
    run_bytes: int
    state_bytes: int
    tables: tuple[PlannedTable, ...] = ()
    probed_steps: int = 0
    first: tuple[Plan, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedCells:
    """Runs of a sweep that cost alike: they differ in seeds, rates and weights alone.

    labels: what they have in common on the axes of the sweep; of a teacher, its name. runs, done:
    how many there are, and how many of them are finished. seconds: of one run; source: "measured",
    the median of the finished ones, "planned", from some steps of one of them, or "unknown" where
    that failed, for the reason in `problem`. run_bytes: of a finished run's folder.
    """

    labels: Mapping[str, str]
    runs: int
    done: int
    seconds: float | None
    source: Literal["measured", "planned", "unknown"]
    run_bytes: int
    teacher: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """The `data` of `kd plan SWEEP --json`.

    count: different runs of the sweep, without teachers; done: those that are finished; stopped:
    those that go on from a saved state, and take less than is said. seconds: of all that is left,
    one after another; None where some group's is not known. bytes: that it will add under the runs.
    tables: of teacher logits that it will use.
    """

    sweep: str
    count: int
    done: int
    stopped: int
    seconds: float | None
    bytes: int
    groups: tuple[PlannedCells, ...]
    tables: tuple[PlannedTable, ...] = ()
