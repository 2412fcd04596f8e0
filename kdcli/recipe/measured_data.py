"""The data that a checkpoint is measured on: those of its header, and over them what was asked for.

No torch, and nothing is opened: what cannot be measured is refused before anything slow begins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdcli import catalog
from kdcli.errors import BadCheckpoint, Diagnostic, UsageError
from kdcli.recipe.reading import diagnostics, overrides
from kdcli.recipe.reading.diagnostics import Explainer, toml_of
from kdcli.recipe.reading.layers import Layer, lay
from kdcli.recipe.reading.overrides import Flag
from kdcli.recipe.reading.toml_file import Origin
from kdcli.recipe.schema import BOUNDS, RESTRICTIONS, DataSection, DistillRecipe, branch
from kdcli.results.weights_header import CheckpointHeader
from kdcli.typed import complaint

# what they take away is not of the test split
_OF_TRAINING = ("val_fraction", "train_limit", "sampler", "shrink")


def asked_for(
    data: str | None = None,
    values: Mapping[str, Any] | Layer | None = None,
    *,
    sets: Sequence[str] = (),
    root: Path | None = None,
) -> Layer:
    """What a user says about the data to measure on.

    Args:
        data: a dataset's name. values: dotted keys with values, such as {"data.path": "moved.npz"};
            or a layer of them.
        sets: KEY=VALUE, as --set takes them. root: folder of the datasets.

    Raises:
        RecipeInvalid: a key is not one of [data], or takes images away from training alone; two of
            them contradict each other.
    """
    named = {"--data": ("data.name", data), "--data-dir": ("data.root", root and str(root))}
    flags = [Flag(option, key, value) for option, (key, value) in named.items() if value]
    given = values if isinstance(values, Layer) else overrides.from_mapping(values or {})
    command = overrides.from_command_line(sets, flags)
    below = lay(Layer(), given, "distill")
    table = below.get("data")
    if data and isinstance(table, dict) and "name" not in table:  # they are of the one named
        below.put(("data", "name"), data, command.origins["data", "name"])
    layer = lay(below, command, "distill")
    explainer = Explainer(DistillRecipe, layer, {})
    foreign = [key for key in layer.values if key != "data"]
    problems = [
        explainer.at(key, "is not about data", "what is measured takes data.KEY=VALUE alone")
        for key in foreign
    ]
    table = layer.get("data")
    if table is not None and not isinstance(table, dict):
        problems.append(explainer.at("data", "is a section", "data.name = NAME, data.path = FILE"))
    else:
        problems += [
            explainer.at(
                f"data.{key}",
                "takes images away from training: whatever is measured is measured whole",
                "leave it out",
            )
            for key in RESTRICTIONS
            if key in (table or {})
        ]
    if problems:
        raise diagnostics.refuse("the overrides", problems)
    return layer


def section_of(
    path: Path, header: CheckpointHeader, asked: Layer, *, train: bool = True
) -> DataSection:
    """The [data] section that a checkpoint is measured on.

    The dataset is whole: what a run took away from its training split (classes, all but a few
    images of each) is measured too, so that a student and its teacher meet the same images, and no
    teacher is needed to find out which ones a student had. Another dataset than the header's takes
    nothing from the header.

    Args:
        path: the checkpoint, for messages.
        asked: what `asked_for` gave.
        train: whether images of the training set are measured, held out or not.

    Raises:
        RecipeInvalid: something that was asked for is wrong, at its place. BadCheckpoint: the
            header names data that cannot be had.
    """
    layer = lay(_of_header(path, header, asked, train=train), asked, "distill")
    if layer.get("data", "name") is None:
        raise BadCheckpoint(
            f"{path} does not say what it was trained on", hint="name the data: -d NAME"
        )
    return _section(layer, asked)


def section_asked(asked: Layer) -> DataSection:
    """The [data] section that a user says alone, without a checkpoint.

    Raises:
        RecipeInvalid: something is wrong, at its place, or the name is missing.
    """
    if asked.get("data", "name") is None:
        explainer = Explainer(DistillRecipe, asked, {})
        raise _refused(explainer.at("data.name", "missing", "-d NAME"))
    return _section(asked, asked)


def _section(layer: Layer, asked: Layer) -> DataSection:
    name, explainer = layer.get("data", "name"), Explainer(DistillRecipe, layer, {})
    if not isinstance(name, str):
        raise _refused(explainer.at("data.name", f"must be text in quotes, got {toml_of(name)}"))
    try:
        cls = branch(DataSection, name)
    except UsageError as error:
        raise _refused(explainer.at("data.name", error.message, error.hint)) from error
    explainer = Explainer(DistillRecipe, layer, {"data": cls})
    try:
        section = cls.model_validate_json(json.dumps(layer.get("data"), default=str), strict=True)
    except ValidationError as error:
        if not asked.get("data"):
            raise BadCheckpoint(
                f"the data that its header names cannot be had: {complaint(error)}",
                hint="name the data: -d NAME, or train it again",
            ) from error
        raise _refused(*explainer.explain(error, ("data",))) from error
    if asked.get("data", "root") is not None and not catalog.entry("dataset", name).facts.get(
        "download"
    ):
        hint = (
            f"-s data.path=PATH says where the data of {name} are"
            if "path" in cls.model_fields
            else "leave it out"
        )
        problem = f"{name} is not read from a folder of datasets: this would change nothing"
        raise _refused(explainer.at("data.root", problem, hint))
    return section


def _of_header(path: Path, header: CheckpointHeader, asked: Layer, *, train: bool) -> Layer:
    layer, origin = Layer(), Origin("the checkpoint", file=str(path))
    if asked.get("data", "name") in {None, header.data.get("name")}:
        left_out = (*RESTRICTIONS, *BOUNDS, *(() if train else _OF_TRAINING))
        for key, value in header.data.items():
            if key not in left_out:
                layer.put(("data", key), value, origin)
    return layer


def _refused(*problems: Diagnostic) -> UsageError:
    return diagnostics.refuse("the data to measure on", problems)


def label_of(section: DataSection, asked: Layer) -> str:
    """What tables call the data: their name, their path where they have one, and every other key
    that was asked for.
    """
    table = asked.get("data") or {}
    more = [f"{key} = {toml_of(table[key])}" for key in table if key not in {"name", "path"}]
    path = getattr(section, "path", None)
    shown = section.name if path is None else f"{section.name} {path}"
    return f"{shown} ({', '.join(more)})" if more else shown
