"""A run's folder: its name, its files, and the lock that keeps it to one process."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdcli import clean
from kdcli.errors import NotWritable, RunExists, UsageError
from kdcli.file_lock import locked
from kdcli.files import check_folder, sha256_json, write_error

STATE_FOLDER = "state"
RECIPE_FILE = "recipe.toml"
METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"
ANALYSIS_FILE = "analysis.json"
MISTAKES_FILE = "mistakes.json"
ENVIRONMENT_FILE = "environment.json"
LOCK_FILE = ".lock"


def run_name(*parts: str) -> str:
    """Parts of a run's name, joined and made fit for a folder: "torchvision/resnet18" and
    "nets/mine.py:tiny" too.
    """
    plain = (re.sub(r"^.*/", "", part).replace(".py", "").replace(":", "-") for part in parts)
    return "-".join(re.sub(r"[^A-Za-z0-9._+-]+", "-", part) for part in plain)


def check_out(out: Path) -> None:
    """Refuses a folder of runs that cannot be written to, before anything is computed for it.

    Raises:
        DiskFull, NotWritable: it cannot.
    """
    try:
        check_folder(out)
    except NotWritable as error:
        reason = "it is a file" if out.is_file() else error.message.partition(": ")[2]
        raise NotWritable(
            f"no run can be made under {out}: {reason}", hint="choose another folder with --out"
        ) from error


@contextlib.contextmanager
def reserved(out: Path, base: str, name: str | None) -> Iterator[Path]:
    """Creates the run's directory as `reserve` does; should what is done within fail, nothing of it
    stays.
    """
    run = None
    with _no_empty_folders(out):
        try:
            run = reserve(out, base, name)
            yield run
        except BaseException:
            if run is not None:
                shutil.rmtree(run, ignore_errors=True)
            raise


@contextlib.contextmanager
def _no_empty_folders(out: Path) -> Iterator[None]:
    """Of the folders down to this one, none that is made within stays without anything in it."""
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # something is in it by now
                folder.rmdir()


def reserve(out: Path, base: str, name: str | None) -> Path:
    """Creates the run's directory: OUT/NAME, or OUT/BASE-N with the first free N.

    Raises:
        RunExists: NAME is taken. NotWritable: the folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if name is not None:
            (out / name).mkdir()
            return out / name
        for number in range(1, sys.maxsize):
            with contextlib.suppress(FileExistsError):
                (out / f"{base}-{number}").mkdir()
                return out / f"{base}-{number}"
    except FileExistsError as error:
        raise RunExists(
            f"a run named {name} exists under {out}",
            hint="choose another --name; runs are never overwritten",
        ) from error
    except OSError as error:
        raise NotWritable(
            f"cannot create a run under {out}: {error.strerror}",
            hint="choose another folder with --out",
        ) from error
    raise AssertionError("unreachable: numbers do not end")


def point_latest(run: Path) -> None:
    """Makes OUT/latest a link to the run; a file system without links does without it."""
    link = run.parent / "latest"
    temporary = run.parent / f".latest.{os.getpid()}"
    with contextlib.suppress(OSError):
        if link.is_symlink() or not link.exists():
            temporary.symlink_to(run.name)
            temporary.replace(link)


def write_crash(run: Path, error: BaseException) -> Path | None:
    """Keeps the traceback of a failed run beside its files, if it can be written."""
    path = run / "crash.txt"
    with contextlib.suppress(OSError):
        trace = clean.text("".join(traceback.format_exception(error)))
        path.write_text(trace, encoding="utf-8", errors="backslashreplace")
        return path
    return None


def drop_state(run: Path) -> None:
    """Removes what only `kd resume` needs."""
    shutil.rmtree(run / STATE_FOLDER, ignore_errors=True)


def claimed(run: Path) -> contextlib.AbstractContextManager[None]:
    """Keeps a run to this process, until it is done or has ended, however that comes about.

    Raises:
        UsageError: another process is at work on it. NotWritable: it cannot be written to.
    """
    return _claimed(run / LOCK_FILE, str(run))


@contextlib.contextmanager
def claimed_sweep(out: Path, cells: Iterable[str], called: str) -> Iterator[None]:
    """Keeps the cells of a sweep, given by their hashes, in a folder of runs to this process: two
    would train each cell twice. Other sweeps may go on in the same folder.

    Raises:
        UsageError: another process is at work on them. NotWritable: the folder cannot be written
            to.
    """
    lock = out / f".sweep-{sha256_json(sorted(cells))[:16]}.lock"
    with _no_empty_folders(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(error, out) from error
        with _claimed(lock, f"{called} in {out}"):
            yield


@contextlib.contextmanager
def _claimed(path: Path, what: str) -> Iterator[None]:
    try:
        path.touch()
    except OSError as error:
        raise write_error(error, path) from error
    lock = locked(path)
    if lock is None:
        raise UsageError(
            f"another process is at work on {what}", hint="wait until it has finished, or stop it"
        )
    try:
        yield
    finally:
        # while it is ours: who has opened it by then sees that it is gone, and makes another
        with contextlib.suppress(OSError):  # Windows removes no open file; filelock does it later
            path.unlink()
        lock.release()


def busy(run: Path) -> bool:
    """True while another process is at work on a run."""
    path = run / LOCK_FILE
    if not path.exists():
        return False
    lock = locked(path)  # one that a killed process left behind is free
    if lock is not None:
        lock.release()
    return lock is None
