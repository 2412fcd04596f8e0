"""Records of a finished run: summary.json and analysis.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kdcli.results.cost import Cost
from kdcli.results.gap import GapAt, GapReport
from kdcli.results.measures import EnergyAt, Excluded, GateResult, Measures


@dataclass(frozen=True, slots=True)
class TeacherSummary:
    """A teacher as a report needs it. weight: its share of the mean of several; 1 of one
    alone. cost: None where it was not found out.
    """

    checkpoint: str
    sha256: str
    architecture: str
    parameters: int
    test: Measures | None
    weight: float = 1.0
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class FoldedTemperature:
    """A temperature fitted on held-out images after training, and folded into the network's last
    layer: its weights and bias are divided by it, so that no class changes.

    temperature: None where none was folded; why_not says why, as a clause. n: the held-out images.
    nll_before, nll_after, ece_before, ece_after: of the test split; None where none was folded.
    """

    temperature: float | None
    n: int
    why_not: str = ""
    nll_before: float | None = None
    nll_after: float | None = None
    ece_before: float | None = None
    ece_after: float | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished train-teacher or distill run: exactly summary.json.

    reference: what the gap is measured to where the method has no teacher.
    train_losses: means over the last epoch of the loss terms by name, weighted as they were trained
    on; train_loss: their sum, what was minimised.
    energies, teacher_energies: of the network, and of what the gap is measured to, on the test
    split, at every temperature of [report].
    train_accuracy: of the training images that have a label, over the last epoch; None where none
    has. unlabelled: the training images that have none.
    agreement: share of the test images to which the network and what the gap is measured to give
    one likeliest class; None without that.
    per_class: test accuracy by class name, in class order; a class without test images is left out.
    excluded: None where every class was trained on.
    cost: of the network as it is used; None where it was not found out.
    calibration: None where no temperature was to be folded into the network.
    gap: at temperature 1 on raw logits, the one that gates use; None without teacher and reference.
    gaps: at every temperature of [report], raw and aligned. peak_memory_mib: of the device's
    tensors, or, on a CPU, of the whole process; None where the system does not tell. notes: how the
    network began, one sentence each. continues: the run from whose last state this one went on.
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
    train_loss: float | None = None
    train_losses: Mapping[str, float] = field(default_factory=dict)
    per_class: Mapping[str, float] = field(default_factory=dict)
    excluded: Excluded | None = None
    calibration: FoldedTemperature | None = None
    teachers: tuple[TeacherSummary, ...] = ()
    reference: TeacherSummary | None = None
    gap: GapAt | None = None
    gaps: tuple[GapAt, ...] = ()
    energies: tuple[EnergyAt, ...] = ()
    teacher_energies: tuple[EnergyAt, ...] = ()
    gates: tuple[GateResult, ...] = ()
    recipe_sha256: str = ""
    wall_seconds: float = 0.0
    images_per_second: float = 0.0
    cost: Cost | None = None
    peak_memory_mib: float | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    continues: str | None = None
    unlabelled: int = 0
    agreement: float | None = None

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def teacher(self) -> TeacherSummary | None:
        """The only teacher, or the reference where the method has none; None where there are
        several.
        """
        known = self.teachers or ((self.reference,) if self.reference is not None else ())
        return known[0] if len(known) == 1 else None

    @property
    def aligned_gap(self) -> GapAt | None:
        """The gap at temperature 1 on the logits that the method's loss sees: the raw one where it
        sees those.
        """
        at_one = [gap for gap in self.gaps if gap.temperature == 1.0]
        return next((gap for gap in at_one if gap.aligned), at_one[0] if at_one else None)


@dataclass(frozen=True, slots=True)
class CalibrationCurve:
    """A reliability diagram: equal bins of confidence; an empty bin has None."""

    ece: float
    edges: tuple[float, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    count: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RightAnswers:
    """Which of n test images the network gets right. labels_sha256: of their true classes in order,
    [n] int64: what marks them as the same images. bits: one an image, the first in the highest bit
    of the first byte; base64.
    """

    n: int
    labels_sha256: str
    bits: str


@dataclass(frozen=True, slots=True)
class RunAnalysis:
    """analysis.json of a run: what its report draws besides the curves. confusion:
    [true][predicted] counts on the test split; calibration by label ("teacher", "student"). gap: of
    a network trained on labels alone its own responses, without students; matrices and points in it
    are rounded to four decimals. right: None in runs of versions that kept none.
    """

    class_names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: Mapping[str, CalibrationCurve]
    gap: GapReport | None = None
    right: RightAnswers | None = None
