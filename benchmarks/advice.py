"""Measures how well scores of teachers' answers order the students that come out, beside two rules
that need no score.

The sweeps are trained first. The score is chosen on the first study and tested on the second;
docs/results/advice.md says more, and why kd gives no advice.

With logits v of n images, q = softmax(v / tau) and the mean answer m_y to the images of class y:

    variety       S(q) / log K times CV_col: paper 001's picture of what distillation passes on
    beyond_class  mean_i KL(q_i || m_y) = sum_y n_y / n S(m_y) - mean_i S(q_i)
    in_the_loss   tau^2 beyond_class
    truth         -mean_i ||q_i - onehot(y_i)||^2
    shortness     -mean_i std_k(v_i) / tau: paper 000, the gaps follow the norms
    promise       -0.3 * 100 (1 - accuracy) - 0.6 log(effort)
                  effort of kd: tau^2 (log K - mean_i S(q_i)), its loss for a student that answers
                  nothing, which grows with the length of the logits that the student has to reach
                  effort of skd: 1 + mean_i std_k(v_i) / tau: there lengths are equal, and sharp
                  answers are what is hard to follow

beyond_class is the mutual information of answer and image given the class. truth is the Brier
score, whose expectation is the mean squared distance of q to the true probabilities and a constant
(Menon et al. 2021, A statistical perspective on distillation, arXiv:2005.10419).

    kd sweep fashion-mnist/advice
    kd sweep cifar10/advice
    python -m benchmarks.advice --json docs/results/advice.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcli.analysis.bootstrap import resampled_counts
from kdcli.analysis.checks import rows_at_a_time
from kdcli.analysis.correlation import spearman_rows
from kdcli.analysis.similarity import similarity_and_responses
from kdcli.core.types import SplitName
from kdcli.engine.runtime import Runtime
from kdcli.jobs.measure.from_checkpoint import CheckpointEvaluator
from kdcli.recipe.measured_data import asked_for
from kdcli.recipe.sweep.cells import load_sweep
from kdcli.report.tables.sweep import sweep_results
from kdcli.results.intervals import Estimate

CHOSEN_ON, TESTED_ON = "fashion-mnist/advice", "cifar10/advice"
RESAMPLES = 10_000
METHODS = ("kd", "skd")
# points of a student's accuracy on fashion-mnist/advice, where they were fitted and rounded
PER_ERROR, PER_EFFORT = 0.3, 0.6
_NO_EFFORT = 1e-9  # of answers that are uniform: nothing to follow, and nothing to learn
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
class Cell:
    """A combination of a sweep: its labels, and the mean test accuracy of its students."""

    teacher: str
    checkpoint: str
    method: str
    temperature: float
    accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        return statistics.mean(self.accuracies)


def answer_scores(
    logits: Tensor,
    targets: Tensor,
    temperatures: Sequence[float],
    *,
    label: str = "the network",
    class_names: Sequence[str] | None = None,
) -> dict[tuple[str, float], dict[str, float]]:
    """Every score of SCORES for each method of METHODS at each temperature; larger is better.

    Args:
        logits: [n,K] of images that the network was not trained on; K at least 3, two samples or
            more of every class.
        targets: [n] int64.
        temperatures: each > 0.
        label, class_names: for messages.

    Raises:
        UsageError, Incompatible, BadData: as kdcli.analysis.similarity.similarity.
    """
    classes = logits.shape[1]
    measured = similarity_and_responses(
        logits, targets, temperatures=temperatures, label=label, class_names=class_names
    )
    share = torch.bincount(targets, minlength=classes).double() / len(targets)
    errors = 100 * float((logits.argmax(dim=1) != targets).double().mean())
    found: dict[tuple[str, float], dict[str, float]] = {}
    for at, response in measured:
        tau, entropy = at.temperature, at.entropy.value
        beyond = float((share * torch.special.entr(response).sum(dim=1)).sum()) - entropy
        brier, spread = _means(logits, targets, tau)
        alike = {
            "variety": at.relative_entropy.value * at.column_cv,
            "beyond_class": beyond,
            "in_the_loss": tau**2 * beyond,
            "truth": -brier,
            "shortness": -spread / tau,
        }
        efforts = {"kd": tau**2 * (math.log(classes) - entropy), "skd": 1 + spread / tau}
        for method in METHODS:
            promise = -PER_ERROR * errors - PER_EFFORT * math.log(max(efforts[method], _NO_EFFORT))
            found[method, tau] = {"promise": promise, **alike}
    return found


def _means(logits: Tensor, targets: Tensor, temperature: float) -> tuple[float, float]:
    """(mean Brier score of the answers, mean standard deviation over classes of the logits).

    A block of samples at a time.
    """
    brier, spread, rows = [], [], rows_at_a_time(logits)
    for v, y in zip(logits.split(rows), targets.split(rows), strict=True):  # type: ignore[no-untyped-call]
        x = v.double()
        q = (x / temperature).softmax(dim=1)
        # |q - onehot(y)|^2 = |q|^2 - 2 q_y + 1
        brier.append(float(q.square().sum() - 2 * q.gather(1, y[:, None]).sum()) + len(y))
        spread.append(float(x.std(dim=1).sum()))
    n = len(targets)
    return math.fsum(brier) / n, math.fsum(spread) / n


def cells_of(recipe: str, out: Path) -> list[Cell]:
    """The combinations of a sweep whose students are all there.

    Raises:
        SystemExit: some are missing.
    """
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for labels, result in sweep_results(load_sweep(recipe), out).results:
        if result is None:
            raise SystemExit(f"{recipe} is not finished under {out}: kd sweep {recipe}")
        key = (labels["teacher"], labels["method.name"], labels["method.temperature"])
        cell = found.setdefault(
            key, {"checkpoint": result.teachers[0].checkpoint, "accuracies": []}
        )
        cell["accuracies"].append(result.test.accuracy)
    return [
        Cell(key[0], cell["checkpoint"], key[1], float(key[2]), tuple(cell["accuracies"]))
        for key, cell in found.items()
    ]


def columns_of(
    cells: Sequence[Cell], split: SplitName
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """What each score and each rule says of each cell, from the teachers' answers to a split."""
    evaluator = CheckpointEvaluator(asked_for(), split=split, runtime=Runtime(precision="fp32"))
    temperatures = sorted({cell.temperature for cell in cells})
    scored: dict[tuple[str, str, float], Mapping[str, float]] = {}
    accurate: dict[str, float] = {}
    for checkpoint in dict.fromkeys(cell.checkpoint for cell in cells):
        item = evaluator.answers(checkpoint)
        accurate[checkpoint] = float((item.logits.argmax(dim=1) == item.targets).double().mean())
        at = answer_scores(item.logits, item.targets, temperatures, label=item.label)
        scored |= {(checkpoint, *where): scores for where, scores in at.items()}
    scores = {
        name: [scored[cell.checkpoint, cell.method, cell.temperature][name] for cell in cells]
        for name in SCORES
    }
    values = (
        [accurate[cell.checkpoint] for cell in cells],
        [-abs(math.log(cell.temperature / 4)) for cell in cells],
    )
    return scores, dict(zip(RULES, values, strict=True))


def correlate(
    columns: Mapping[str, Sequence[float]], outcome: Sequence[float], resamples: int
) -> dict[str, tuple[float, Tensor]]:
    """Spearman's correlation of each column with the outcome, and in resamples of the cells.

    The latter are [resamples].
    """
    n = len(outcome)
    drawn = torch.cat(list(resampled_counts(n, resamples=resamples, seed=0)))
    rows = torch.stack(
        [torch.repeat_interleave(torch.arange(n), counts.long()) for counts in drawn]
    )
    y = torch.tensor(outcome, dtype=torch.float64)
    found = {}
    for name, values in columns.items():
        x = torch.tensor(values, dtype=torch.float64)
        found[name] = (
            float(spearman_rows(x[None], y[None])[0]),
            spearman_rows(x[rows], y[rows]).nan_to_num(0.0),
        )
    return found


def estimate(value: float, resampled: Tensor) -> Estimate:
    """With a 95 % percentile interval."""
    low, high = torch.quantile(
        resampled, torch.tensor((0.025, 0.975), dtype=torch.float64)
    ).tolist()
    return Estimate(value, low, high)


def study(
    recipe: str, cells: Sequence[Cell], split: SplitName, chosen: str | None
) -> tuple[Study, dict[str, Any]]:
    """A study, and for each score and rule the accuracy of the cell that it would have taken.

    chosen: a score; the best one here unless given.
    """
    scores, rules = columns_of(cells, split)
    outcome = [cell.accuracy for cell in cells]
    found = correlate({**scores, **rules}, outcome, RESAMPLES)
    score = chosen or max(SCORES, key=lambda name: found[name][0])
    rival = max(RULES, key=lambda name: found[name][0])
    lead = estimate(found[score][0] - found[rival][0], found[score][1] - found[rival][1])
    made = Study(
        recipe=recipe,
        cells=len(cells),
        seeds=len(cells[0].accuracies),
        scores={name: estimate(*found[name]) for name in SCORES},
        rules={name: estimate(*found[name]) for name in RULES},
        lead=lead,
    )
    columns = {**scores, **rules}
    within = {
        method: _within(cells, columns, method)
        for method in dict.fromkeys(cell.method for cell in cells)
    }
    # of cells that a column calls equally good, the mean
    taken = {
        name: statistics.mean(y for x, y in zip(values, outcome, strict=True) if x == max(values))
        for name, values in columns.items()
    }
    return made, {
        "score": score,
        "taken": taken,
        "within": within,
        "best": max(outcome),
        "mean": statistics.mean(outcome),
    }


def _within(
    cells: Sequence[Cell], columns: Mapping[str, Sequence[float]], method: str
) -> dict[str, float]:
    """Spearman's correlation of each column with the accuracy over the cells of one method."""
    rows = [number for number, cell in enumerate(cells) if cell.method == method]
    y = torch.tensor([cells[number].accuracy for number in rows], dtype=torch.float64)[None]
    x = {
        name: torch.tensor([values[number] for number in rows], dtype=torch.float64)[None]
        for name, values in columns.items()
    }
    return {name: float(spearman_rows(values, y)[0]) for name, values in x.items()}


def show(made: Study, taken: Mapping[str, Any]) -> None:
    """Print a study as a table."""
    print(
        f"\n{made.recipe}: {made.cells} cells, {made.seeds} seeds each; best "
        f"{100 * taken['best']:.2f} %, mean {100 * taken['mean']:.2f} %\n"
    )
    methods = list(taken["within"])
    print(
        "| ordered by | rank correlation | 95 % interval | "
        f"{' | '.join(f'within {name}' for name in methods)} | accuracy of its choice |"
    )
    print(f"| --- | --: | --: | {'--: | ' * len(methods)}--: |")
    for name, found in {**made.scores, **made.rules}.items():
        mark = "**" if name == taken["score"] else ""
        inside = " | ".join(f"{taken['within'][method][name]:+.2f}" for method in methods)
        choice = f"{100 * taken['taken'][name]:.2f} %"
        print(
            f"| {mark}{name}{mark} | {found.value:+.2f} | {found.low:+.2f} to "
            f"{found.high:+.2f} | {inside} | {choice} |"
        )
    print(
        f"\nlead of {taken['score']} over the better rule: {made.lead.value:+.2f} "
        f"({made.lead.low:+.2f} to {made.lead.high:+.2f})",
        flush=True,
    )


def main() -> None:
    """Correlate, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.advice", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--out",
        type=Path,
        nargs=2,
        default=[Path("runs"), Path("runs")],
        help="folders of the runs, of either study",
    )
    parser.add_argument(
        "--split",
        default="test",
        choices=["test", "val", "train"],
        help="whose answers are scored (default test)",
    )
    parser.add_argument("--json", type=Path, help="where the numbers go")
    given = parser.parse_args()
    document: dict[str, Any] = {"split": given.split}
    chosen = None
    for recipe, out in zip((CHOSEN_ON, TESTED_ON), given.out, strict=True):
        cells = cells_of(recipe, out)
        made, taken = study(recipe, cells, given.split, chosen)
        chosen = taken["score"]
        show(made, taken)
        document[recipe] = {
            **asdict(made),
            **taken,
            "students": [
                {**asdict(cell), "checkpoint": Path(cell.checkpoint).name} for cell in cells
            ],
        }
    if given.json:
        given.json.write_text(
            json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
