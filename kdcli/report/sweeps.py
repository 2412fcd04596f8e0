"""Which cells of a sweep are finished, found by the content hash of their recipes. No torch: tables
read only summaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kdcli.errors import KdError
from kdcli.files import read_json
from kdcli.recipe.source import recipe_hash
from kdcli.recipe.sweep import Sweep
from kdcli.report.run import from_dict
from kdcli.results import RunResult


def finished_runs(out: Path) -> dict[str, Path]:
    """Finished runs under a folder by the content hash of their recipe; of several, the one
    finished last.
    """
    found: dict[str, Path] = {}
    for summary in sorted(out.glob("*/summary.json"), key=lambda path: path.stat().st_mtime):
        with suppress(KdError, AttributeError):  # a foreign or damaged file is no run of ours
            if not summary.parent.is_symlink():
                found[str(read_json(summary).get("recipe_sha256"))] = summary.parent
    return found


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
