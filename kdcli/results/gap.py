"""Records of the entropy and free-energy gaps between teachers and students."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdcli.results.intervals import Estimate
from kdcli.results.measures import GateResult, Measures
from kdcli.results.pair import DegradationCurve, PairExplanation
from kdcli.results.teacher import TeacherExplanation
from kdcli.results.text_gap import TextGap


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
    without students. data: the dataset's name; source: with its path and what else was asked for,
    which data_options has by key. shares: of several teachers in the weighted mean that `teacher`
    then is; empty for one alone.

    explanation: of the teacher alone; explanations: one a student, on raw logits. Both are empty
    where nobody asked. others: where several teachers were given, the reports of all but the first,
    with their own students; curve: then, or with several students, all pairs by capacity. seconds:
    what each part of the work took. warnings: what is left out, and why, one sentence each.
    texts: of a text that is read on and on, one a student.
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
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    source: str = ""
    data_options: Mapping[str, Any] = field(default_factory=dict)
    shares: tuple[float, ...] = ()
    texts: tuple[TextGap, ...] = ()

    @property
    def measured_on(self) -> str:
        """What tables call the data."""
        return self.source or self.data

    @property
    def gaps(self) -> tuple[GapAt, ...]:
        """The gaps of every student at every temperature, raw and aligned, without intervals."""
        return tuple(
            GapAt(
                at.temperature,
                at.entropy.value,
                at.free_energy.value,
                aligned=pair.form == "aligned",
            )
            for pair in self.pairs
            for at in pair.at
        )

    @property
    def reports(self) -> tuple[GapReport, ...]:
        """One a teacher: this one, then the others."""
        return (self, *self.others)
