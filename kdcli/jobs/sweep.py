"""A matrix of runs: finished cells are skipped, interrupted ones go on, failed ones do not stop the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kdcli.errors import Interrupted, KdError, Terminated
from kdcli.jobs.events import CellDone, CellStarted, Listener
from kdcli.jobs.run import obtain
from kdcli.recipe.sweep import Cell, Sweep, load_sweep
from kdcli.report.sweeps import finished_runs
from kdcli.results import CellResult, SweepResult


def run_sweep(
    sweep: Sweep | str | Path,
    *,
    out: str | Path = "runs",
    listeners: Sequence[Listener] = (),
    command: str = "",
    limit: int | None = None,
) -> SweepResult:
    """Run every cell of a sweep that is not finished yet.

    Args:
        sweep: a sweep file, a shipped sweep's name, or a loaded sweep.
        limit: run at most this many cells, skipped ones not counted.

    Raises:
        RecipeInvalid: the sweep or a cell of it; nothing was run. Interrupted, Terminated: the cell's state is saved, and
            the same command goes on from there.
    """
    loaded = sweep if isinstance(sweep, Sweep) else load_sweep(sweep)
    loaded.check()  # a mistake in the last cell must not show after hours
    folder = Path(out)
    unique = [cells[0] for cells in loaded.runs().values()]
    finished = finished_runs(folder)  # read once: what this sweep adds are other cells
    results: list[CellResult] = []
    worked = 0
    for number, cell in enumerate(unique, 1):
        if limit is not None and worked >= limit:
            break
        for listener in listeners:
            listener(CellStarted(number, len(unique), cell.id, cell.labels))
        result = _run_cell(cell, folder, finished, listeners, command or f"kd sweep {loaded.path}")
        worked += result.status != "skipped"
        results.append(result)
        for listener in listeners:
            listener(CellDone(number, len(unique), cell.id, cell.labels, result.status, result.run, result.error, dict(result.metrics)))
    return SweepResult(str(loaded.path), len(unique), tuple(results))


def _run_cell(cell: Cell, out: Path, finished: Mapping[str, Path], listeners: Sequence[Listener], command: str) -> CellResult:
    try:
        run, result = obtain(cell.resolved, out=out, listeners=listeners, command=command, finished=finished)
    except (Interrupted, Terminated) as error:
        error.hint = command  # the same command finds the finished cells and goes on with this one
        raise
    except KdError as error:
        return CellResult(cell.id, cell.labels, "failed", error=error.message)
    except Exception as error:  # noqa: BLE001  whatever broke this cell, the others may work
        return CellResult(cell.id, cell.labels, "failed", error=f"{type(error).__name__}: {error}")
    if result is None:
        return CellResult(cell.id, cell.labels, "skipped", str(run))
    return CellResult(cell.id, cell.labels, "done", str(run), metrics={"accuracy": result.test.accuracy})
