"""A resolved recipe as text that re-reads to an equal recipe, and as a hash of everything that
changes its result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel

from kdcli import catalog, clean
from kdcli.errors import KdError
from kdcli.files import is_file, is_folder, read_json, sha256_file, sha256_json
from kdcli.recipe.early_stopped_teacher import Stretch
from kdcli.recipe.reading.layers import NAMED, dotted
from kdcli.recipe.reading.toml_file import KeyPath
from kdcli.recipe.resolve import resolve_teacher
from kdcli.recipe.schema import BOUNDS, NO_EFFECT, DistillRecipe, Recipe
from kdcli.results.weights_header import kept_along, read_header

# what may differ between two runs that learn the same; by section
NOT_CONTENT: Mapping[str, Any] = {
    "name": True,
    "gates": True,
    "report": True,
    "data": {"root", *BOUNDS},
    "train": {"state_seconds"},
    "runtime": {
        "compile",
        "device",
        "devices",
        "graphs",
        "shard_teacher",
        "teacher_batch",
        "threads",
        "workers",
    },
}
_FOLDER = "hf/"  # begins the name of a network that is a folder
_FIRST = ("seed", "name", "data", "model", "student", "teacher", "method")
_COMMENT_COLUMN = 40


def dump(recipe: Recipe, origins: Mapping[str, str] | None = None) -> str:
    """TOML text of a recipe, every value spelt out; what is None is left out, which means the same.

    Args:
        origins: `Resolved.origins`; then each line says in a comment where its value came from.
    """
    content = recipe.model_dump(mode="json", exclude_none=True)
    values = {
        key: content[key]
        for key in dict.fromkeys((*_FIRST, *content))
        if content.get(key) not in (None, {}, [])
    }
    teachers = values.get("teacher")
    if isinstance(teachers, list) and len(teachers) == 1:
        values["teacher"] = teachers[0]
    lines = [
        f"# kd {recipe.KIND}: every value of the recipe, and where it came from"
        if origins
        else f"# kd {recipe.KIND}",
        "",
    ]
    lines += _table(values, (), origins or {})
    # a TOML string escapes what is escaped here, and the name of a file stays in its comment
    return clean.text("\n".join(lines).rstrip() + "\n")


def _table(values: Mapping[str, Any], path: KeyPath, origins: Mapping[str, str]) -> Iterator[str]:
    tables = {
        key: value for key, value in values.items() if isinstance(value, dict) or _is_tables(value)
    }
    for key, value in values.items():
        if key not in tables:
            line = f"{_text_of_key(key)} = {_text_of(value)}"
            origin = clean.line(origins.get(dotted((*path, key)), ""))
            yield f"{line:<{_COMMENT_COLUMN}}  # {origin}" if origin else line
    for key, value in tables.items():
        header = ".".join(
            _text_of_key(str(part)) for part in (*path, key) if not isinstance(part, int)
        )
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            yield ""
            yield f"[[{header}]]" if isinstance(value, list) else f"[{header}]"
            yield from _table(
                item, (*path, key, number) if isinstance(value, list) else (*path, key), origins
            )


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _text_of(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, list):
        return f"[{', '.join(_text_of(item) for item in value)}]"
    if isinstance(value, dict):
        items = (f"{_text_of_key(key)} = {_text_of(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").rstrip("\n")


def _text_of_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text_of(key)


def recipe_hash(recipe: Recipe) -> str:
    """Hex SHA-256 of all that changes what a run learns: equal hashes, equal results.

    Device, threads, compilation, gates, report and the run's name are left out, and so is a key
    with a value at which it does nothing: a run keeps its hash when kd learns new keys. A teacher
    counts by its weights, or by the content of its recipe, and a user's own file by its content:
    wherever they lie, and however they are called.
    """
    content = recipe.model_dump(mode="json", exclude_none=True, exclude=dict(NOT_CONTENT))
    _leave_out_idle(content, recipe)
    for teacher in content.get("teacher", ()):
        _weights_by_content(teacher)
        teacher.update(_folder_by_content(teacher, weights=True))
        if "checkpoint" in teacher:
            teacher["checkpoint"] = _weights(teacher["checkpoint"])
        if "logits" in teacher and is_file(teacher["logits"]):
            teacher["logits"] = sha256_file(Path(teacher["logits"]))
        if "recipe" in teacher:
            teacher["recipe"] = _content(
                teacher["recipe"], teacher.pop("epochs", None), teacher.pop("schedule", None)
            )
    for section in NAMED:
        table = content.get(section, {})
        _weights_by_content(table)
        if "init" in table:
            table["init"] = _weights(table["init"])
        if ".py" in table.get("name", ""):
            table["name"] = _own_file(section, table["name"])
        table.update(_folder_by_content(table, weights="weights" in table))
    if recipe.train.continues is not None:
        content["train"]["continues"] = _recipe_of_run(recipe.train.continues)
    if catalog.entry("method", recipe.method.name).facts.get("follows_history"):
        content["method"].pop("checkpoints", None)
        content["history"] = _history(recipe)
    reference = recipe.report.reference
    if reference is not None:  # the one part of [report] that changes a run's numbers
        content["reference"] = (
            _content(reference) if reference.endswith(".toml") else _weights(reference)
        )
    return sha256_json({"kind": recipe.KIND, **content})


def _leave_out_idle(content: dict[str, Any], section: BaseModel) -> None:
    """Takes the keys of a dumped section, and of the sections in it, whose values have no effect
    out of it.
    """
    for key, field in type(section).model_fields.items():
        value, facts = getattr(section, key), field.json_schema_extra
        if isinstance(facts, dict) and NO_EFFECT in facts and value == facts[NO_EFFECT]:
            content.pop(key, None)
        elif isinstance(value, BaseModel) and key in content:
            _leave_out_idle(content[key], value)
        elif isinstance(value, tuple) and key in content:
            for part, inner in zip(content[key], value, strict=True):
                if isinstance(inner, BaseModel):
                    _leave_out_idle(part, inner)


def _weights(path: str) -> str:
    try:
        return read_header(path)[1].tensors_sha256 or path
    except KdError:
        return path


def _weights_by_content(table: dict[str, Any]) -> None:
    """Puts the content of a file of weights in the place of its path; leaves a name such as
    DEFAULT.
    """
    path = table.get("weights")
    if path is not None and is_file(path):
        table["weights"] = sha256_file(Path(path))


def _folder_by_content(table: dict[str, Any], *, weights: bool) -> dict[str, Any]:
    """The content of the folder of a network (hf/FOLDER) as its name; nothing for other names.

    Args:
        weights: whether those that lie in it count.
    """
    name = table.get("name")
    if not isinstance(name, str) or not name.startswith(_FOLDER):
        return {}
    folder = Path(name.removeprefix(_FOLDER))
    if not is_folder(folder):
        return {}
    endings = {".json", ".safetensors"} if weights else {".json"}
    kept = sorted(path for path in folder.iterdir() if path.suffix in endings and is_file(path))
    return {"name": _FOLDER + sha256_json({path.name: sha256_file(path) for path in kept})}


def _recipe_of_run(run: str) -> str:
    try:
        return str(read_json(Path(run) / "environment.json").get("recipe_sha256", run))
    except KdError:
        return run


def _history(recipe: Recipe) -> list[str]:
    """The checkpoints along a teacher's training by their weights: given ones, or those that the
    run of its checkpoint kept.
    """
    paths = recipe.method.options.get("checkpoints") or ()
    source = (
        recipe.teacher[0].checkpoint
        if isinstance(recipe, DistillRecipe) and recipe.teacher
        else None
    )
    with suppress(KdError):  # one that is not there is refused when it is loaded
        if not paths and source is not None:
            found, header = read_header(source)
            paths = kept_along(found, header.epoch)[:-1]
    return [_weights(str(path)) for path in paths]


def _content(recipe: str, epochs: int | None = None, schedule: Stretch | None = None) -> str:
    try:
        return recipe_hash(resolve_teacher(recipe, epochs, schedule).recipe)
    except KdError:
        return recipe


def _own_file(section: str, name: str) -> str:
    found = catalog.entry(NAMED[section].KIND, name)
    return f"{sha256_file(found.path)}:{found.factory or ''}"
