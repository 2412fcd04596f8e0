"""The progress of several cells of a sweep at once: a line for each on a terminal, lines that say
whose they are in a log.
"""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from kdcli import __version__, formatting
from kdcli.cli.console import Environment
from kdcli.cli.output.listener import Narrator
from kdcli.cli.output.log_throttle import EpochThinning, StepThinning
from kdcli.cli.output.progress import Clock, ending, epoch_accuracies, log_line
from kdcli.results.measures import share_of

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress, TaskID

    from kdcli.jobs import events

_LABEL_WIDTH = 30
# cells take long, and the time that is left of a sweep follows from many of them
_SPEED_SECONDS = 3600.0


def narrate_together(
    env: Environment, clock: Clock = time.monotonic
) -> AbstractContextManager[tuple[Any, ...]]:
    """The listeners for a sweep with several jobs: none when quiet, a live block on a terminal, log
    lines elsewhere.
    """
    if env.settings.quiet:
        return nullcontext(())
    return LiveSweep(env) if env.live else LogSweep(env, clock)


class SweepNarrator(Narrator):
    """Tells of a sweep; what both forms share."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.cells = self.ended = 0
        self.running: dict[str, str] = {}  # id to name
        self._notes: set[str] = set()
        self.handlers = {
            "SweepStarted": self.sweep_started,
            "TeacherStarted": self.teacher_started,
            "TeacherDone": self.teacher_done,
            "CellStarted": self.cell_started,
            "CellDone": self.cell_done,
            "FromRun": self.from_run,
        }

    def sweep_started(self, event: events.SweepStarted) -> None:
        """The first lines: how many, and what each gets of the machine."""
        self.cells = event.cells
        if not event.runs:
            return  # all cells are finished, and say so
        self.env.progress(
            ("kd ", "bold"),
            f"{__version__} · sweep · {formatting.plural(event.cells, 'cell')}, ",
            (f"{event.jobs} at once", "bold"),
        )
        each = " each, on cores of its own" if event.pinned else " each"
        self.env.progress(
            f"  device   {event.device} · {formatting.plural(event.threads, 'thread')}{each}"
        )
        if event.teachers:
            self.env.progress(
                f"  teachers {event.teachers} to train before the cells that need "
                f"{'it' if event.teachers == 1 else 'them'}"
            )
        self.env.progress()

    def teacher_started(self, event: events.TeacherStarted) -> None:
        """A teacher that cells wait for begins."""
        self.running[event.id] = event.name

    def teacher_done(self, event: events.TeacherDone) -> None:
        """It ended."""
        self._done(event, event.name)

    def cell_started(self, event: events.CellStarted) -> None:
        """A cell begins."""
        self.running[event.id] = _named(event)

    def cell_done(self, event: events.CellDone) -> None:
        """A cell ended."""
        self.ended += 1
        self._done(event, f"{event.number}/{event.count} {_named(event)}")

    def _done(self, event: events.CellDone | events.TeacherDone, name: str) -> None:
        self.running.pop(event.id, None)
        mark, shown = ending(event)
        self.env.progress("  ", mark, f"  {name}{shown}{self.so_far(event.status)}")

    def so_far(self, status: str) -> str:  # noqa: ARG002  a log needs it
        """The state of the whole sweep, for the line of a cell that ended."""
        return ""

    def from_run(self, event: events.FromRun) -> None:
        """A run says something; what was decided for many of them is told once."""
        if type(event.event).__name__ == "Prepared":
            for note in getattr(event.event, "notes", ()):
                if note not in self._notes:
                    self._notes.add(note)
                    self.env.progress(f"  note     {note}")

    @property
    def total(self) -> str:
        """The progress of the sweep: 7/20 cells, 3 running."""
        return f"{self.ended}/{formatting.plural(self.cells, 'cell')}, {len(self.running)} running"


def _named(event: events.CellStarted | events.CellDone) -> str:
    return " ".join(f"{axis}={_quoted(label)}" for axis, label in event.labels.items())


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if " " in text or not text else text


# ---- a terminal ----------------------------------------------------------------------------------


class LiveSweep(SweepNarrator):
    """A transient line for each run that goes on, and one for the whole; a line for each cell that
    ended stays.
    """

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        self._block: Live | None = None
        self._rows: Progress = _rows(env)
        self._whole: Progress = _whole(env)
        self._tasks: dict[str, TaskID] = {}
        self._val: dict[str, str] = {}
        self._stages: dict[str, tuple[int, int]] = {}
        self._left = 0  # runs
        self._done_runs = 0

    def sweep_started(self, event: events.SweepStarted) -> None:
        super().sweep_started(event)
        from rich.console import Group
        from rich.live import Live

        self._whole.add_task("", total=event.runs)
        self._block = Live(
            Group(self._rows, self._whole),
            console=self.env.err,
            transient=True,
            refresh_per_second=4,
        )
        self._refresh()
        self._block.start()

    def teacher_started(self, event: events.TeacherStarted) -> None:
        super().teacher_started(event)
        self._begin(event.id, event.name)

    def cell_started(self, event: events.CellStarted) -> None:
        super().cell_started(event)
        name = _named(event)
        self._begin(
            event.id,
            (
                f"{event.number} "
                f"{name if len(name) <= _LABEL_WIDTH else ', '.join(event.labels.values())}"
            ),
        )

    def _begin(self, key: str, label: str) -> None:
        self._tasks[key] = self._rows.add_task(
            label, total=None, epochs="", numbers="starting", speed=""
        )
        self._refresh()

    def _done(self, event: events.CellDone | events.TeacherDone, name: str) -> None:
        self._rows.remove_task(self._tasks.pop(event.id))
        self._done_runs += event.status != "skipped"
        super()._done(event, name)
        self._refresh()

    def from_run(self, event: events.FromRun) -> None:
        super().from_run(event)
        said: Any = event.event
        kind = type(said).__name__
        if kind == "StageStarted":
            self._stages[event.id] = (said.number, said.count)
            self._val[event.id] = ""
            self._rows.reset(
                self._tasks[event.id],
                total=said.at.steps,
                completed=said.at.step,
                epochs=f"1/{said.at.epochs}",
                numbers="",
                speed="",
            )
        elif kind == "Compiling":
            self._rows.update(
                self._tasks[event.id], numbers="compiling" if said.seconds is None else ""
            )
        elif kind == "EpochDone":
            self._val[event.id] = (
                f"  val {formatting.percent(share_of(said.val))}" if said.val else ""
            )
        elif kind == "StepRead":
            accuracy = (
                self._val.get(event.id) or f"  train {formatting.percent(said.train_accuracy)}"
            )
            numbers = f"loss {sum(said.losses.values()):.3f}{accuracy}"
            self._rows.update(
                self._tasks[event.id],
                completed=said.at.step,
                epochs=f"{said.at.epoch}/{said.at.epochs}",
                numbers=numbers,
                speed=f"{said.images_per_second:,.0f} img/s",
            )
        self._refresh()

    def _refresh(self) -> None:
        parts = (self._share(key, task) for key, task in self._tasks.items())
        self._whole.update(
            self._whole.task_ids[0], completed=self._done_runs + sum(parts), description=self.total
        )

    def _share(self, key: str, task: TaskID) -> float:
        """How much of a run is done, from 0 to 1."""
        row = next(row for row in self._rows.tasks if row.id == task)
        number, count = self._stages.get(key, (1, 1))
        return (number - 1 + row.completed / row.total) / count if row.total else 0.0

    def close(self) -> None:
        if self._block is not None:
            self._block.stop()
            self._block = None


def _rows(env: Environment) -> Progress:
    from rich.progress import Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    return Progress(
        # what is cut where the terminal is narrow is the label: its number stays
        TextColumn(
            "  {task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
        ),
        TextColumn("{task.fields[epochs]}"),
        TextColumn("{task.fields[numbers]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
        console=env.err,
        expand=True,
    )


def _whole(env: Environment) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=20),
        TextColumn("about"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=env.err,
        speed_estimate_period=_SPEED_SECONDS,
    )


# ---- a log ---------------------------------------------------------------------------------------


class LogSweep(SweepNarrator):
    """Lines of fixed key=value order with the time and the cell, ever sparser for each run."""

    def __init__(self, env: Environment, clock: Clock) -> None:
        super().__init__(env)
        self._clock = clock
        self._epochs: dict[str, EpochThinning] = {}
        self._steps = StepThinning(clock())

    def so_far(self, status: str) -> str:
        return f"  ({self.total})" if status != "skipped" else ""

    def from_run(self, event: events.FromRun) -> None:
        super().from_run(event)
        said: Any = event.event
        kind = type(said).__name__
        whose = (
            f"cell={event.number}/{self.cells} {self.running[event.id]}"
            if event.number
            else f"teacher={_quoted(event.name.removeprefix('teacher '))}"
        )
        if kind == "StageStarted":
            self._epochs[event.id] = EpochThinning()
        elif kind == "EpochDone":
            if self._epochs[event.id](said.at.epoch, said.at.epochs) or self.env.settings.verbose:
                self.env.progress(
                    log_line(
                        whose, said, said.losses, epoch_accuracies(said), said.images_per_second
                    )
                )
                self._steps.line_written(self._clock())
        elif kind == "StepRead" and self._steps(self._clock()):
            self.env.progress(
                log_line(
                    whose,
                    said,
                    said.losses,
                    {"train_acc": said.train_accuracy}
                    if formatting.known(said.train_accuracy)
                    else {},
                    said.images_per_second,
                )
            )
