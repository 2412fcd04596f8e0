"""Gates from flags, the split, the data, and remarks on checkpoints, for evaluate and
analyze-gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from kdcli.errors import UsageError

if TYPE_CHECKING:
    from kdcli.cli.console import Environment
    from kdcli.recipe.reading.layers import Layer
    from kdcli.recipe.schema import GatesSection

SplitName = Literal["train", "val", "test"]


def gates_of(**limits: float | str | bool | None) -> GatesSection:
    """The thresholds that were given.

    Raises:
        UsageError: a limit that no result can be held to.
    """
    from pydantic import ValidationError

    from kdcli.recipe.schema import GatesSection

    try:
        given = {name: limit for name, limit in limits.items() if limit is not None}
        return GatesSection(**cast("Any", given))
    except ValidationError as error:
        problem = error.errors()[0]
        option = "--" + str(problem["loc"][0]).removesuffix("_ms").replace("_", "-")
        message = problem["msg"].removeprefix("Input should be ")
        bound = problem.get("ctx", {}).get("le")  # nan and inf break none
        raise UsageError(
            f"{option} must be {message}, got {problem['input']:g}",
            hint="a fraction is meant: 0.95, not 95" if bound == 1 else None,
        ) from error


def split_of(name: str) -> SplitName:
    """The split that was asked for.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in get_args(SplitName):
        raise UsageError(f"{name!r} is not a split", hint="--split test, val or train")
    return cast("SplitName", name)


def measured_on(
    checkpoints: Iterable[Path], data: str | None, sets: Sequence[str], data_dir: Path | None
) -> Layer:
    """What was said about the data. Refuses what cannot be measured so before torch is imported.

    Raises:
        UsageError: a path is no checkpoint, or the options do not fit each other or its data.
    """
    from kdcli.recipe.measured_data import asked_for, section_of
    from kdcli.results.weights_header import read_header

    asked = asked_for(data, sets=sets, root=data_dir)
    found = [read_header(path) for path in checkpoints]
    # a teacher of other classes is measured on the data of the student that it taught
    taught = {teacher for _, header in found for teacher in header.teacher_classes}
    for path, header in found:
        if header.tensors_sha256 not in taught:
            section_of(path, header, asked)
    return asked


def warn_of_unsigned(env: Environment, paths: Iterable[Path]) -> tuple[str, ...]:
    """A warning, said and returned, for each checkpoint whose header has no checksum."""
    from kdcli.results.weights_header import find_checkpoint, is_unsigned

    warnings = tuple(
        f"{path} is of an earlier kd: its header has no checksum, and damage to it cannot be seen"
        for path in paths
        if is_unsigned(find_checkpoint(path))
    )
    for warning in warnings:
        env.report(f"  {warning}")
    return warnings
