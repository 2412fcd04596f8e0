"""Training runs: from a recipe to a finished folder, and on from where one was stopped.

The way down: `distill` resolves a recipe, `execute` shares it among processes if it asks for
several, `_train` has everything built (kdcli.jobs.build.job), and `Execution`
(kdcli.jobs.train.execution) puts it into the trainer, measures what comes out and writes it down.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcli.engine.checkpoint import load_state
from kdcli.engine.distributed import Ranks
from kdcli.engine.position import position_of
from kdcli.errors import NotFound, Paused, UsageError
from kdcli.files import sha256_file, write_text
from kdcli.jobs.build import data_subset
from kdcli.jobs.build.header import write_code
from kdcli.jobs.build.job import Job, build_job, network_section
from kdcli.jobs.build.trusted_recipe import trusted_recipe
from kdcli.jobs.build.tuned import Settled
from kdcli.jobs.events import Listener
from kdcli.jobs.measure.costs import check_forms
from kdcli.jobs.processes import devices
from kdcli.jobs.train import longer
from kdcli.jobs.train.dry_run import try_out
from kdcli.jobs.train.environment import (
    check_recipe,
    folder_of,
    read_environment,
    write_environment,
)
from kdcli.jobs.train.execution import Execution
from kdcli.jobs.train.keywords import resolved_keywords
from kdcli.jobs.train.trackers.start import check_installed
from kdcli.recipe.resolve import Resolved, resolve, teacher_recipe
from kdcli.recipe.schema import DistillRecipe, Recipe, TeacherSection
from kdcli.recipe.writing import dump, recipe_hash
from kdcli.results.run import RunResult
from kdcli.runs import folder as run_folder
from kdcli.runs.find import finished_runs, unfinished_run
from kdcli.runs.read import epoch_of
from kdcli.trust import Folder

_SHARED_SECONDS = 10.0  # until what one machine wrote is seen by the others

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
    until: int | None = None,
) -> RunResult | None:
    """Runs a resolved recipe; returns what summary.json holds, or None after a dry run.

    Args:
        out: folder of the runs. command: the command line, for environment.json.
        dry_run: build everything, put one minibatch through loss and backward pass, write nothing.
        keep_state: leave RUN/state behind after success.
        runs: how many runs will ask its teachers for the same answers, this one counted.
        until: the epoch of its last stage after which it is left, its state saved.

    Raises:
        KdError: see docs/reference/exit-codes.md. Paused: it was left after `until`.
    """
    resolved = devices.settled(resolved)
    run_folder.check_out(out)
    longer.check(resolved.recipe)
    check_installed(resolved.recipe.report.track)
    check_forms(resolved.recipe.report.forms)
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
        "until": until,
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
    until: int | None,
) -> RunResult:
    recipe = resolved.recipe
    job = build_job(
        recipe,
        lambda teacher: teacher_run(teacher, recipe, out=out, listeners=listeners),
        runs=runs,
        listeners=listeners,
    )
    state = longer.last_state(job)
    run = job.runtime.ranks.from_first(lambda: reserve_run(job, resolved, out, command))
    check_shared(run, job.runtime.ranks)
    execution = Execution(run, job, listeners, resolved.notes, keep_state=keep_state, until=until)
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
        write_code(run, job.code)
        write_environment(run, job, command)
    return run


def check_shared(run: Path, ranks: Ranks) -> None:
    """Refuses ranks that do not see the folder of the run as the first has written it: machines
    need a disk that all share. What was reserved does not stay.

    Raises:
        UsageError: on every rank; names those that do not.
    """
    if ranks.size == 1:
        return
    written = ranks.from_first(lambda: sha256_file(run / run_folder.ENVIRONMENT_FILE))
    end = time.monotonic() + _SHARED_SECONDS
    while not (seen := _sees(run, written)) and time.monotonic() < end:
        time.sleep(0.1)
    blind = [str(rank) for rank, sees in enumerate(ranks.every(seen)) if not sees]
    if not blind:
        return
    if ranks.first:
        shutil.rmtree(run, ignore_errors=True)
    many = "ranks" if len(blind) > 1 else "rank"
    raise UsageError(
        f"{many} {', '.join(blind)} of {ranks.size} cannot see {run}, which the first has made: "
        "ranks on several machines need a folder of runs that all of them share",
        hint="--out, with a folder on such a disk",
    )


def _sees(run: Path, written: str) -> bool:
    path = run / run_folder.ENVIRONMENT_FILE
    return path.is_file() and sha256_file(path) == written


def resume(
    run: Path,
    *,
    listeners: Sequence[Listener] = (),
    keep_state: bool = False,
    trust: bool = False,
    until: int | None = None,
) -> RunResult:
    """Go on with a run that was stopped, on as many devices; on a CPU the result has the very bits
    of one that never stopped.

    Args:
        trust: whether the Python files run that the run's recipe names.
        until: as for `execute`.

    Raises:
        NotFound: no run there, or it was stopped before its first state. UsageError: it is
            finished, or another process is at it. Untrusted: its recipe names a Python file.
            Paused: it was left after `until`.
    """
    with folder_of(run) as here:
        return _resume_here(
            here, listeners=listeners, keep_state=keep_state, trust=trust, until=until
        )


def _resume_here(
    run: Path, *, listeners: Sequence[Listener], keep_state: bool, trust: bool, until: int | None
) -> RunResult:
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
    arguments = {"run": run, "recipe": recipe, "keep_state": keep_state, "until": until}
    with trusted_recipe(resolved, trust=trust):
        return devices.shared(recipe.runtime, _resume, arguments, listeners)


def _resume(
    run: Path,
    recipe: Recipe,
    *,
    listeners: Sequence[Listener],
    keep_state: bool,
    until: int | None,
) -> RunResult:
    environment = read_environment(run)
    # whether a table is used must not depend on what others have stored since
    decided = [choice.stored for choice in environment.teacher_logits]
    job = build_job(
        recipe,
        lambda teacher: teacher_run(teacher, recipe, out=run.parent, listeners=listeners),
        decided=decided,
        compiled=environment.compile,
        settled=Settled(
            environment.precision,
            environment.teacher_precision,
            environment.channels_last,
            environment.threads,
            environment.teacher_images,
        ),
        listeners=listeners,
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
    told = (*notes, *changed)
    return Execution(run, job, listeners, told, keep_state=keep_state, until=until).go(
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
    until: int | None = None,
) -> tuple[Path, RunResult | None]:
    """The run of a recipe: found by content hash, gone on with if it was stopped, made if there is
    none.

    Args:
        finished: what `finished_runs(out)` says, for a caller who asks for many.
        runs, until: as for `execute`.

    Returns:
        Its directory, and its result if it was made now.

    Raises:
        Paused: it was left after `until`. Others: as `execute` and `resume`.
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
    if stopped is not None and until is not None and epoch_of(stopped, until) is not None:
        error = Paused(f"{stopped} has had epoch {until} already")
        error.run = str(stopped)
        raise error
    if stopped is not None:
        return stopped, resume(stopped, listeners=listeners, until=until)
    result = execute(
        resolved, out=out, listeners=listeners, command=command, runs=runs, until=until
    )
    assert result is not None
    return Path(result.run), result
