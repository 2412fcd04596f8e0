"""Finding runs: by path, by recipe, the newest, the finished, the stopped."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from kdcli.errors import KdError, NotFound
from kdcli.runs.folder import RECIPE_FILE, SUMMARY_FILE, busy
from kdcli.runs.manifest import read_record

Command = Literal["train-teacher", "distill"]


def unfinished_run(out: Path, recipe_sha256: str, devices: int | None = None) -> Path | None:
    """A stopped run of the recipe under OUT that can be resumed, and that no process is at work on.

    Args:
        devices: as many it must have been trained on; any number unless given.
    """
    stopped = (
        path.parent
        for path in sorted(out.glob("*/environment.json"))
        if not (path.parent / "summary.json").exists()
    )
    same = (
        run
        for run in stopped
        if _fact(run, "recipe_sha256") == recipe_sha256 and devices in {None, _fact(run, "devices")}
    )
    ours = (run for run in same if any(run.glob("state/state-*")))
    return next((run for run in ours if not busy(run)), None)


def _fact(run: Path, name: str) -> Any:
    with suppress(KdError):  # a foreign or half-written file is no match
        return read_record(run / "environment.json").get(name)
    return None


def from_here(run: Path, path: str) -> str:
    """A path that the records of a run name, as it is from here: they start from the folder that
    the run was started in. One that is not there is given as it stands.
    """
    folder = _fact(run, "folder")
    if not isinstance(folder, str) or not folder or Path(folder) == Path.cwd():
        return path
    there = Path(folder) / path
    return str(there) if there.exists() else path


def find_run(path: str | Path) -> Path:
    """The run directory that a user means: the folder itself, or the one that a file of it lies in.

    Raises:
        NotFound: no run is there; the hint names those that are.
    """
    given = Path(path)
    folder = given.parent if given.is_file() else given
    if (folder / RECIPE_FILE).is_file():
        return folder
    if given.exists():
        raise NotFound(
            f"{given} is not a run directory: it holds no {RECIPE_FILE}", hint=_nearby(folder)
        )
    raise NotFound(f"no run at {given}", hint=_nearby(given.parent))


def _nearby(folder: Path) -> str:
    found = [path for base in (folder, Path("runs")) for path in runs_in(base)]
    names = list(dict.fromkeys(str(path) for path in found))[:8]
    return f"there are: {', '.join(names)}" if names else "make one: kd distill"


def runs_in(folder: str | Path) -> tuple[Path, ...]:
    """The run directories directly under a folder, by name; links such as runs/latest are not
    counted twice.
    """
    found = Path(folder).glob(f"*/{RECIPE_FILE}")
    return tuple(sorted(path.parent for path in found if not path.parent.is_symlink()))


def newest(runs_dir: str | Path, command: Command | None = "distill") -> Path:
    """The finished run that was completed last, of one command or of any.

    Raises:
        NotFound: there is none yet.
    """
    found = [
        path
        for path in runs_in(runs_dir)
        if (path / SUMMARY_FILE).is_file() and command in {None, _command(path)}
    ]
    if not found:
        raise NotFound(
            f"no finished {command or 'kd'} run under {runs_dir}",
            hint=f"make one: kd {command or 'distill'}",
        )
    return max(found, key=lambda path: ((path / SUMMARY_FILE).stat().st_mtime_ns, path.name))


def _command(run: Path) -> object:
    with suppress(KdError):  # damage to one run is no reason to refuse the others
        return read_record(run / SUMMARY_FILE).get("command")
    return ""


def finished_runs(out: Path) -> dict[str, Path]:
    """Finished runs under a folder by the content hash of their recipe; of several, the one
    finished last.
    """
    found: dict[str, Path] = {}
    for summary in sorted(out.glob("*/summary.json"), key=lambda path: path.stat().st_mtime):
        with suppress(KdError):  # a foreign or damaged file is no run of ours
            if not summary.parent.is_symlink():
                found[str(read_record(summary).get("recipe_sha256"))] = summary.parent
    return found


def damaged_runs(out: Path) -> tuple[str, ...]:
    """A sentence for each finished run under a folder whose summary cannot be believed."""
    found = []
    for summary in sorted(out.glob(f"*/{SUMMARY_FILE}")):
        try:
            if not summary.parent.is_symlink():
                read_record(summary)
        except KdError as error:
            found.append(error.message)
    return tuple(found)


def runs_dir(environ: Mapping[str, str], out: Path | None = None) -> Path:
    """The folder of runs: --out, else $KD_RUNS_DIR, else runs."""
    return out or Path(environ.get("KD_RUNS_DIR") or "runs")
