"""The progress of a run: a live block on a terminal, lines of key=value in a log. Listeners of the
jobs' events.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kdcli import formatting
from kdcli.cli.console import Environment
from kdcli.cli.output import github
from kdcli.cli.output.listener import Narrator
from kdcli.cli.output.log_throttle import EpochThinning, StepThinning
from kdcli.cli.output.run_screen import show_prepared
from kdcli.results.measures import share_of

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from kdcli.jobs import events
    from kdcli.results.measures import Measures
    from kdcli.tasks import Task

# losses live on the device; reading them waits for it, so the live block does it twice a second
READ_SECONDS = 0.5

Clock = Callable[[], float]


def narrate(
    env: Environment, clock: Clock = time.monotonic
) -> AbstractContextManager[tuple[Any, ...]]:
    """The listeners for this environment: none when quiet, a live block on a terminal, log lines
    elsewhere.
    """
    if env.settings.quiet:
        return nullcontext(())
    return LiveNarrator(env, clock) if env.live else LogNarrator(env, clock)


class RunNarrator(Narrator):
    """Tells of a run's events; what both forms share."""

    def __init__(self, env: Environment, clock: Clock) -> None:
        self.env = env
        self.clock = clock
        self.schedule = ""
        self.task: Task | None = None
        self._told = ("", 0)
        self.handlers = {
            "Prepared": self.prepared,
            "StageStarted": self.stage_started,
            "Compiling": self.compiling,
            "Storing": self.storing,
            "Decoding": self.decoding,
            "StepsCaptured": self.steps_captured,
            "StepDone": self.step_done,
            "EpochDone": self.epoch_done,
            "StageDone": self.stage_done,
            "CellStarted": self.cell_started,
            "CellDone": self.cell_done,
        }

    def prepared(self, event: events.Prepared) -> None:
        """A run is about to begin; the teacher's own run, where it is trained first, too."""
        from kdcli import tasks

        self.schedule, self.task = event.schedule, tasks.of_data(event.data)
        show_prepared(self.env, event)

    def stage_started(self, event: events.StageStarted) -> None:
        """A stage begins; methods with one stage do not mention it."""
        github.group(self.env, event.at.stage)
        if event.count > 1:
            self.env.progress(
                f"  stage {event.number}/{event.count} ",
                (event.at.stage, "bold"),
                f" · {event.network}" if event.network else "",
            )

    def _headline(self) -> Callable[[Measures], str]:
        """How the headline measure of the run's task is shown."""
        if self.task is None:
            return lambda found: formatting.percent(share_of(found))
        return self.task.headline.shown

    def compiling(self, event: events.Compiling) -> None:
        """Networks are compiled, which may take as long as the training; or they are now."""
        about = "" if event.expected is None else f", about {formatting.duration(event.expected)}"
        self.env.progress(
            f"  compiling the networks for the first step{about} ..."
            if event.seconds is None
            else f"  compiled in {formatting.duration(event.seconds)}"
        )

    def storing(self, event: events.Storing) -> None:
        """Answers of a teacher are stored before training; one line a quarter of them."""
        self._quarter("storing the teacher's answers to the text", event.stored, event.rows)

    def decoding(self, event: events.Decoding) -> None:
        """Pictures are decoded for their cache; likewise."""
        self._quarter("decoding pictures for the cache", event.decoded, event.pictures)

    def _quarter(self, what: str, done: int, count: int) -> None:
        quarter = 4 * done // max(count, 1)
        if (what, quarter) != self._told:
            self._told = (what, quarter)
            self.env.progress(f"  {what}, {25 * quarter} %")

    def steps_captured(self, event: events.StepsCaptured) -> None:
        """It turned out whether steps can be replayed."""
        self.env.progress(f"  {event}")

    def step_done(self, event: events.StepDone) -> None:
        """A minibatch went through."""

    def epoch_done(self, event: events.EpochDone) -> None:
        """An epoch ended."""

    def stage_done(self, event: events.StageDone) -> None:  # noqa: ARG002  the live form needs it
        """A stage ended."""
        github.end_group(self.env)

    def cell_started(self, event: events.CellStarted) -> None:
        """A cell of a sweep begins."""
        labels = " ".join(f"{key}={value}" for key, value in event.labels.items())
        self.env.progress((f"cell {event.number}/{event.count}", "bold"), f"  {labels}")

    def cell_done(self, event: events.CellDone) -> None:
        """A cell of a sweep ended."""
        mark, shown = ending(event)
        self.env.progress("  ", mark, shown)


def ending(event: events.CellDone | events.TeacherDone) -> tuple[tuple[str, str], str]:
    """The end of a cell of a sweep, in a word, and what there is to say of it."""
    marks = {
        "done": ("✓ done", "green"),
        "skipped": ("· skipped: done before", "dim"),
        "failed": ("✗ failed", "bold red"),
    }
    accuracy = event.metrics.get("accuracy")
    shown = f"  {formatting.percent(accuracy)}" if accuracy is not None else ""
    return marks.get(
        event.status, ("✗ interrupted", "yellow")
    ), f"{shown}  {event.error or event.run or ''}"


# ---- a terminal ----------------------------------------------------------------------------------


class EpochTable:
    """The permanent lines of a run: only epochs that matter, under a heading that is printed with
    the first.
    """

    def __init__(
        self, *, everything: bool, by_steps: bool, shown: Callable[[Measures], str] | None = None
    ) -> None:
        self._everything = everything
        self._shown = shown or (lambda found: formatting.percent(share_of(found)))
        # else the learning rate changes all the time, and that is no news
        self._by_steps = by_steps
        self._headed = False
        self._lr: float | None = None

    def lines(self, event: events.EpochDone) -> list[str]:
        """The lines to print for an epoch: none, a row, or heading and row."""
        at = event.at
        dropped = self._by_steps and self._lr is not None and event.lr < self._lr
        self._lr = event.lr
        if not (
            self._everything
            or dropped
            or event.best
            or at.epoch in {1, at.epochs}
            or not self._headed
        ):
            return []
        row = self._row(event, dropped=dropped)
        if self._headed:
            return [row]
        self._headed = True
        losses = "".join(f"{name:>8}" for name in event.losses)
        return [f"  {'epoch':>5}   {'lr':<7}{losses}   {'train':>7}   {'val':>7}", row]

    def _row(self, event: events.EpochDone, *, dropped: bool) -> str:
        losses = "".join(f"{value:8.3f}" for value in event.losses.values())
        val = self._shown(event.val) if event.val else formatting.MISSING
        remark = "   best" if event.best else "   lower lr" if dropped else ""
        return (
            f"  {event.at.epoch:>5}   {event.lr:<7.4f}{losses}   "
            f"{formatting.percent(event.train_accuracy):>7}   {val:>7}{remark}"
        )


class LiveNarrator(RunNarrator):
    """One transient line with a bar; rows of the epoch table stay."""

    def __init__(self, env: Environment, clock: Clock) -> None:
        super().__init__(env, clock)
        self._bar: tuple[Progress, TaskID] | None = None
        self._table: EpochTable | None = None
        self._read_at = 0.0
        self._val = ""

    def stage_started(self, event: events.StageStarted) -> None:
        super().stage_started(event)
        self.close()
        self._table = EpochTable(
            everything=self.env.settings.verbose,
            by_steps=self.schedule == "multistep",
            shown=self._headline(),
        )
        self._val = ""
        bar = _bar(self.env)
        total = event.at.epochs * event.batches
        task = bar.add_task(
            event.at.stage,
            total=total,
            completed=(event.at.epoch - 1) * event.batches,
            epochs="",
            terms="",
        )
        bar.start()
        self._bar = (bar, task)

    def compiling(self, event: events.Compiling) -> None:
        if self._bar is not None and event.seconds is None:
            bar, task = self._bar
            of = (
                "" if event.expected is None else f" of about {formatting.duration(event.expected)}"
            )
            bar.update(task, terms=_Since("compiling the networks", self.clock, of))
            return
        super().compiling(event)

    def step_done(self, event: events.StepDone) -> None:
        now = self.clock()
        if self._bar is None or now - self._read_at < READ_SECONDS:
            return
        self._read_at = now
        terms = "  ".join(f"{name} {float(value):.3f}" for name, value in event.losses.items())
        done = (event.at.epoch - 1) * event.batches + event.batch
        bar, task = self._bar
        bar.update(
            task,
            completed=done,
            epochs=f"{event.at.epoch}/{event.at.epochs}",
            terms=f"{terms}{self._val}",
        )

    def epoch_done(self, event: events.EpochDone) -> None:
        shown = self._headline()(event.val) if event.val else ""
        self._val = f"  val {shown}" if shown else ""
        for line in self._table.lines(event) if self._table else ():
            self.env.progress(line)

    def stage_done(self, event: events.StageDone) -> None:
        self.close()
        super().stage_done(event)

    def close(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None


class _Since:
    """What goes on, and for how long: text that is made anew whenever it is drawn."""

    def __init__(self, what: str, clock: Clock, of: str = "") -> None:
        self._what = what
        self._clock = clock
        self._of = of
        self._began = clock()

    def __str__(self) -> str:
        return f"{self._what} for {formatting.duration(self._clock() - self._began)}{self._of}"


def _bar(env: Environment) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[epochs]}"),
        # the last thing to be cut where the terminal is narrow is the bar, the first are the losses
        TextColumn(
            "{task.fields[terms]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
        ),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=env.err,
        transient=True,
    )


# ---- a log ---------------------------------------------------------------------------------------


class LogNarrator(RunNarrator):
    """Lines of fixed key=value order with the time, flushed one by one, ever sparser."""

    def __init__(self, env: Environment, clock: Clock) -> None:
        super().__init__(env, clock)
        self._epochs = EpochThinning()
        self._steps = StepThinning(clock())

    def stage_started(self, event: events.StageStarted) -> None:
        super().stage_started(event)
        self._epochs = EpochThinning()

    def step_done(self, event: events.StepDone) -> None:
        if self._steps(self.clock()):
            losses = {name: float(value) for name, value in event.losses.items()}
            accuracy = float(event.correct) / event.seen if event.seen else math.nan
            self._write(event, losses, {"train_acc": accuracy}, event.images_per_second)

    def epoch_done(self, event: events.EpochDone) -> None:
        if self._epochs(event.at.epoch, event.at.epochs) or self.env.settings.verbose:
            known = epoch_accuracies(event, self.task)
            self._write(event, event.losses, known, event.images_per_second)
            self._steps.line_written(self.clock())

    def _write(
        self, event: Any, losses: Mapping[str, float], accuracies: Mapping[str, float], speed: float
    ) -> None:
        sample = self.task.sample if self.task else "image"
        self.env.progress(log_line("", event, losses, accuracies, speed, sample))


def log_line(
    whose: str,
    event: Any,
    losses: Mapping[str, float],
    accuracies: Mapping[str, float],
    speed: float,
    sample: str = "image",
) -> str:
    """A line of fixed key=value order with the time. whose: which of several runs it is about, as
    key=value too.
    """
    at = event.at
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    numbers = " ".join(f"{name}={value:.3f}" for name, value in {**losses, **accuracies}.items())
    place = (
        f"stage={at.stage} epoch={at.epoch}/{at.epochs} step={at.step}/{at.steps} lr={event.lr:.4g}"
    )
    pace = f"{'img' if sample == 'image' else sample}_s={speed:.0f}"
    return (
        f"{stamp} {whose} {place} {numbers} {pace}"
        if whose
        else f"{stamp} {place} {numbers} {pace}"
    )


def epoch_accuracies(event: events.EpochDone, task: Task | None = None) -> dict[str, float]:
    """The accuracies of an epoch in a log line; and the headline measure of its task, where that
    is another one.
    """
    named = {
        "train_acc": event.train_accuracy,
        "val_acc": event.val.accuracy if event.val else None,
        "val_agreement": event.val.agreement if event.val else None,
    }
    found = {
        name: value
        for name, value in named.items()
        if value is not None and formatting.known(value)
    }
    if task is not None and event.val and (path := task.headline.path) != "accuracy":
        found[f"val_{path}"] = getattr(event.val, path)
    return found
