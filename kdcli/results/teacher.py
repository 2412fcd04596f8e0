"""Records of what one network has to teach, one set of types for JSON, report and screen.

Probabilities are fractions, entropies are in nats, classes are numbered from 0. Intervals are of 95
%; each type says how they were found. Standard library only: reports read these without torch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from kdcli.results.intervals import Estimate, Interval

Matrix = tuple[tuple[float, ...], ...]
Effect = Literal["distillation", "regularisation", "label smoothing"]

# ---- the teacher alone ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClassSimilarity:
    """Of one class; see SimilarityAt. alike: the classes with the largest mean similarity labels,
    and these. column_error: standard error of column_cv, None if not measured.
    """

    number: int
    n: int
    confidence: float
    entropy: float
    row_variance: float
    column_variance: float
    column_cv: float
    similarity_entropy: float
    alike: tuple[tuple[int, float], ...] = ()
    column_error: float | None = None


@dataclass(frozen=True, slots=True)
class SimilarityAt:
    """Confidence and similarity labels of one network at one temperature, q = softmax(v / tau), y
    the label of a sample.

    confidence: mean q_y. entropy: mean entropy of q, nats. row_variance: mean over samples of the
    variance of q_k over k != y.
    column_variance: mean over classes y and k != y of the variance of q_k over the samples of class
    y. With the similarity labels of each sample scaled to sum to 1, r_k = q_k / (1 - q_y):
    column_cv is the mean over y and k != y of the standard deviation of r_k over the samples of y,
    divided by its mean; similarity_entropy the mean entropy of r over log(K - 1).

    Intervals: of means over samples, normal; of column_variance and column_cv, normal after
    linearisation, None without the second pass over the logits that it takes. Rough where classes
    have fewer than about 30 samples.
    """

    temperature: float
    n: int
    classes: int
    confidence: Estimate
    entropy: Estimate
    relative_entropy: Estimate  # entropy / log K
    row_variance: Estimate
    column_variance: float
    column_cv: float
    similarity_entropy: Estimate
    by_class: tuple[ClassSimilarity, ...]
    column_variance_interval: Interval | None = None
    column_cv_interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What the verdict on the distillation hypothesis rests on.

    constant: below this column_cv similarity labels count as constant within a class. varied: from
    this column_cv on they count as varied. entropy: from this entropy / log K on a response counts
    as soft.
    """

    constant: float = 0.01
    varied: float = 0.10
    entropy: float = 0.9


@dataclass(frozen=True, slots=True)
class ClassEffect:
    """The verdict for one class, from its own samples."""

    number: int
    n: int
    effect: Effect
    relative_entropy: float
    column_cv: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What learning from this network amounts to, after the distillation hypothesis of paper 001.
    The rule is ours:

    label smoothing: column_cv < constant; distillation: column_cv >= varied and relative_entropy >=
    entropy; regularisation: all else.

    settled: whether both 95 % intervals lie wholly on their side of every limit that decided; None
    where column_cv has none.
    """

    temperature: float
    effect: Effect
    relative_entropy: Estimate
    column_cv: float
    column_cv_interval: Interval | None
    thresholds: Thresholds
    settled: bool | None
    by_class: tuple[ClassEffect, ...]

    @property
    def counts(self) -> dict[str, int]:
        """The number of classes that have each effect."""
        return dict(Counter(each.effect for each in self.by_class))


@dataclass(frozen=True, slots=True)
class Contrast:
    """Mean of a matrix within superclasses minus across them, over pairs of different classes.
    pairs: [within, across]. The interval is normal, by the jackknife over classes; None with fewer
    than two superclasses that a class can leave.
    """

    within: float
    across: float
    difference: float
    pairs: tuple[int, int]
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class ClassMatrix:
    """How alike one network makes its classes, [K][K] in the order of ClassRelations, each from -1
    to 1.

    of: Pearson correlation of the probabilities q = softmax(v / tau) over samples, after all but
    the top_k largest of each sample were set to their mean where top_k is given; or cosine of the
    rows of the last layer's weight, which has no temperature. n: samples; None for weights. values:
    None where they were not asked for. zero_classes: whose probability does not vary, or whose
    weight is zero; they have zeros, on the diagonal too.
    """

    of: Literal["probabilities", "weights"]
    temperature: float | None
    top_k: int | None
    n: int | None
    values: Matrix | None
    contrast: Contrast | None
    zero_classes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Likeness:
    """Pearson correlation of two matrices' entries over the pairs of different classes, with the
    jackknife interval over classes. value None: one of them has the same entry everywhere. first,
    second: positions in ClassRelations.matrices.
    """

    first: int
    second: int
    value: float | None
    pairs: int
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class ClassRelations:
    """How a network relates classes. order: class numbers, those of a superclass side by side.
    superclass: of each class in that order, None where the data have none.
    """

    order: tuple[int, ...]
    superclass: tuple[int, ...] | None
    matrices: tuple[ClassMatrix, ...]
    likeness: tuple[Likeness, ...] = ()


@dataclass(frozen=True, slots=True)
class Points:
    """Samples in a plane. sample: position in the split; label: class; x, y: coordinates."""

    sample: tuple[int, ...]
    label: tuple[int, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ClassProjection:
    """Penultimate features projected on the plane through the last layer's weight rows of three
    classes (Müller et al. 2019).

    templates: where those rows lie, the first at the origin. centres: mean of each class's points.
    spread: mean squared distance of points to the centre of their class, averaged over the three,
    divided by the mean squared distance between centres; its interval is normal after
    linearisation, with these three classes given. n: samples of each class drawn. chosen: why these
    three.
    """

    classes: tuple[int, int, int]
    chosen: str
    n: tuple[int, int, int]
    points: Points
    templates: tuple[tuple[float, float], ...]
    centres: tuple[tuple[float, float], ...]
    spread: Estimate


@dataclass(frozen=True, slots=True)
class Embedding:
    """Penultimate features in two dimensions: points, drawn from `of` samples."""

    kind: Literal["tsne"]
    of: int
    points: Points
    perplexity: float | None = None


@dataclass(frozen=True, slots=True)
class Silhouette:
    """Mean silhouette coefficient of penultimate features, from -1 (nearer to another class) to 1
    (far from all others), with a normal interval over the n samples drawn from `of`, each against
    the others as they are. by_class: None without samples.
    """

    value: Estimate
    n: int
    of: int
    by_class: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class TemperatureScaling:
    """Calibration of one network before and after its logits are divided by the temperature that
    minimises the likelihood loss.

    temperature: fitted on `fitted_on` samples, which are not the n reported on; with folds, the
    median of one temperature a fold, each fitted without the samples that it is used on,
    `fitted_on` being the fewest. edge: no temperature minimises the loss, so the limit of the range
    stands: "cold", every sample is classified correctly; "hot", labels are no likelier than chance.
    nll_gain: before minus after, paired. nll: nats, bootstrapped over samples; ece: 15 bins.
    """

    temperature: float
    edge: Literal["cold", "hot"] | None
    n: int
    fitted_on: int
    nll_before: Estimate
    nll_after: Estimate
    nll_gain: Estimate
    ece_before: float
    ece_after: float
    folds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TeacherExplanation:
    """Is this a good teacher? What one network's responses, weights and features say, without a
    student.

    None, or empty: not asked for, or left out for a reason that the warnings say.
    """

    similarity: tuple[SimilarityAt, ...] = ()
    hypothesis: Hypothesis | None = None
    relations: ClassRelations | None = None
    projection: ClassProjection | None = None
    tsne: Embedding | None = None
    silhouette: Silhouette | None = None
    calibration: TemperatureScaling | None = None
