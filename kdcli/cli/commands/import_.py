"""`kd import`: weights that another program trained, as a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdcli import formatting, trust
from kdcli.cli import completion
from kdcli.cli import options as o
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome
from kdcli.errors import UsageError
from kdcli.runs.find import runs_dir

if TYPE_CHECKING:
    from kdcli.results.imported import ImportResult

NAME = "import"
EXAMPLES = """
kd import resnet32x4.pth -d cifar100
kd import best.ckpt --model torchvision/resnet18 --classes classes.txt
kd import net.pt --model mine.py:tiny --input 3x32x32 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5
"""
_ABOUT = "About the weights"


def _option(*names: str, text: str, metavar: str | None = None, **more: object) -> object:
    return typer.Option(
        *names,
        help=text,
        metavar=metavar,
        rich_help_panel=_ABOUT,
        show_default=False,
        **more,  # type: ignore[arg-type]
    )


File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="A .pth, .pt, .bin, .ckpt or .safetensors.", show_default=False
    ),
]
Model = Annotated[
    str | None,
    _option(
        "--model",
        text="The network; found by the shapes of its tensors unless given.",
        metavar="NAME",
        autocompletion=completion.models,
    ),
]
Classes = Annotated[
    Path | None,
    _option("--classes", text="Names of its classes: lines, JSON, or imagenet.", metavar="FILE"),
]
Data = Annotated[
    str | None,
    _option(
        "-d",
        "--data",
        text="The dataset that it was trained on.",
        metavar="NAME",
        autocompletion=completion.datasets,
    ),
]
Sets = Annotated[
    list[str] | None,
    _option(
        "-s",
        "--set",
        text="Set a key of that data: data.path=FILE. Repeatable.",
        metavar="data.KEY=VALUE",
    ),
]
Input = Annotated[
    str | None, _option("--input", text="Its pictures, such as 3x32x32.", metavar="CxHxW")
]
Mean = Annotated[
    str | None,
    _option(
        "--mean",
        text="Mean of each channel, of pixels from 0 to 1; the data's unless given.",
        metavar="X,X,X",
    ),
]
Std = Annotated[
    str | None, _option("--std", text="Standard deviation of each channel.", metavar="X,X,X")
]
Table = Annotated[
    str | None,
    _option("--table", text="Where in the file the weights are: state_dict.", metavar="NAME"),
]
Drop = Annotated[
    list[str] | None,
    _option("--drop", text="Leave out tensors whose names begin so. Repeatable.", metavar="NAME"),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        help="The new folder, or .safetensors file; one under runs unless given.",
        metavar="RUN",
        rich_help_panel=o.RUNNING,
        show_default=False,
    ),
]


def run(
    env: Environment,
    file: File,
    *,
    model: Model = None,
    classes: Classes = None,
    data: Data = None,
    sets: Sets = None,
    data_dir: o.DataRoot = None,
    shape: Input = None,
    mean: Mean = None,
    std: Std = None,
    table: Table = None,
    drop: Drop = None,
    out: Out = None,
) -> Outcome:
    """Make a checkpoint of weights that were trained elsewhere.

    State dicts of PyTorch, Lightning, timm, torchvision, RepDistiller and mdistiller. Nothing in
    the file runs: it is read as tensors, or not at all. The network is found by the shapes of its
    tensors where it is one of kd's (kd models), else --model names it.
    """
    input_shape, means, stds = _shape(shape), _numbers("--mean", mean), _numbers("--std", std)
    from kdcli.recipe.measured_data import asked_for

    asked = asked_for(data, sets=sets or (), root=data_dir)
    from kdcli import jobs

    result = jobs.import_weights(
        file,
        model=model,
        classes=classes,
        overrides=asked,
        out=out,
        runs=runs_dir(env.environ),
        input_shape=input_shape,
        mean=means,
        std=stds,
        table=table,
        drop=drop or (),
    )
    for line in _about(result):
        env.report(f"  {line}")
    place = result.run or result.checkpoint
    parameters = formatting.count(result.parameters)
    env.answer(("✓", "green"), f" {place}   {result.network}, {parameters} parameters")
    known = "" if result.data else " -d NAME"
    env.report(f"  next     kd evaluate {place}{known}{trust.option(result.network)}")
    return Outcome.of(result)


def _about(result: ImportResult) -> Iterator[str]:
    """What was taken, and what was taken for granted."""
    where = " ".join(
        part
        for part in (
            f"from {result.table!r}" if result.table else "",
            f"(not {formatting.listed(result.other_tables)})" if result.other_tables else "",
            f"without {result.prefix!r}" if result.prefix else "",
        )
        if part
    )
    yield f"weights  {formatting.plural(result.tensors, 'tensor')}{' ' * bool(where)}{where}"
    if result.left_out:
        count = formatting.plural(len(result.left_out), "tensor")
        yield f"left out {count}: {formatting.listed(result.left_out)}"
    told = "found by the shapes of its tensors" if result.guessed else "as --model says"
    yield f"model    {result.network}, {told}"
    shape = "×".join(map(str, result.input_shape))
    names = formatting.listed(result.class_names)
    yield f"classes  {formatting.thousands(result.num_classes)}: {names}"
    mean, std = (", ".join(f"{value:.4g}" for value in each) for each in (result.mean, result.std))
    whose = {
        "options": "",
        "data": f" (of {result.data})",
        "imagenet": " (ImageNet's, as torchvision's networks have it)",
    }[result.statistics]
    yield f"pictures {shape}, mean {mean}, std {std}{whose}"


def _shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 3 or not all(part.isdecimal() and 0 < int(part) < 10_000 for part in parts):
        raise UsageError(
            f"--input must be channels, height and width, got {text!r}", hint="--input 3x32x32"
        )
    channels, height, width = map(int, parts)
    return channels, height, width


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{option} must be numbers with commas between, got {text!r}",
            hint=f"{option} 0.5,0.5,0.5",
        ) from error
