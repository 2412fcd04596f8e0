"""A run's directory: reserved once, never overwritten, and complete enough to repeat the run and to
explain it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import torch

from kdcli import __version__
from kdcli.errors import NotWritable, RunExists, UsageError
from kdcli.files import finite, read_json, write_error, write_text
from kdcli.jobs.events import EpochDone, Event, StageStarted, StepsCaptured

STATE_FOLDER = "state"


def run_name(*parts: str) -> str:
    """Parts of a run's name, joined and made fit for a folder: "torchvision/resnet18" and
    "nets/mine.py:tiny" too.
    """
    plain = (re.sub(r"^.*/", "", part).replace(".py", "").replace(":", "-") for part in parts)
    return "-".join(re.sub(r"[^A-Za-z0-9._+-]+", "-", part) for part in plain)


def reserve(out: Path, base: str, name: str | None) -> Path:
    """Create the run's directory: OUT/NAME, or OUT/BASE-N with the first free N.

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
    """Make OUT/latest a link to the run; a file system without links does without it."""
    link = run.parent / "latest"
    temporary = run.parent / f".latest.{os.getpid()}"
    with contextlib.suppress(OSError):
        if link.is_symlink() or not link.exists():
            temporary.symlink_to(run.name)
            temporary.replace(link)


def now() -> str:
    """The time, UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _git() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    return None


def environment(command: str) -> dict[str, Any]:
    """Versions and machine, as far as they do not depend on the run."""
    return {
        "kdcli": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "git": _git(),
        "command": command,
        "started": now(),
    }


class MetricsWriter:
    """Listener that writes metrics.jsonl, and log.txt for people.

    Args:
        run: the run's directory.
        resume_at: (stage number from 1, epoch) from which a resumed run repeats: later lines are
            dropped.
    """

    def __init__(self, run: Path, resume_at: tuple[int, int] | None = None) -> None:
        self.path = run / "metrics.jsonl"
        self._log = run / "log.txt"
        self._announced = 0  # number of the last stage whose line is there
        self.earlier_seconds = 0.0
        if resume_at is not None:
            self._truncate(resume_at)

    def _truncate(self, resume_at: tuple[int, int]) -> None:
        kept: list[str] = []
        number = 0
        for line in (
            self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ()
        ):
            with contextlib.suppress(ValueError):  # a line that the crash cut off
                event = json.loads(line)
                number = event["number"] if event["event"] == "stage" else number
                if (number, event.get("epoch", 0)) < resume_at:
                    kept.append(line)
                    self._announced = number
                    self.earlier_seconds += event.get("seconds", 0.0)
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def __call__(self, event: Event) -> None:
        # else it goes on, and what was probed before it stays
        if isinstance(event, StageStarted) and event.number > self._announced:
            self._announced = event.number
            self._write(
                {
                    "event": "stage",
                    "stage": event.at.stage,
                    "number": event.number,
                    "count": event.count,
                    "trainable": event.trainable,
                    "batches": event.batches,
                    "network": event.network,
                    "probe": asdict(event.probe) if event.probe else None,
                }
            )
        elif isinstance(event, EpochDone):
            self._write(
                {
                    "event": "epoch",
                    "stage": event.at.stage,
                    "epoch": event.at.epoch,
                    "epochs": event.at.epochs,
                    "step": event.at.step,
                    "steps": event.at.steps,
                    "lr": event.lr,
                    "losses": dict(event.losses),
                    "train_accuracy": event.train_accuracy,
                    "val": asdict(event.val) if event.val else None,
                    "best": event.best,
                    "probe": asdict(event.probe) if event.probe else None,
                    "seconds": event.seconds,
                    "images_per_second": event.images_per_second,
                }
            )
            self._append(self._log, epoch_line(event))
        elif isinstance(event, StepsCaptured):
            self._append(
                self._log,
                f"{now()} stage={event.at.stage} epoch={event.at.epoch}/{event.at.epochs} {event}",
            )

    def done(self, facts: dict[str, Any]) -> None:
        """The last line."""
        self._write({"event": "done", **facts})

    def _write(self, line: dict[str, Any]) -> None:
        self._append(self.path, json.dumps(finite({**line, "time": now()}), allow_nan=False))

    @staticmethod
    def _append(path: Path, line: str) -> None:
        try:
            with path.open("a", encoding="utf-8") as handle:
                handle.write(line + "\n")
        except OSError as error:
            raise write_error(error, path) from error


def epoch_line(event: EpochDone) -> str:
    """An epoch as one line of fixed key=value order, for logs that no person watches live."""
    at = event.at
    losses = " ".join(f"{name}={value:.4g}" for name, value in event.losses.items())
    val = f" val_acc={event.val.accuracy:.4f}" if event.val else ""
    return (
        f"{now()} stage={at.stage} epoch={at.epoch}/{at.epochs} step={at.step}/{at.steps} "
        f"lr={event.lr:.6g} {losses} "
        f"train_acc={event.train_accuracy:.4f}{val} img_s={event.images_per_second:.0f}"
    )


def write_crash(run: Path, error: BaseException) -> Path:
    """Keep the traceback of a failed run beside its files."""
    path = run / "crash.txt"
    with contextlib.suppress(OSError):
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return path


def drop_state(run: Path) -> None:
    """Remove what only `kd resume` needs."""
    shutil.rmtree(run / STATE_FOLDER, ignore_errors=True)


def unfinished_run(out: Path, recipe_sha256: str, devices: int | None = None) -> Path | None:
    """A run of the recipe under OUT that was stopped and can be resumed; not one that another
    process is at work on.

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
    return next((run for run in ours if not _busy(run)), None)


@contextlib.contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Keep a run to this process. The system lets go of it when the process ends, however that
    comes about.

    Raises:
        UsageError: another process is at work on it. NotWritable: it cannot be written to.
    """
    path = run / "environment.json"
    try:
        handle = path.open("rb+")
    except OSError as error:
        raise write_error(error, path) from error
    with handle:
        if not _lock(handle):
            raise UsageError(
                f"another process is at work on {run}",
                hint="wait until it has finished, or stop it",
            )
        yield


def _busy(run: Path) -> bool:
    with (run / "environment.json").open("rb+") as handle:
        return not _lock(handle)


def _lock(handle: IO[bytes]) -> bool:
    """Whether the file is ours until it is closed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system that knows no locks: as it would be without them
    return True


def _fact(run: Path, name: str) -> Any:
    with contextlib.suppress(Exception):  # a foreign or half-written file is no match
        return read_json(run / "environment.json").get(name)
    return None
