"""Training runs: from a recipe to a finished folder, and on from where one was stopped.

The way down: `distill` resolves a recipe, `execute` shares it among processes if it asks for
several, `_train` has everything built (kdcli.jobs.build.job), and `Execution` puts it into the
trainer (kdcli.engine.trainer), measures what comes out (kdcli.jobs.train.final_evaluation) and
writes it down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdcli.core.network import Network
from kdcli.engine.checkpoint import State, load_state, load_weights, save_model
from kdcli.engine.distributed import Ranks
from kdcli.engine.trainer import Hooks, Position, Trainer, position_of
from kdcli.errors import BadData, CorruptFile, Exit, KdError, NotFound, RankLost, UsageError
from kdcli.files import json_text, write_json, write_text
from kdcli.jobs.build import compiling, data_subset
from kdcli.jobs.build.engine_settings import train_settings
from kdcli.jobs.build.header import make_header
from kdcli.jobs.build.job import Job, build_job, network_section
from kdcli.jobs.build.trusted_recipe import trusted_recipe
from kdcli.jobs.events import EpochDone, Event, Listener
from kdcli.jobs.processes import devices
from kdcli.jobs.processes.signals import StopRequest
from kdcli.jobs.train import longer, write_failures
from kdcli.jobs.train.dry_run import try_out
from kdcli.jobs.train.dynamics import Monitor
from kdcli.jobs.train.environment import (
    check_recipe,
    prepared,
    read_environment,
    resume_command,
    write_environment,
)
from kdcli.jobs.train.final_evaluation import Outcome, measure_outcome, run_result, validation
from kdcli.jobs.train.fold_temperature import fold_temperature
from kdcli.jobs.train.keywords import resolved_keywords
from kdcli.jobs.train.metrics_log import MetricsWriter
from kdcli.recipe.resolve import Resolved, resolve, teacher_recipe
from kdcli.recipe.schema import DistillRecipe, Recipe, TeacherSection
from kdcli.recipe.writing import dump, recipe_hash
from kdcli.report.page.build import build as build_report
from kdcli.results.run import RunResult
from kdcli.results.weights_header import MODEL_FILE
from kdcli.runs import folder as run_folder
from kdcli.runs import manifest
from kdcli.runs.find import finished_runs, unfinished_run
from kdcli.trust import Folder

# ---- what is called from outside -----------------------------------------------------------------


def train_teacher(
    recipe: Resolved | str | Path | None = None,
    *,
    out: str | Path = "runs",
    listeners: Sequence[Listener] = (),
    command: str = "",
    dry_run: bool = False,
    keep_state: bool = False,
    overrides: Mapping[str, Any] | None = None,
    trust: bool = False,
    **aliases: Any,
) -> RunResult | None:
    """Trains a network on labels.

    Args:
        recipe: a recipe file, a shipped recipe's name, or a resolved recipe; the quickstart's
            teacher unless given.
        out: folder of the runs. listeners: called with each event of `kdcli.jobs.events`.
        dry_run: build everything, try one minibatch, write nothing and return None.
        trust: whether Python files run that a checkpoint or another recipe names, and not the
            caller.
        overrides: recipe keys and values, {"train.epochs": 3}. aliases: model, data, epochs, seed,
            name, device, devices, precision. A script that asks for several devices begins at `if
            __name__ == "__main__":`, as with all of Python's processes.

    Raises:
        KdError: see docs/reference/exit-codes.md.
    """
    resolved = resolved_keywords("train-teacher", recipe, overrides, aliases)
    with trusted_recipe(resolved, trust=trust):
        return execute(
            resolved,
            out=Path(out),
            listeners=listeners,
            command=command,
            dry_run=dry_run,
            keep_state=keep_state,
        )


def distill(
    recipe: Resolved | str | Path | None = None,
    *,
    out: str | Path = "runs",
    listeners: Sequence[Listener] = (),
    command: str = "",
    dry_run: bool = False,
    keep_state: bool = False,
    overrides: Mapping[str, Any] | None = None,
    trust: bool = False,
    **aliases: Any,
) -> RunResult | None:
    """Trains a student under one or more teachers.

    Args:
        recipe, out, listeners, command, dry_run, keep_state, overrides, trust: as for
            `train_teacher`.
        aliases: teacher (a checkpoint, or a list of them), method, student, data, epochs, seed,
            name, device, devices, precision.

    Raises:
        KdError: see docs/reference/exit-codes.md.
    """
    resolved = resolved_keywords("distill", recipe, overrides, aliases)
    with trusted_recipe(resolved, trust=trust):
        return execute(
            resolved,
            out=Path(out),
            listeners=listeners,
            command=command,
            dry_run=dry_run,
            keep_state=keep_state,
        )


def execute(
    resolved: Resolved,
    *,
    out: Path,
    listeners: Sequence[Listener] = (),
    command: str = "",
    dry_run: bool = False,
    keep_state: bool = False,
    runs: int = 1,
) -> RunResult | None:
    """Runs a resolved recipe; returns what summary.json holds, or None after a dry run.

    Args:
        out: folder of the runs. command: the command line, for environment.json.
        dry_run: build everything, put one minibatch through loss and backward pass, write nothing.
        keep_state: leave RUN/state behind after success.
        runs: how many runs will ask its teachers for the same answers, this one counted.

    Raises:
        KdError: see docs/reference/exit-codes.md.
    """
    resolved = devices.settled(resolved)
    run_folder.check_out(out)
    longer.check(resolved.recipe)
    if dry_run:
        devices.check(resolved.recipe.runtime)
        try_out(resolved.recipe, out)
        return None
    arguments = {
        "resolved": resolved,
        "out": out,
        "command": command,
        "keep_state": keep_state,
        "runs": runs,
    }
    return devices.shared(resolved.recipe.runtime, _train, arguments, listeners)


def _train(
    resolved: Resolved,
    *,
    out: Path,
    listeners: Sequence[Listener],
    command: str,
    keep_state: bool,
    runs: int,
) -> RunResult:
    recipe = resolved.recipe
    job = build_job(
        recipe,
        lambda teacher: teacher_run(teacher, recipe, out=out, listeners=listeners),
        runs=runs,
    )
    state = longer.last_state(job)
    run = job.runtime.ranks.from_first(lambda: reserve_run(job, resolved, out, command))
    execution = Execution(run, job, listeners, resolved.notes, keep_state=keep_state)
    return execution.go(state, resumed=state is not None)


def reserve_run(job: Job, resolved: Resolved, out: Path, command: str) -> Path:
    """Reserves the run's directory, and says in it what is about to be done."""
    recipe = resolved.recipe
    parts = (
        (recipe.method.name, network_section(recipe).name)
        if isinstance(recipe, DistillRecipe)
        else (network_section(recipe).name,)
    )
    base = run_folder.run_name(*parts, recipe.data.name)
    with run_folder.reserved(out, base, recipe.name) as run:
        write_text(run / "recipe.toml", dump(recipe, resolved.origins))
        write_environment(run, job, command)
    return run


def resume(
    run: Path,
    *,
    listeners: Sequence[Listener] = (),
    keep_state: bool = False,
    trust: bool = False,
) -> RunResult:
    """Go on with a run that was stopped, on as many devices; on a CPU the result has the very bits
    of one that never stopped.

    Args:
        trust: whether the Python files run that the run's recipe names.

    Raises:
        NotFound: no run there, or it was stopped before its first state. UsageError: it is
            finished, or another process is at it. Untrusted: its recipe names a Python file.
    """
    recipe_file = run / "recipe.toml"
    if not recipe_file.is_file():
        raise NotFound(
            f"{run} is not a run directory: it holds no recipe.toml",
            hint="kd resume RUN, with a folder under runs/",
        )
    if (run / "summary.json").is_file():
        raise UsageError(f"{run} is finished: there is nothing to resume", hint=f"kd report {run}")
    environment = read_environment(run)
    resolved = resolve(environment.kind, file=recipe_file, tree=Folder(None))
    recipe = resolved.recipe
    devices.check_same(run, recipe.runtime)
    check_recipe(run, recipe, environment)
    arguments = {"run": run, "recipe": recipe, "keep_state": keep_state}
    with trusted_recipe(resolved, trust=trust):
        return devices.shared(recipe.runtime, _resume, arguments, listeners)


def _resume(
    run: Path, recipe: Recipe, *, listeners: Sequence[Listener], keep_state: bool
) -> RunResult:
    environment = read_environment(run)
    # whether a table is used must not depend on what others have stored since
    decided = [choice.stored for choice in environment.teacher_logits]
    job = build_job(
        recipe,
        lambda teacher: teacher_run(teacher, recipe, out=run.parent, listeners=listeners),
        decided=decided,
        compiled=environment.compile,
    )
    changed = data_subset.check_same(str(run), environment.data, environment.kind, job.feed)
    state = (
        load_state(run / run_folder.STATE_FOLDER)
        if any((run / run_folder.STATE_FOLDER).glob("state-*"))
        else longer.last_state(job)
    )
    if state is not None:
        position_of(state)  # refused here, before the run is touched
    notes = (f"{state.damaged}: going on from the state before",) if state and state.damaged else ()
    return Execution(run, job, listeners, (*notes, *changed), keep_state=keep_state).go(
        state, resumed=True
    )


# ---- runs that others need -----------------------------------------------------------------------


def teacher_run(
    section: TeacherSection, student: Recipe, *, out: Path, listeners: Sequence[Listener] = ()
) -> Path:
    """The run of a teacher's recipe: found by content hash, resumed if it was stopped, trained if
    there is none.

    Args:
        section: names the recipe, and perhaps another length.
        student: the recipe that asks for it: where the data lie and where to compute hold for its
            teacher too.
    """
    resolved, command = teacher_recipe(section, student)
    return find_or_train(resolved, out=out, listeners=listeners, command=command)[0]


def find_or_train(
    resolved: Resolved,
    *,
    out: Path,
    listeners: Sequence[Listener] = (),
    command: str = "",
    finished: Mapping[str, Path] | None = None,
    runs: int = 1,
) -> tuple[Path, RunResult | None]:
    """The run of a recipe: found by content hash, gone on with if it was stopped, made if there is
    none.

    Args:
        finished: what `finished_runs(out)` says, for a caller who asks for many.
        runs: as for `execute`.

    Returns:
        Its directory, and its result if it was made now.
    """
    digest = recipe_hash(resolved.recipe)
    ranks = Ranks.current()

    def find() -> tuple[Path | None, Path | None]:
        done = (finished_runs(out) if finished is None else finished).get(digest)
        return done, None if done is not None else unfinished_run(
            out, digest, ranks.size if ranks.size > 1 else None
        )

    done, stopped = ranks.from_first(find)
    if done is not None:
        return done, None
    if stopped is not None:
        return stopped, resume(stopped, listeners=listeners)
    result = execute(resolved, out=out, listeners=listeners, command=command, runs=runs)
    assert result is not None
    return Path(result.run), result


# ---- one run, from its reserved folder on --------------------------------------------------------


class Execution:
    """Training, measuring and writing of one run, from its reserved directory on."""

    def __init__(
        self,
        run: Path,
        job: Job,
        listeners: Sequence[Listener],
        notes: tuple[str, ...],
        *,
        keep_state: bool,
    ) -> None:
        self.run = run
        self.job = job
        self.ranks = job.runtime.ranks
        self.listeners = tuple(listeners)
        self.notes = notes
        self.keep_state = keep_state
        self.metrics: MetricsWriter | None = None
        self.last_epoch: EpochDone | None = None
        self.epochs: int | None = None
        self.started = time.perf_counter()
        job.runtime.watch_memory()
        self.recipe_sha256 = read_environment(run).recipe_sha256

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
                    return self._go(state, stop, resumed=resumed)
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

    def _go(self, state: State | None, stop: StopRequest, *, resumed: bool) -> RunResult:
        position = position_of(state) if state else Position()
        hooks = Hooks(stop=stop)
        if self.ranks.first:  # the others train, and wait for what this one makes of it
            place = f"epoch {position.epoch}, minibatch {position.batch}" if resumed else None
            manifest.begin(self.run)
            self._emit(prepared(self.job, self.run, self.notes, place))
            hooks = self.hooks(stop, (position.stage + 1, position.epoch) if resumed else None)
        trainer = Trainer(
            self.job.method,
            self.job.feed,
            self.job.runtime,
            train_settings(self.job.recipe),
            hooks=hooks,
            state_folder=self.run / run_folder.STATE_FOLDER,
            resume=state,
            keeps_last_state=self.keep_state,
        )
        trained = trainer.run()
        return self.ranks.from_first(lambda: self.conclude(trainer, trained))

    def hooks(
        self, stop: Callable[[], KdError | None], resume_at: tuple[int, int] | None = None
    ) -> Hooks:
        """The trainer's hooks on the first rank. resume_at: as for MetricsWriter."""
        self.metrics = MetricsWriter(self.run, resume_at)
        listeners: tuple[Listener, ...] = (self.metrics, self._remember, *self.listeners)
        return Hooks(
            listeners,
            evaluate=validation(self.job),
            probe=Monitor(self.job),
            keep=self._keep,
            stop=stop,
        )

    def conclude(self, trainer: Trainer, trained: Network) -> RunResult:
        """Measures what came out, and writes it all down."""
        assert self.metrics is not None
        network = self._selected(trained)
        self.epochs = trainer.epochs_of_result() if self.job.recipe.train.select == "last" else None
        folded = fold_temperature(self.job, network)
        outcome = measure_outcome(self.job, network, self.run.name, folded)
        seconds = self.metrics.earlier_seconds + time.perf_counter() - self.started
        result = run_result(
            self.job, self.run, outcome, network, self.last_epoch, self.recipe_sha256, seconds
        )
        self._write(result, outcome, network, self.metrics)
        return result

    def _emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def _remember(self, event: Event) -> None:
        if isinstance(event, EpochDone):
            compiling.mark(self.job.compiled, self.job.runtime.compile_choice)
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
        network: Network,
        metrics: MetricsWriter,
    ) -> None:
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
        write_json(self.run / "analysis.json", asdict(outcome.analysis))
        metrics.done({"test_accuracy": result.test.accuracy, "wall_seconds": result.wall_seconds})
        # summary.json last: a run that has one is finished, and its manifest is whole
        summary = json_text(asdict(result))
        manifest.seal(self.run, {run_folder.SUMMARY_FILE: summary})
        write_text(self.run / run_folder.SUMMARY_FILE, summary)
        build_report(self.run, html=self.job.recipe.report.html)
        run_folder.point_latest(self.run)
        if not self.keep_state:
            run_folder.drop_state(self.run)
