"""Was the teacher worth it? Finds the run that trained the same network in the same way on labels
alone.

It is looked for among the neighbours of a run: a sweep puts its cells side by side, and so does
`runs/`. Only a run whose recipe is the same but for method and teacher counts; a network trained
longer, or on other data, is no baseline.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcli import trust
from kdcli.errors import KdError
from kdcli.files import MAX_RECIPE_BYTES, read_bytes
from kdcli.results.environment import Described
from kdcli.results.run import RunResult
from kdcli.runs.find import runs_in
from kdcli.runs.folder import ENVIRONMENT_FILE, RECIPE_FILE, SUMMARY_FILE
from kdcli.runs.manifest import read_record
from kdcli.runs.read import Run, read_recipe
from kdcli.typed import from_dict

LABELS_ONLY = "none"  # the method that has no teacher and no term but cross-entropy
_NAMED = f'"{LABELS_ONLY}"'.encode()  # as the recipe of such a run has it
# may differ without changing what labels alone teach
_FREE = {
    "name",
    "method",
    "teacher",
    "gates",
    "report",
    "runtime",
    "extends",
}


def find_baseline(run: Run) -> RunResult | None:
    """The label-only run beside this one, or None. Neighbours that cannot be read are passed
    over.
    """
    if run.command != "distill" or run.recipe.get("method", {}).get("name") == LABELS_ONLY:
        return None
    wanted = _training(run.recipe)
    for folder in runs_in(run.path.resolve().parent):
        try:
            # a folder may hold a thousand runs, and to parse a recipe takes a hundred times as long
            if _NAMED not in read_bytes(folder / RECIPE_FILE, MAX_RECIPE_BYTES):
                continue
            _, recipe = read_recipe(folder / RECIPE_FILE)
            if recipe.get("method", {}).get("name") != LABELS_ONLY or _training(recipe) != wanted:
                continue
            if _images(folder) not in {None, run.described.data.positions_sha256}:
                continue  # another teacher ranked its training images
            if (folder / SUMMARY_FILE).is_file():
                return from_dict(
                    RunResult, read_record(folder / SUMMARY_FILE), folder / SUMMARY_FILE
                )
        except KdError:
            continue
    return None


def baseline_command(run: Run) -> str:
    """The command that makes such a run, beside this one; nothing where there can be none: of a run
    on labels alone, and of one that went on from another's state.
    """
    recipe = run.recipe
    alone = recipe.get("method", {}).get("name") == LABELS_ONLY
    if run.command != "distill" or alone or recipe.get("train", {}).get("continues"):
        return ""
    folder = Path(run.summary.run) if run.summary else run.path
    words = ["kd", "distill", str(folder / RECIPE_FILE), "--method", LABELS_ONLY]
    words += ["-s", "teacher=[]"]
    chosen = recipe.get("data", {}).get("select", "random") != "random"
    if chosen and run.summary and run.summary.teachers:  # who ranked the training images
        words += ["-s", f"report.reference={run.summary.teachers[0].checkpoint}"]
    if recipe.get("name"):
        words += ["--name", f"{recipe['name']}-labels"]
    if str(folder.parent) != "runs":
        words += ["--out", str(folder.parent)]
    return shlex.join(words) + trust.option(recipe)


def _images(folder: Path) -> str | None:
    """The digest of which images a run trained on; None where it does not say."""
    path = folder / ENVIRONMENT_FILE
    if not path.is_file():
        return None
    return from_dict(Described, read_record(path), path).data.positions_sha256


def _training(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the result of training on labels: all but method and teacher, the network under
    one name.
    """
    kept = {key: value for key, value in recipe.items() if key not in _FREE | {"model", "student"}}
    return {**kept, "network": recipe.get("student", recipe.get("model"))}
