"""`kd export`: a finished network for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from kdcli import formatting
from kdcli.cli import completion
from kdcli.cli import options as o
from kdcli.cli.commands.gates import measured_on, warn_of_unsigned
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome
from kdcli.errors import UsageError
from kdcli.files import check_writable
from kdcli.results.export import Format

if TYPE_CHECKING:
    from kdcli.results.export import ExportResult

NAME = "export"
EXAMPLES = """
kd export runs/latest --format onnx --uint8 -o student.onnx
kd export runs/latest --format onnx --int8 -o student-int8.onnx
kd export runs/latest --format pytorch -o student
"""
Trained = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run directory or a model.safetensors.",
        show_default=False,
        autocompletion=completion.runs,
    ),
]
Kind = Annotated[
    str,
    typer.Option(
        "--format",
        help=(
            "pytorch (a folder that needs torch alone), onnx, pt2, torchscript, or hf (a folder "
            "that transformers or timm loads, of their networks)."
        ),
        metavar="FORMAT",
        show_default=False,
    ),
]
Place = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        help="The file, or the folder of pytorch and hf; beside the checkpoint unless given.",
        metavar="PATH",
        show_default=False,
    ),
]
Uint8 = Annotated[
    bool,
    typer.Option("--uint8", help="Take pixels of 0 to 255, and normalise them inside."),
]
Opset = Annotated[
    int | None,
    typer.Option("--opset", help="Of ONNX; 18 unless given.", metavar="N", show_default=False),
]
Int8 = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="ONNX in eight bits; its accuracy is measured, and refused beyond --max-drop.",
    ),
]
Calibration = Annotated[
    int | None,
    typer.Option(
        "--calibration",
        help="Training images that --int8 takes its ranges from; 256 unless given.",
        metavar="N",
        show_default=False,
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        help="Points of test accuracy that --int8 may cost; 1 unless given. Else exit 3.",
        metavar="X",
        show_default=False,
    ),
]


def run(
    env: Environment,
    run: Trained,
    *,
    kind: Kind,
    out: Place = None,
    uint8: Uint8 = False,
    opset: Opset = None,
    int8: Int8 = False,
    calibration: Calibration = None,
    max_drop: MaxDrop = None,
    data: o.EvalData = None,
    data_dir: o.DataRoot = None,
    sets: o.DataSets = None,
    trust: o.Trust = False,
) -> Outcome:
    """Write a network for other programs: ONNX, plain PyTorch.

    It is loaded again and compared with the network on up to 256 test pictures before it is put in
    place.
    """
    wanted = _format(kind)
    asked = measured_on((run,), data, sets or (), data_dir)
    if out is not None and not out.exists():
        check_writable(out, text=False)
    from kdcli import jobs

    result = jobs.export(
        run,
        format=wanted,
        out=out,
        uint8=uint8,
        opset=opset,
        int8=int8,
        calibration=calibration,
        max_drop=max_drop,
        overrides=asked,
        trust=trust,
    )
    for line in _lines(result):
        env.report(f"  {line}")
    for warning in result.warnings:
        env.report(f"  {warning}")
    if result.written:
        env.answer(("✓", "green"), f" {result.path}")
    else:
        env.answer(("✗", "red"), f" not written: {_refusal(result)}")
    return Outcome.of(result, warn_of_unsigned(env, (run,)))


def _refusal(result: ExportResult) -> str:
    assert result.int8 is not None
    lost, most = result.int8.drop, result.int8.max_drop
    what = "accuracy" if result.int8.accuracy is not None else "agreement with the network"
    return f"int8 costs {lost:.1f} points of {what}, more than --max-drop {most:g}"


def _format(name: str) -> Format:
    if name not in get_args(Format):
        raise UsageError(
            f"{name!r} is not a format", hint="--format pytorch, onnx, pt2, torchscript or hf"
        )
    return cast("Format", name)


def _lines(result: ExportResult) -> tuple[str, ...]:
    check = result.check
    shape = ", ".join(map(str, result.input_shape))
    kinds = {"uint8": "pixels of 0 to 255", "int64": "tokens, filled up with 0"}
    pixels = kinds.get(result.input, "normalised")
    samples = "texts" if result.input == "int64" else "pictures"
    opset = f", opset {result.opset}" if result.opset else ""
    size, classes = (
        formatting.count(result.parameters),
        formatting.plural(result.classes, "class"),
    )
    apart = f"differ by {check.largest_difference:.1e} at most"
    logits = apart if check.largest_difference else "are the same"
    same = formatting.percent(check.agreement, check.pictures)
    lines = (
        f"network  {result.network}, {size} parameters, {classes}",
        f"input    {result.input} [batch, {shape}], {pixels}",
        f"file     {formatting.disk(result.size)}{opset}",
        f"checked  {check.pictures} {samples} ({check.source}): logits {logits}, classes agree on "
        + same,
    )
    if (int8 := result.int8) is None:
        return lines
    before, after = (
        formatting.percent(share, int8.tested) for share in (int8.accuracy, int8.accuracy_int8)
    )
    told = f"accuracy {before} before, {after} after ({int8.tested} test images of {int8.data})"
    if int8.accuracy is None:
        same = formatting.percent(int8.agreement, int8.tested)
        told = f"classes agree on {same} of {int8.tested} test images of {int8.data}, unlabelled"
    return (*lines, f"int8     calibrated on {int8.calibration} training images; {told}")
