"""What a teacher's answers promise, and how far such promises have been kept: the types behind `kd
analyze-gap --advise`.

A score orders teachers and temperatures before any student is trained. It is advice only if it has
earned that: in a study on real data it must order trained students better than two rules that need
no score. docs/results/advice.md is the study. Standard library only: reports read these without
torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdcli.results.intervals import Estimate

SCORES: Mapping[str, str] = {
    "promise": (
        "-0.3 times the teacher's errors in %, -0.6 times the logarithm of what it takes to "
        "follow its answers by the method"
    ),
    "variety": "S / log K times CV_col: soft answers that vary within a class (paper 001)",
    "beyond_class": (
        "mean KL(q || mean q of the class), nats: what answers say about an image beyond its class"
    ),
    "in_the_loss": "the same times τ², which is how the loss weighs it",
    "truth": (
        "minus the Brier score of q: nearness to the true probabilities (Menon et al. 2021, "
        "arXiv:2005.10419)"
    ),
    "shortness": (
        "minus the mean of std(v) / τ over images: how little a student's logits must grow "
        "(paper 000)"
    ),
}
RULES: Mapping[str, str] = {
    "most accurate teacher": "the teacher's accuracy, whatever temperature",
    "τ = 4": "the nearer τ is to 4, on a logarithmic scale, the better",
}


@dataclass(frozen=True, slots=True)
class Study:
    """How well scores ordered the students of a sweep.

    recipe: the sweep. cells: its (teacher, temperature, method) combinations, each the mean
    accuracy of students of `seeds` seeds.
    scores, rules: Spearman's rank correlation with that accuracy over the cells, by name; equal
    values share their ranks.
    lead: how much larger the chosen score's correlation is than the better rule's. Intervals:
    bootstrap over cells, percentile.
    """

    recipe: str
    cells: int
    seeds: int
    scores: Mapping[str, Estimate]
    rules: Mapping[str, Estimate]
    lead: Estimate


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to distil. accuracy: the teacher's, over n images. scores: by name, as in SCORES;
    larger is better.
    """

    teacher: str
    method: str
    temperature: float
    accuracy: float
    n: int
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Advice:
    """The `advice` of `kd analyze-gap --advise --json`.

    score: the one that was chosen on the first study, before the second. candidates: by that score,
    best first. earned: whether it beat both rules on the second study, beyond what its interval
    leaves to chance; best is None where it did not.
    """

    score: str
    about: str
    candidates: tuple[Candidate, ...]
    chosen_on: Study
    tested_on: Study
    earned: bool
    best: Candidate | None = None


# What `python -m benchmarks.advice` found; docs/results/advice.md has the commands and the
# accuracies. The score was chosen on the first study before the students of the second were
# trained.
CHOSEN = "promise"
CHOSEN_ON = Study(
    recipe="fashion-mnist/advice",
    cells=48,
    seeds=3,
    scores={
        "promise": Estimate(0.8362, 0.7009, 0.8984),
        "variety": Estimate(0.0378, -0.2731, 0.3408),
        "beyond_class": Estimate(0.0941, -0.1934, 0.3826),
        "in_the_loss": Estimate(-0.2635, -0.5397, 0.0427),
        "truth": Estimate(0.1894, -0.1038, 0.4789),
        "shortness": Estimate(-0.0306, -0.3216, 0.2462),
    },
    rules={
        "most accurate teacher": Estimate(0.4664, 0.1857, 0.6864),
        "τ = 4": Estimate(0.1130, -0.1951, 0.3955),
    },
    lead=Estimate(0.3698, 0.1476, 0.6190),
)
TESTED_ON = Study(
    recipe="cifar10/advice",
    cells=30,
    seeds=3,
    scores={
        "promise": Estimate(0.3157, -0.0119, 0.5849),
        "variety": Estimate(-0.2086, -0.5409, 0.1773),
        "beyond_class": Estimate(-0.1792, -0.5077, 0.2008),
        "in_the_loss": Estimate(0.1177, -0.2735, 0.4572),
        "truth": Estimate(-0.0285, -0.3835, 0.3293),
        "shortness": Estimate(0.1934, -0.1929, 0.5252),
    },
    rules={
        "most accurate teacher": Estimate(0.4412, 0.1359, 0.6729),
        "τ = 4": Estimate(0.2547, -0.1443, 0.5960),
    },
    lead=Estimate(-0.1255, -0.3063, 0.0376),
)


def judged(candidates: Iterable[Candidate]) -> Advice:
    """Candidates by the chosen score, and the verdict of the second study on it."""
    ordered = tuple(sorted(candidates, key=lambda one: one.scores[CHOSEN], reverse=True))
    earned = TESTED_ON.lead.low > 0
    return Advice(
        CHOSEN,
        SCORES[CHOSEN],
        ordered,
        CHOSEN_ON,
        TESTED_ON,
        earned,
        ordered[0] if earned else None,
    )
