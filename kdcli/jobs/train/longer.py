"""Training longer: a new run that starts from the last state of a finished one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdcli.engine.checkpoint import State, load_state
from kdcli.errors import UsageError
from kdcli.jobs.build import data_subset
from kdcli.jobs.build.job import Job
from kdcli.jobs.train.environment import read_environment
from kdcli.recipe.resolve import Flag, Resolved, resolve
from kdcli.recipe.schema import Recipe
from kdcli.recipe.writing import recipe_hash
from kdcli.runs.folder import RECIPE_FILE, STATE_FOLDER, SUMMARY_FILE
from kdcli.trust import Folder


def longer_recipe(run: Path, epochs: int) -> Resolved:
    """The recipe of a run that goes on where `run` ended, until it has had so many epochs.

    Raises:
        UsageError: `run` is not finished.
    """
    if not (run / SUMMARY_FILE).is_file():
        raise UsageError(f"{run} is not finished", hint=f"kd resume {run}, without --epochs")
    flags = [
        Flag("--epochs", "train.epochs", epochs),
        Flag("kd resume", "train.continues", str(run)),
        Flag("kd resume", "name", f"{run.resolve().name}-to-{epochs}"),
    ]
    resolved = resolve(
        read_environment(run).kind, file=run / RECIPE_FILE, flags=flags, tree=Folder(None)
    )
    note = f"trains {run} longer: from its last state on, in a run of its own"
    return replace(resolved, notes=(*resolved.notes, note))


def check(recipe: Recipe) -> None:
    """Refuses to continue a run that this recipe cannot go on with, before anything is built.

    Raises:
        UsageError: it kept no state, had as many epochs, or its recipe differs in more than the
            epochs.
    """
    if recipe.train.continues is None:
        return
    run = Path(recipe.train.continues)
    environment = read_environment(run)
    if not any((run / STATE_FOLDER).glob("state-*")):
        raise UsageError(
            f"{run} kept no state, and cannot be trained longer",
            hint="a run keeps it with --keep-state",
        )
    earlier = resolve(environment.kind, file=run / RECIPE_FILE, tree=Folder(None)).recipe
    if recipe.train.epochs <= earlier.train.epochs:
        raise UsageError(
            f"{run} has had {earlier.train.epochs} epochs, and train.epochs is "
            f"{recipe.train.epochs}",
            hint=f"--epochs {earlier.train.epochs + 1} or more: those before are counted",
        )
    changes = {"epochs": earlier.train.epochs, "continues": earlier.train.continues}
    same = recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})
    if recipe_hash(same) != environment.recipe_sha256:
        raise UsageError(
            f"{run} was trained by another recipe, and only train.epochs may differ",
            hint=f"kd resume {run} --epochs {recipe.train.epochs}",
        )


def last_state(job: Job) -> State | None:
    """The state that a run starts from: None, or the last of the run that it continues.

    Raises:
        UsageError: nothing is left to train. Incompatible: the training images are others by now.
    """
    recipe = job.recipe
    if recipe.train.continues is None:
        return None
    run = Path(recipe.train.continues)
    environment = read_environment(run)
    data_subset.check_same(str(run), environment.data, environment.kind, job.feed)
    state = load_state(run / STATE_FOLDER)
    position, stages = state.facts["position"], job.method.stages()
    last = stages[-1]
    if position["stage"] != len(stages) - 1 or last.epochs is not None:
        raise UsageError(
            f"the last stage of {recipe.method.name}, {last.name}, has a number of epochs of its "
            "own, and train.epochs does not make it longer"
        )
    # where that run was ended early, this one is to go on
    earlier = state.facts.get("stopping", {}).get("stopped", {})
    stopped = {stage: epoch for stage, epoch in earlier.items() if stage != str(len(stages) - 1)}
    return replace(state, facts={**state.facts, "stopping": {"stopped": stopped}})
