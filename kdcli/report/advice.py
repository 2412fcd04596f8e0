"""What a screen and a page say of advice: the candidates, what to take, and what the order has been
worth.
"""

from __future__ import annotations

from kdcli import formatting
from kdcli.advice import RULES, Advice, Study
from kdcli.results.intervals import Estimate

ROWS = 8  # candidates that are shown unless all are asked for


def candidate_rows(advice: Advice, most: int | None = ROWS) -> list[tuple[str, ...]]:
    """The candidates in their order, under a heading; the score as how far it is behind the
    first's.
    """
    first = advice.candidates[0].scores[advice.score]
    rows = [
        (
            one.teacher,
            formatting.percent(one.accuracy, one.n),
            one.method,
            formatting.temperature(one.temperature),
            formatting.signed(one.scores[advice.score] - first, 2),
        )
        for one in advice.candidates[:most]
    ]
    return [("teacher", "accuracy", "method", "τ", advice.score), *rows]


def verdict(advice: Advice) -> str:
    """What to take, or that there is nothing to go by."""
    best = advice.best
    if best is None:
        return (
            f"No advice: {advice.score!r} has not been shown to order students better than a "
            "rule of thumb. The order is a description."
        )
    return (
        f"Distil {best.teacher} by {best.method} at τ = {formatting.temperature(best.temperature)}."
    )


def worth(advice: Advice) -> str:
    """How well the order did in the study that it was tested on, and how the rules did."""
    study = advice.tested_on
    rules = ", ".join(f"{name} {_correlation(study.rules[name])}" for name in RULES)
    return (
        f"On {study.recipe} ({study.cells} combinations, {study.seeds} seeds) its rank "
        "correlation with the students' accuracy is "
        f"{_correlation(study.scores[advice.score])}; without a score: {rules}. Its lead "
        f"over the better one: {_correlation(study.lead)}. "
        f"Chosen on {advice.chosen_on.recipe}, where it is "
        f"{_correlation(advice.chosen_on.scores[advice.score])}."
    )


def studies(advice: Advice) -> list[tuple[str, ...]]:
    """Every score and rule in both studies, under a heading."""
    both: tuple[Study, Study] = (advice.chosen_on, advice.tested_on)
    rows = [
        (name, *(_correlation(study.scores[name]) for study in both)) for name in both[0].scores
    ]
    rows += [(name, *(_correlation(study.rules[name]) for study in both)) for name in both[0].rules]
    return [("ordered by", *(study.recipe for study in both)), *rows]


def _correlation(found: Estimate) -> str:
    return (
        f"{formatting.signed(found.value, 2)} [{formatting.signed(found.low, 2)}, "
        f"{formatting.signed(found.high, 2)}]"
    )
