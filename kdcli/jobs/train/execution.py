"""One run, from its reserved folder on: trained, measured and written down.

What measures and draws is a third of kd. It is imported when that has come, so that nobody waits
for it before the first step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli import tasks
from kdcli.core.network import Network
from kdcli.core.types import Progress
from kdcli.data.text import TextFeed
from kdcli.engine.checkpoint import State, load_weights, save_model
from kdcli.engine.position import Position, position_of
from kdcli.engine.teachers.stored_text import StoredText, fill_text
from kdcli.engine.trainer import Hooks, Trainer
from kdcli.errors import BadData, CorruptFile, Exit, KdError, Paused, RankLost
from kdcli.files import json_text, write_json, write_text
from kdcli.jobs.build import compiling
from kdcli.jobs.build.engine_settings import train_settings
from kdcli.jobs.build.header import make_header
from kdcli.jobs.build.job import Job
from kdcli.jobs.events import Compiling, EpochDone, Event, Listener, Storing
from kdcli.jobs.listeners import Audience
from kdcli.jobs.processes.signals import StopRequest
from kdcli.jobs.train import write_failures
from kdcli.jobs.train.asking import HeldOut
from kdcli.jobs.train.dynamics import Monitor
from kdcli.jobs.train.environment import prepared, resume_command
from kdcli.jobs.train.fold_temperature import fold_temperature
from kdcli.jobs.train.metrics_log import MetricsWriter
from kdcli.jobs.train.trackers.start import Trackers, start_trackers
from kdcli.recipe.writing import recipe_hash
from kdcli.results.measures import share_of
from kdcli.results.run import RunResult
from kdcli.results.weights_header import MODEL_FILE
from kdcli.runs import folder as run_folder
from kdcli.runs import manifest

if TYPE_CHECKING:
    from kdcli.jobs.train.final_evaluation import Outcome


class Execution:
    """Training, measuring and writing of one run, from its reserved directory on.

    Args:
        until: the epoch of the last stage after which it is left, its state saved.
    """

    def __init__(
        self,
        run: Path,
        job: Job,
        listeners: Sequence[Listener],
        notes: tuple[str, ...],
        *,
        keep_state: bool,
        until: int | None = None,
    ) -> None:
        self.run = run
        self.until = until
        self.job = job
        self.ranks = job.runtime.ranks
        self.listeners = Audience.of(listeners)
        self.trackers = Trackers()
        self.notes = notes
        self.keep_state = keep_state
        self.metrics: MetricsWriter | None = None
        self.last_epoch: EpochDone | None = None
        self.compiled = False  # the first step of this process
        self.epochs: int | None = None
        self.started = time.perf_counter()
        job.runtime.watch_memory()
        self.recipe_sha256 = recipe_hash(job.recipe)

    def go(self, state: State | None, *, resumed: bool = False) -> RunResult:
        """Does it all.

        Raises:
            KdError: with the traceback kept in RUN/crash.txt, unless the user stopped the run.
        """
        try:
            with (
                ExitStack() as claim,
                self.ranks.noticing(),
                StopRequest(resume_command(self.run, self.job), agree=self.ranks.most) as stop,
            ):
                self.ranks.from_first(lambda: claim.enter_context(run_folder.claimed(self.run)))
                try:
                    return self._tracked(lambda: self._go(state, stop, resumed=resumed))
                except write_failures.CAUSES as error:
                    raise write_failures.stopped_by(error, self.run) from error
                except KeyboardInterrupt as error:
                    raise stop.in_a_step() from error
                except Exception as error:
                    # Ctrl-C reaches the compiler too, and that it ended is no failure of the run's
                    if stop.received and not isinstance(error, KdError):
                        raise stop.in_a_step() from error
                    raise
        except KdError as error:
            if isinstance(error, BadData):
                error.hint = (
                    f"{error.hint}; with a good file of that name kd resume {self.run} goes on"
                )
            if isinstance(error, BadData | CorruptFile):  # found when the run had begun
                error.exit_code = Exit.FAILURE
            # of that, the rank that was lost has more to tell
            if error.exit_code == 1 and not isinstance(error, RankLost):
                error.crash_file = run_folder.write_crash(self.run, error)
            raise
        except Exception as error:
            error.crash_file = run_folder.write_crash(self.run, error)  # type: ignore[attr-defined]
            raise

    def _tracked(self, go: Callable[[], RunResult]) -> RunResult:
        """Tells the trackers how it ended, whichever way."""
        finished = False
        try:
            result = go()
            finished = True
        finally:
            self.trackers.close(finished=finished)
        return result

    def _go(self, state: State | None, stop: StopRequest, *, resumed: bool) -> RunResult:
        position = position_of(state) if state else Position()
        hooks = Hooks(stop=stop, pause=self._pause)
        place = f"epoch {position.epoch}, minibatch {position.batch}" if resumed else None
        about = self.ranks.from_first(lambda: prepared(self.job, self.run, self.notes, place))
        if self.ranks.first:  # the others train, and wait for what this one makes of it
            manifest.begin(self.run)
            self.listeners(about)
            again = position.epoch if resumed and position.stage == 0 else 0
            self.trackers = start_trackers(self.job.recipe, self.run, again)
            hooks = self.hooks(stop, (position.stage + 1, position.epoch) if resumed else None)
            assert self.metrics is not None
            self.last_epoch = self.metrics.last  # it may have none left to train
        self._store(stop)
        trainer = Trainer(
            self.job.method,
            self.job.feed,
            self.job.runtime,
            train_settings(self.job.recipe, self.job.class_weights),
            hooks=hooks,
            state_folder=self.run / run_folder.STATE_FOLDER,
            resume=state,
            keeps_last_state=self.keep_state,
        )
        trained = trainer.run()
        return self.ranks.from_first(lambda: self.conclude(trainer, trained))

    def _store(self, stop: StopRequest) -> None:
        """Stores the answers of teachers that read a text, as far as that has not been done: one
        process reads it, so that no answer depends on how many there are.
        """

        def done(stored: int, rows: int) -> None:
            self.listeners(Storing(stored, rows))
            if stop.received:
                raise stop.in_a_step()

        for item in self.job.stored:
            if isinstance(item.teacher, StoredText) and isinstance(self.job.feed, TextFeed):
                fill = partial(fill_text, item.teacher, self.job.feed, done=done)
                with self.job.runtime.autocast():
                    self.ranks.from_first(fill)

    def hooks(
        self, stop: Callable[[], KdError | None], resume_at: tuple[int, int] | None = None
    ) -> Hooks:
        """The trainer's hooks on the first rank. resume_at: as for MetricsWriter."""
        self.metrics = MetricsWriter(self.run, resume_at)
        # the run's own first: what others do with an event is none of its business
        listeners: tuple[Listener, ...] = (
            self.metrics,
            self._remember,
            self.listeners,
            self.trackers,
        )
        held_out = HeldOut(self.job)
        return Hooks(
            listeners,
            evaluate=held_out.measures,
            probe=Monitor(self.job),
            keep=self._keep,
            stop=stop,
            score=tasks.named(self.job.feed.info.task).headline.score,
            pause=self._pause,
            agreement=held_out.agreement,
        )

    def _pause(self, at: Progress) -> KdError | None:
        if self.until is None or at.epoch < self.until:
            return None
        again = resume_command(self.run, self.job)
        found = Paused(f"{self.run} is left after epoch {at.epoch} of {at.epochs}", hint=again)
        found.run = str(self.run)
        return found

    def conclude(self, trainer: Trainer, trained: Network) -> RunResult:
        """Measures what came out, and writes it all down."""
        from kdcli.jobs.train.final_evaluation import measure_outcome, run_result

        assert self.metrics is not None
        network = self._selected(trained)
        self.epochs = trainer.epochs_of_result() if self.job.recipe.train.select == "last" else None
        folded = fold_temperature(self.job, network)
        outcome = measure_outcome(self.job, network, self.run.name, folded)
        save_model(
            self.run / MODEL_FILE,
            network,
            make_header(
                self.job,
                network,
                outcome.test,
                self.recipe_sha256,
                self.epochs,
                outcome.calibration.temperature if outcome.calibration else None,
            ),
        )
        seconds = self.metrics.earlier_seconds + time.perf_counter() - self.started
        result = run_result(
            self.job, self.run, outcome, network, self.last_epoch, self.recipe_sha256, seconds
        )
        self.trackers.finish(result)
        early = trainer.stopping.in_words(self.job.recipe.train.epochs)
        told = (*((early,) if early else ()), *self.listeners.told, *self.trackers.told)
        result = replace(result, warnings=(*result.warnings, *told))
        self._write(result, outcome, self.metrics)
        return result

    def _remember(self, event: Event) -> None:
        if isinstance(event, Compiling) and event.seconds is not None and not self.compiled:
            self.compiled = True  # a later stage finds much of it
            choice = self.job.runtime.compile_choice
            compiling.mark(self.job.compiled, choice, event.seconds)
        if isinstance(event, EpochDone):
            self.last_epoch = event

    def _keep(self, name: str, network: Network) -> None:
        write_failures.check_there(self.run)  # else its folder would be made again
        train = self.job.recipe.train
        if name != "best":
            self._save_model(
                self.run / "checkpoints" / f"{name}.safetensors",
                network,
                int(name.removeprefix("epoch-")),
            )
        elif train.keep_best or train.select == "best":
            self._save_model(self._best_path(), network)

    def _best_path(self) -> Path:
        return (
            self.run / "best.safetensors"
            if self.job.recipe.train.keep_best
            else self.run / run_folder.STATE_FOLDER / "best.safetensors"
        )

    def _save_model(self, path: Path, network: Network, epoch: int | None = None) -> None:
        # weights kept on the way carry no metrics: the test set is touched once, at the end
        save_model(path, network, make_header(self.job, network, None, self.recipe_sha256, epoch))

    def _selected(self, network: Network) -> Network:
        if self.job.recipe.train.select == "best":
            load_weights(self._best_path(), network)
        return network

    def _write(
        self,
        result: RunResult,
        outcome: Outcome,
        metrics: MetricsWriter,
    ) -> None:
        from kdcli.report.page.build import build

        write_json(self.run / run_folder.ANALYSIS_FILE, outcome.analysis)
        if outcome.mistakes is not None:
            write_json(self.run / run_folder.MISTAKES_FILE, outcome.mistakes)
        labelled = result.test.labelled is not None
        told = "test_accuracy" if labelled else "test_agreement"
        metrics.done({told: share_of(result.test), "wall_seconds": result.wall_seconds})
        # summary.json last: a run that has one is finished, and its manifest is whole
        summary = json_text(result)
        manifest.seal(self.run, {run_folder.SUMMARY_FILE: summary})
        write_text(self.run / run_folder.SUMMARY_FILE, summary)
        build(self.run, html=self.job.recipe.report.html is True)
        run_folder.point_latest(self.run)
        if not self.keep_state:
            run_folder.drop_state(self.run)
