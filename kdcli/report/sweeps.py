"""Which cells of a sweep are finished, found by the content hash of their recipes. No torch: tables
read only summaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kdcli.files import read_json
from kdcli.recipe.sweep.cells import Sweep
from kdcli.recipe.writing import recipe_hash
from kdcli.results.run import RunResult
from kdcli.runs.find import finished_runs
from kdcli.runs.read import from_dict


def sweep_results(sweep: Sweep, out: Path) -> list[tuple[Mapping[str, str], RunResult | None]]:
    """The labels of every cell with the summary of its finished run, None where there is none."""
    runs = finished_runs(out)
    results: list[tuple[Mapping[str, str], RunResult | None]] = []
    for cell in sweep.cells:
        run = runs.get(recipe_hash(cell.resolved.recipe))
        path = run / "summary.json" if run is not None else None
        results.append(
            (cell.labels, from_dict(RunResult, read_json(path), path) if path is not None else None)
        )
    return results
