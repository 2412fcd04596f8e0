"""Listener that writes metrics.jsonl and log.txt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

from kdcli import clean
from kdcli.core.types import Progress
from kdcli.files import write_error, write_text
from kdcli.jobs.events import EpochDone, Event, StageStarted, StepsCaptured
from kdcli.jobs.train.environment import now
from kdcli.results.measures import Measures
from kdcli.runs.metrics_file import read_metrics, written_line
from kdcli.typed import from_dict


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
        self._line = 0  # number of the last line
        self.earlier_seconds = 0.0
        self.last: EpochDone | None = None  # of those that were kept
        if resume_at is not None:
            self._truncate(resume_at)

    def _truncate(self, resume_at: tuple[int, int]) -> None:
        kept: list[str] = []
        number = 0
        for event, line in read_metrics(self.path).events:
            number = event["number"] if event["event"] == "stage" else number
            if (number, event.get("epoch", 0)) < resume_at:
                kept.append(line)
                self._announced = number
                self._line = event.get("line", self._line)
                self.earlier_seconds += event.get("seconds", 0.0)
                self.last = _epoch(event, self.path) if event["event"] == "epoch" else self.last
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
                    **({} if event.agreement is None else {"agreement": event.agreement}),
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
        self._line += 1
        self._append(self.path, written_line({"line": self._line, **line, "time": now()}))

    @staticmethod
    def _append(path: Path, line: str) -> None:
        try:
            with path.open("a", encoding="utf-8") as handle:
                handle.write(clean.line(line) + "\n")
        except OSError as error:
            raise write_error(error, path) from error


@dataclass(frozen=True, slots=True)
class _Line:
    """What is read back of an epoch's line."""

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    lr: float
    losses: Mapping[str, float]
    train_accuracy: float | None
    val: Measures | None = None
    best: bool = False
    seconds: float = 0.0
    images_per_second: float = 0.0
    agreement: float | None = None


def _epoch(event: dict[str, Any], path: Path) -> EpochDone:
    line = from_dict(_Line, event, path)
    return EpochDone(
        Progress(line.stage, line.epoch, line.epochs, line.step, line.steps),
        line.lr,
        line.losses,
        nan if line.train_accuracy is None else line.train_accuracy,
        line.val,
        line.best,
        line.seconds,
        line.images_per_second,
        agreement=line.agreement,
    )


def epoch_line(event: EpochDone) -> str:
    """An epoch as one line of fixed key=value order, for logs that no person watches live."""
    at = event.at
    losses = " ".join(f"{name}={value:.4g}" for name, value in event.losses.items())
    shares = {
        "train_acc": event.train_accuracy,
        "val_acc": event.val.accuracy if event.val else None,
        "val_agreement": event.val.agreement if event.val else None,
        "agreement": event.agreement,
    }
    known = [f" {name}={x:.4f}" for name, x in shares.items() if x is not None and isfinite(x)]
    return (
        f"{now()} stage={at.stage} epoch={at.epoch}/{at.epochs} step={at.step}/{at.steps} "
        f"lr={event.lr:.6g} {losses}{''.join(known)} "
        f"img_s={event.images_per_second:.0f}"
    )
