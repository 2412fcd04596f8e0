"""Records of what explains a student's gap to its teacher, one set of types for JSON, report and
screen.

The teacher alone is in kdcli.results.teacher, the gap itself in kdcli.results.measures. Letters: z
student logits, v teacher logits, p and q their softmax at tau, t the label of a sample. Standard
library only: reports read these without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdcli.results.cost import CapacityGap
from kdcli.results.intervals import Estimate, Interval
from kdcli.results.teacher import Matrix, TemperatureScaling


@dataclass(frozen=True, slots=True)
class RescalingBin:
    """Samples that the teacher is about equally sure of. confidence: mean q_t. low, median, high:
    quartiles of w_t.
    """

    n: int
    confidence: float
    mean: float
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class GradientRescaling:
    """By how much a method's loss multiplies the gradient of cross-entropy at the label's logit
    (paper 002, Prop. 2):

        w_t = (dL/dz_t) / (p_t - 1),   p_t at temperature 1,

    with L the method's own loss, in the last step of its training. temperature: of the teacher's
    confidence q_t. n: samples measured; dropped: those without a gradient to speak of, 1 - p_t <=
    1e-6. pearson, spearman: correlation of w_t with q_t, bootstrapped over samples; None where one
    of them is constant. mean, median, negative (the share of w_t < 0) and low, high (where 1 % of
    w_t are below, above: limits for a plot): None without samples.
    """

    temperature: float
    n: int
    dropped: int
    mean: float | None
    median: float | None
    negative: float | None
    low: float | None
    high: float | None
    pearson: Estimate | None
    spearman: Estimate | None
    curve: tuple[RescalingBin, ...] = ()


@dataclass(frozen=True, slots=True)
class DistanceRanks:
    """Whether a student's features lie nearer to the weights of those wrong classes that the
    teacher finds likelier (paper 002, Prop. 1): mean over n samples of the rank correlation of -|h
    - w_k|^2 with q_k over k != y, bootstrapped over samples.

    It is the same at every temperature. skipped: samples with no order to compare; correlation
    None: all of them.
    """

    n: int
    skipped: int
    correlation: Estimate | None


@dataclass(frozen=True, slots=True)
class CorrelationDifference:
    """How differently student and teacher relate classes, from logits centred per sample (paper
    003, Fig. 6).

    of: "class_mean", [c][k] the mean logit of class k over the samples of class c; "pearson",
    [j][k] the correlation of two classes' logits over samples, 0 for a class whose logits are
    constant. standardised: logits divided by their standard deviation per sample first. mean,
    largest: of |teacher - student| over all entries; place: where the largest is. missing: classes
    without samples, whose rows of "class_mean" are zeros and are left out. teacher, student: None
    where they were not asked for.
    """

    of: Literal["class_mean", "pearson"]
    standardised: bool
    n: int
    mean: float
    largest: float
    place: tuple[int, int]
    missing: tuple[int, ...] = ()
    teacher: Matrix | None = None
    student: Matrix | None = None

    @property
    def difference(self) -> Matrix | None:
        """|teacher - student|, what the figure shows."""
        if self.teacher is None or self.student is None:
            return None
        rows = zip(self.teacher, self.student, strict=True)
        return tuple(tuple(abs(v - z) for v, z in zip(*pair, strict=True)) for pair in rows)


@dataclass(frozen=True, slots=True)
class StageCka:
    """How alike two networks represent the same samples, stage by stage: linear CKA, values[student
    tap][teacher tap].

    batches: how many minibatches the unbiased estimate is from; None for the biased one from all n
    samples at once, too high where n is not far above the dimensions. dimensions: how many numbers
    a sample each tap gave (a map that nobody pooled gives C H W). low, high: 95 % interval, normal,
    by the jackknife over batches. left_out: samples in batches of fewer than 4.
    """

    student_taps: tuple[str, ...]
    teacher_taps: tuple[str, ...]
    student_dimensions: tuple[int, ...]
    teacher_dimensions: tuple[int, ...]
    values: Matrix
    n: int
    batches: int | None = None
    left_out: int = 0
    low: Matrix | None = None
    high: Matrix | None = None


@dataclass(frozen=True, slots=True)
class DegradationRow:
    """One teacher-student pair of a degradation curve. label, capacity (in parameters): of the side
    that varies; other: the other side's label. Gaps: at the curve's temperature. change: accuracy
    of the student less that of the row before, None in the first.
    """

    label: str
    capacity: int
    teacher_parameters: int
    student_parameters: int
    teacher_accuracy: float
    accuracy: float
    accuracy_interval: Interval
    change: float | None
    entropy: Estimate
    free_energy: Estimate
    kl: float
    agreement: float
    other: str = ""


@dataclass(frozen=True, slots=True)
class DegradationCurve:
    """Students' accuracy as one side grows (paper 000, Table 7; paper 001, Fig. 9). rows: by
    capacity, smallest first.

    best: the row of the highest accuracy, the first of equals. drop: that accuracy less the last
    row's. degrades: whether the best is not the last and their 95 % intervals (Wilson, test
    samples; not seeds) do not overlap. rank_correlation: of capacity with accuracy; None for fewer
    than three rows, or if one of them is the same in all.
    """

    varies: Literal["teacher", "student"]
    temperature: float
    rows: tuple[DegradationRow, ...]
    best: int
    drop: float
    degrades: bool
    rank_correlation: float | None


@dataclass(frozen=True, slots=True)
class PairExplanation:
    """One student beside its teacher. None, or empty: not asked for, or left out for a reason that
    the warnings say.
    """

    student: str
    rescaling: tuple[GradientRescaling, ...] = ()
    distance_ranks: DistanceRanks | None = None
    differences: tuple[CorrelationDifference, ...] = ()
    cka: StageCka | None = None
    calibration: TemperatureScaling | None = None
    capacity: CapacityGap | None = None
