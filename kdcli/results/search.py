"""Records of searches: what was tried, what each came to on held-out images, and what was taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdcli.results.intervals import Interval, wilson
from kdcli.results.measures import GateResult

TrialState = Literal["going on", "raced to the end", "left behind", "failed"]


@dataclass(frozen=True, slots=True)
class Score:
    """What a trial came to at one rung: its student's accuracy on n held-out images.

    epochs: that it had been trained by then; of a teacher's trial the teacher's. run: the student's
    folder. seconds: that this rung took, all its runs together.
    checkpoint, teacher_accuracy, teacher_entropy: of a teacher's trial its weights of that moment,
    their accuracy and mean entropy in nats on held-out images; None of others.
    """

    epochs: int
    accuracy: float
    n: int
    run: str
    seconds: float
    checkpoint: str | None = None
    teacher_accuracy: float | None = None
    teacher_entropy: float | None = None

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(round(self.accuracy * self.n), self.n)


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial. number: from 1. parameters: what was chosen for it, by name. error: why it
    failed.
    """

    number: int
    parameters: dict[str, str | int | float]
    state: TrialState
    scores: tuple[Score, ...] = ()
    error: str = ""

    @property
    def last(self) -> Score | None:
        """Its score at the highest rung that it has reached."""
        return self.scores[-1] if self.scores else None

    @property
    def seconds(self) -> float:
        return sum(score.seconds for score in self.scores)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network that a search may take. latency_ms: median time of one image, eager, on this
    machine; None where nothing asked for it.
    """

    name: str
    parameters: int
    latency_ms: float | None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The `data` of `kd search --json`.

    candidates: within the budget of latency and size; left_out: the others, each with what it would
    have taken. rungs: epochs after which trials are compared. trials: as far as they came.
    frontier: numbers of trials, the smallest student first. chosen: the trial that was taken; met:
    whether its accuracy on held-out images met what was asked for. run: its folder, trained to the
    end.
    test_accuracy, gates: of that run, on the test split, which was used once.
    again: the command that repeats it. seconds: that the search took.
    """

    folder: str
    data: str
    teacher: str
    candidates: tuple[Candidate, ...]
    left_out: tuple[Candidate, ...]
    rungs: tuple[int, ...]
    trials: tuple[Trial, ...]
    frontier: tuple[int, ...]
    chosen: int
    met: bool
    run: str
    test_accuracy: float | None
    test_n: int
    gates: tuple[GateResult, ...]
    again: str
    seconds: float
    page: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundTeacher:
    """The `data` of `kd find-teacher --json`.

    student: that the probes train; probe_epochs: for so long. trials: each of a teacher, whose
    scores are those of the probes' students. chosen, epochs: the trial that was taken, and after
    how many of its epochs. checkpoint: its weights. temperature: at which its probe was distilled.
    most_accurate, most_entropy: the checkpoints that those two rules would have taken of the same
    ones, as (trial, epochs). seconds: that the search took.
    """

    folder: str
    data: str
    network: str
    student: str
    probe_epochs: int
    rungs: tuple[int, ...]
    trials: tuple[Trial, ...]
    chosen: int
    epochs: int
    checkpoint: str
    temperature: float
    most_accurate: tuple[int, int]
    most_entropy: tuple[int, int]
    again: str
    seconds: float
    page: str
    notes: tuple[str, ...] = ()
