"""What jobs return, what summary.json holds and what `--json` prints: one set of frozen types for
all three.

Accuracy is a fraction, entropies are in nats, times in seconds. Standard library only: reports read
these without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kdcli.advice import Advice
from kdcli.comparisons import DegradationCurve, PairExplanation
from kdcli.explanations import TeacherExplanation
from kdcli.intervals import Estimate as Estimate  # noqa: PLC0414  found here as well: they are in every result
from kdcli.intervals import Interval as Interval  # noqa: PLC0414
from kdcli.plans import Plan as Plan  # noqa: PLC0414


@dataclass(frozen=True, slots=True)
class Measures:
    """How good a network is on one split. nll: mean negative log-likelihood of raw logits, nats.
    ece: expected calibration error, 15 equal bins of confidence, L1. entropy, free_energy: means at
    temperature 1, logits centred per sample. logit_norm: mean L2 norm of centred logits.
    accuracy_interval: Wilson's.
    """

    n: int
    accuracy: float
    accuracy_interval: Interval
    top5: float | None
    nll: float
    ece: float
    entropy: float
    free_energy: float
    logit_norm: float
    split: Literal["train", "val", "test"] = "test"
    selected: Literal["last", "best"] = "last"


@dataclass(frozen=True, slots=True)
class GapAt:
    """Both gaps between one student and its teacher at one temperature, raw logits unless
    `aligned`.

    entropy: S(student) - S(teacher), nats. free_energy: F(teacher) - F(student), F = tau
    logsumexp(x/tau).
    """

    temperature: float
    entropy: float
    free_energy: float
    aligned: bool = False


@dataclass(frozen=True, slots=True)
class GateResult:
    """One threshold that the user asked for. subject: whose value it is, where several checkpoints
    are measured.
    """

    name: str
    limit: float
    value: float | None
    passed: bool
    subject: str = ""


@dataclass(frozen=True, slots=True)
class TeacherSummary:
    """A teacher as a report needs it."""

    checkpoint: str
    sha256: str
    architecture: str
    parameters: int
    test: Measures | None


@dataclass(frozen=True, slots=True)
class ExcludedClass:
    """How the test images of a class without training images were answered. number: the class's,
    from 0. teacher_accuracy: of the teachers answering as one, or of the reference; None without
    either. accuracy and its interval (Wilson's): None where the test split has no image of the
    class.
    """

    name: str
    number: int
    n: int
    accuracy: float | None
    accuracy_interval: Interval | None
    teacher_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Excluded:
    """The classes that data.exclude_classes kept from training, together and one by one. Other
    fields: as of ExcludedClass, over the test images of all of them.
    """

    classes: tuple[ExcludedClass, ...]
    n: int
    accuracy: float | None
    accuracy_interval: Interval | None
    teacher_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished train-teacher or distill run: exactly summary.json.

    reference: what the gap is measured to where the method has no teacher.
    per_class: test accuracy by class name, in class order; a class without test images is left out.
    excluded: None where every class was trained on.
    gap: at temperature 1 on raw logits, the one that gates use; None without teacher and reference.
    gaps: at every temperature of [report], raw and aligned. peak_memory_mib: of the device's
    tensors, or, on a CPU, of the whole process; None where the system does not tell.
    """

    command: Literal["train-teacher", "distill"]
    run: str
    checkpoint: str
    name: str
    network: str
    parameters: int
    data: str
    method: str
    seed: int
    epochs: int
    device: str
    precision: str
    test: Measures
    val: Measures | None = None
    train_accuracy: float | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)
    excluded: Excluded | None = None
    teachers: tuple[TeacherSummary, ...] = ()
    reference: TeacherSummary | None = None
    gap: GapAt | None = None
    gaps: tuple[GapAt, ...] = ()
    gates: tuple[GateResult, ...] = ()
    recipe_sha256: str = ""
    wall_seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory_mib: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def aligned_gap(self) -> GapAt | None:
        """The gap at temperature 1 on the logits that the method's loss sees: the raw one where it
        sees those.
        """
        at_one = [gap for gap in self.gaps if gap.temperature == 1.0]
        return next((gap for gap in at_one if gap.aligned), at_one[0] if at_one else None)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One checkpoint measured on one split by `kd evaluate`."""

    checkpoint: str
    network: str
    parameters: int
    method: str
    data: str
    measures: Measures
    per_class: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairTest:
    """McNemar's exact test between two checkpoints on the same images."""

    first: str
    second: str
    difference: float
    p_value: float


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """The `data` of `kd evaluate --json`."""

    evaluations: tuple[Evaluation, ...]
    pairs: tuple[PairTest, ...] = ()
    gates: tuple[GateResult, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredError:
    """How far stored answers are from the teacher's own, softened by a temperature: KL(own, stored)
    in nats over `count` of them.
    """

    temperature: float
    mean: float
    max: float
    count: int


@dataclass(frozen=True, slots=True)
class StoredLogits:
    """A table of teacher logits on disk. rows: images times views; stored: how many of them it
    holds.

    top: how many of an answer's logits are stored, None for all. error: what that and float16 cost,
    measured on a filled table.
    """

    teacher: str
    path: str
    images: int
    views: int
    classes: int
    bytes: int
    stored: int
    top: int | None = None
    error: tuple[StoredError, ...] = ()

    @property
    def rows(self) -> int:
        return self.images * self.views


@dataclass(frozen=True, slots=True)
class CacheResult:
    """The `data` of `kd cache --json`."""

    tables: tuple[StoredLogits, ...]


@dataclass(frozen=True, slots=True)
class CellResult:
    """One cell of a sweep. error: why it failed; metrics: a few numbers for the screen."""

    id: str
    labels: Mapping[str, str]
    status: Literal["done", "skipped", "failed"]
    run: str | None = None
    error: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The `data` of `kd sweep --json`. count: cells of the whole sweep; cells: those that this
    command looked at.
    """

    sweep: str
    count: int
    cells: tuple[CellResult, ...]

    @property
    def complete(self) -> bool:
        """Whether no cell failed."""
        return all(cell.status != "failed" for cell in self.cells)


# ---- the gap -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResponseAt:
    """How one network responds at one temperature: mean entropy and free energy of centred logits,
    over samples (bootstrap intervals) and by class; None for a class without samples.
    """

    temperature: float
    entropy: Estimate
    free_energy: Estimate
    entropy_by_class: tuple[float | None, ...]
    free_energy_by_class: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """One network's response over a split. form: its raw logits, or those that its method's loss
    sees (`aligned`).
    """

    label: str
    checkpoint: str
    network: str
    parameters: int
    method: str
    form: Literal["raw", "aligned"]
    measures: Measures
    at: tuple[ResponseAt, ...]


@dataclass(frozen=True, slots=True)
class PairAt:
    """Student against teacher at one temperature; intervals are bootstrapped over samples.

    entropy: S(z) - S(v). free_energy: F(v) - F(z). second_order: (|v|^2-|z|^2)/(2 K tau^2) for
    entropy and (|v|^2-|z|^2)/(2 K tau) for free energy; ratio: exact over approximate, None where
    the latter is 0 to float32 rounding.
    in_range: the paper's condition on the approximation, mean |v|^2 < 0.1 * 2 tau^2 K; necessary,
    not sufficient, so look at the ratio. kl: mean KL(q||p), nats, without tau^2.
    by_class: the exact gaps; None for a class without samples.
    """

    temperature: float
    entropy: Estimate
    free_energy: Estimate
    entropy_second_order: float
    free_energy_second_order: float
    entropy_ratio: float | None
    free_energy_ratio: float | None
    in_range: bool
    kl: float
    entropy_by_class: tuple[float | None, ...]
    free_energy_by_class: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class PairReport:
    """One student, in one form, against the teacher. agreement: share of samples with equal
    argmax.
    """

    student: str
    form: Literal["raw", "aligned"]
    agreement: float
    at: tuple[PairAt, ...]


@dataclass(frozen=True, slots=True)
class GapReport:
    """The `data` of `kd analyze-gap --json`. The first response is the teacher's; pairs are empty
    without students.

    explanation: of the teacher alone; explanations: one a student, on raw logits. Both are empty
    where nobody asked. others: where several teachers were given, the reports of all but the first,
    with their own students; curve: then, or with several students, all pairs by capacity. advice:
    over all teachers, where it was asked for. seconds: what each part of the work took. warnings:
    what is left out, and why, one sentence each.
    """

    data: str
    split: Literal["train", "val", "test"]
    n: int
    class_names: tuple[str, ...]
    temperatures: tuple[float, ...]
    teacher: Response
    students: tuple[Response, ...] = ()
    pairs: tuple[PairReport, ...] = ()
    bootstrap: int = 1000
    gates: tuple[GateResult, ...] = ()
    explanation: TeacherExplanation | None = None
    explanations: tuple[PairExplanation, ...] = ()
    others: tuple[GapReport, ...] = ()
    curve: DegradationCurve | None = None
    advice: Advice | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def reports(self) -> tuple[GapReport, ...]:
        """One a teacher: this one, then the others."""
        return (self, *self.others)


@dataclass(frozen=True, slots=True)
class CalibrationCurve:
    """A reliability diagram: equal bins of confidence; an empty bin has None."""

    ece: float
    edges: tuple[float, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    count: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunAnalysis:
    """analysis.json of a run: what its report draws besides the curves. confusion:
    [true][predicted] counts on the test split; calibration by label ("teacher", "student"). gap: of
    a network trained on labels alone its own responses, without students; matrices and points in it
    are rounded to four decimals.
    """

    class_names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: Mapping[str, CalibrationCurve]
    gap: GapReport | None = None
