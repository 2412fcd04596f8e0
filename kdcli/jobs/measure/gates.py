"""Gates: the thresholds that a user asked for."""

from __future__ import annotations

from kdcli.recipe.schema import GatesSection
from kdcli.results.gap import GapAt
from kdcli.results.measures import GateResult, Measures


def check_gates(
    gates: GatesSection, test: Measures, gap: GapAt | None, *, subject: str = ""
) -> tuple[GateResult, ...]:
    """The thresholds that were asked for, each with the value it met or missed. A gap gate without
    a teacher misses.
    """
    values: dict[str, tuple[float | None, bool]] = {
        "min_accuracy": (test.accuracy, True),
        "min_balanced_accuracy": (test.balanced_accuracy, True),
        "min_macro_f1": (test.macro_f1, True),
        "max_entropy_gap": (gap.entropy if gap else None, False),
        "max_free_energy_gap": (gap.free_energy if gap else None, False),
        "max_ece": (test.ece, False),
        "max_perplexity": (test.perplexity, False),
    }
    results = []
    for name, (value, at_least) in values.items():
        limit = getattr(gates, name)
        if limit is not None:
            passed = value is not None and (value >= limit if at_least else value <= limit)
            results.append(GateResult(name, limit, value, passed, subject))
    return tuple(results)
