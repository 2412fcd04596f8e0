"""Records of how good a network is on one split, and of what `kd evaluate` finds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from kdcli.results.cost import Cost
from kdcli.results.intervals import Interval


class Labelled(NamedTuple):
    """The measures that need labels: as of `Measures`, and all there."""

    n: int
    accuracy: float
    accuracy_interval: Interval
    nll: float
    ece: float


@dataclass(frozen=True, slots=True)
class Measures:
    """How good a network is on one split. nll: mean negative log-likelihood of raw logits, nats.
    ece: expected calibration error, 15 equal bins of confidence, L1. entropy, free_energy: means at
    temperature 1, logits centred per sample. logit_norm: mean L2 norm of centred logits.
    accuracy_interval: Wilson's. balanced_accuracy: mean over the classes of the accuracy on their
    samples. macro_f1: mean over the classes of F1, the harmonic mean of precision and recall.
    Classes without samples count in neither, unless one was predicted: then its F1 is 0. None: not
    measured. Of samples without labels all that labels are needed for is None; agreement, the share
    to which the network and its teacher give one likeliest class, stands in place of accuracy
    there, where there is a teacher.
    """

    n: int
    accuracy: float | None
    accuracy_interval: Interval | None
    top5: float | None
    nll: float | None
    ece: float | None
    entropy: float
    free_energy: float
    logit_norm: float
    split: Literal["train", "val", "test"] = "test"
    selected: Literal["last", "best"] = "last"
    balanced_accuracy: float | None = None
    macro_f1: float | None = None
    agreement: float | None = None

    @property
    def labelled(self) -> Labelled | None:
        """What labels tell; None of samples without any."""
        if self.accuracy is None or self.nll is None or self.ece is None:
            return None
        assert self.accuracy_interval is not None
        return Labelled(self.n, self.accuracy, self.accuracy_interval, self.nll, self.ece)

    @property
    def perplexity(self) -> float | None:
        """The exponential of nll: what language models are judged by."""
        if self.nll is None:
            return None
        return math.exp(min(self.nll, 700.0))  # beyond it there is no number


def share_of(found: Measures) -> float | None:
    """Accuracy; of samples without labels, agreement with the teacher."""
    return found.agreement if found.accuracy is None else found.accuracy


@dataclass(frozen=True, slots=True)
class EnergyAt:
    """Mean entropy (nats) and free energy of a network over a split at one temperature, logits
    centred per sample.
    """

    temperature: float
    entropy: float
    free_energy: float


@dataclass(frozen=True, slots=True)
class GateResult:
    """One threshold that the user asked for. subject: whose value it is, where several checkpoints
    are measured. confident: whether value is the worse end of an interval.
    """

    name: str
    limit: float
    value: float | None
    passed: bool
    subject: str = ""
    confident: bool = False

    @property
    def at_least(self) -> bool:
        """Tells whether the value must not be below the limit; else it must not be above."""
        return self.name.startswith("min") or self.name == "not_below"


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
class Evaluation:
    """One checkpoint measured on one split by `kd evaluate`. data: the dataset's name; source: with
    its path and whatever else was asked for. trained_on_them: whether their content is what it was
    trained on. on: the folder of other pictures that were measured instead, all of them; "" where
    it was a split of a dataset. notes: what is to be said of these. cost: None unless it was asked
    for; teacher_costs: then, those of the teachers that
    its run names and that are still there, by their checkpoints.
    """

    checkpoint: str
    network: str
    parameters: int
    method: str
    data: str
    measures: Measures
    per_class: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    trained_on_them: bool = True
    on: str = ""
    notes: tuple[str, ...] = ()
    cost: Cost | None = None
    teacher_costs: Mapping[str, Cost] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairTest:
    """McNemar's exact test between two checkpoints on the same images. two_seeds_of: the method, if
    their seed is all that is known to differ between them.
    """

    first: str
    second: str
    difference: float
    p_value: float
    two_seeds_of: str = ""


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """The `data` of `kd evaluate --json`. warnings: what could not be measured, a sentence each."""

    evaluations: tuple[Evaluation, ...]
    pairs: tuple[PairTest, ...] = ()
    gates: tuple[GateResult, ...] = ()
    warnings: tuple[str, ...] = ()


# ---- the gap -------------------------------------------------------------------------------------
