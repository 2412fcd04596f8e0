"""Options that several commands share: declared once, shown alike, and turned into overrides of the
recipe.

A flag is an alias of a recipe key and says so in its help; everything else goes through `--set`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from kdcli.cli import completion, quantities

if TYPE_CHECKING:
    from kdcli.recipe.resolve import Flag

T = TypeVar("T")

RECIPE, RUNNING, GATES = "Recipe", "Running", "Gates (a miss is exit code 3)"


def _option(*names: str, key: str = "", text: str, panel: str = RECIPE, **more: Any) -> Any:
    """An option whose help ends with the recipe key that it stands for."""
    return typer.Option(
        *names,
        help=f"{text} [{key}]" if key else text,
        rich_help_panel=panel,
        show_default=False,
        **more,
    )


def quantity(read: Callable[[str], float]) -> Callable[[str | None], float | None]:
    """The callback of an option whose text a function of `kdcli.cli.quantities` reads."""

    def parse(text: str | None) -> float | None:
        try:
            return None if text is None else read(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return parse


# ---- the recipe ----------------------------------------------------------------------------------

RecipeFile = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or the name of a shipped one (kd recipes ls).",
        show_default=False,
        autocompletion=completion.recipes,
    ),
]
Data = Annotated[
    str | None,
    _option(
        "-d",
        "--data",
        key="data.name",
        text="The dataset.",
        metavar="NAME",
        autocompletion=completion.datasets,
    ),
]
Method = Annotated[
    str | None,
    _option(
        "-m",
        "--method",
        key="method.name",
        text="The method.",
        metavar="NAME",
        autocompletion=completion.methods,
    ),
]
Teacher = Annotated[
    list[str] | None,
    _option(
        "-t",
        "--teacher",
        key="teacher.checkpoint",
        text=(
            "A run directory, a model.safetensors, or a network with weights such as hf/FOLDER; "
            "once per teacher."
        ),
        metavar="CKPT",
        autocompletion=completion.runs,
    ),
]
TeacherClasses = Annotated[
    Path | None,
    _option(
        "--teacher-classes",
        key="teacher.classes",
        text="Which of the teacher's classes are which of the data's: JSON or CSV.",
        metavar="FILE",
    ),
]
Student = Annotated[
    str | None,
    _option(
        "--student",
        key="student.name",
        text="The network to distil into.",
        metavar="NAME",
        autocompletion=completion.models,
    ),
]
Model = Annotated[
    str | None,
    _option(
        "--model",
        key="model.name",
        text="The network to train.",
        metavar="NAME",
        autocompletion=completion.models,
    ),
]
Epochs = Annotated[
    int | None,
    _option("--epochs", key="train.epochs", text="Passes over the training set.", metavar="N"),
]
Seed = Annotated[
    int | None, _option("--seed", key="seed", text="Seed of every random draw.", metavar="N")
]
Name = Annotated[str | None, _option("--name", key="name", text="Name of the run.", metavar="TEXT")]
Sets = Annotated[
    list[str] | None,
    _option(
        "-s",
        "--set",
        text="Override any recipe key; the value is TOML, or else a string. Repeatable.",
        metavar="KEY=VALUE",
    ),
]

# ---- running -------------------------------------------------------------------------------------

Device = Annotated[
    str | None,
    _option(
        "--device",
        key="runtime.device",
        text="auto, cpu, cuda or cuda:INDEX.",
        panel=RUNNING,
        metavar="DEVICE",
    ),
]
Devices = Annotated[
    int | None,
    _option(
        "--devices",
        key="runtime.devices",
        text="CUDA devices, or CPU processes, that train together.",
        panel=RUNNING,
        metavar="N",
    ),
]
Precision = Annotated[
    str | None,
    _option(
        "--precision",
        key="runtime.precision",
        text="auto, fp32, bf16 or fp16.",
        panel=RUNNING,
        metavar="NAME",
    ),
]
Out = Annotated[
    Path | None,
    _option(
        "-o",
        "--out",
        text="Folder that runs go to; $KD_RUNS_DIR, else runs.",
        panel=RUNNING,
        metavar="DIR",
        file_okay=False,
    ),
]
KeepState = Annotated[
    bool,
    _option(
        "--keep-state",
        text="Keep the last state, from which kd resume RUN --epochs N trains longer.",
        panel=RUNNING,
    ),
]
DryRun = Annotated[
    bool, _option("--dry-run", text="Resolve, build, run one batch, stop.", panel=RUNNING)
]
Trust = Annotated[
    bool,
    _option(
        "--trust",
        text="Run Python files that a checkpoint, a run or somebody else's recipe names.",
        panel=RUNNING,
    ),
]
Fetch = Annotated[
    bool,
    _option(
        "--download",
        text=("Fetch what the recipe names of a hub and is not here: hf/ORG/NAME, timm's weights."),
        panel=RUNNING,
    ),
]
DataRoot = Annotated[
    Path | None,
    _option(
        "--data-dir",
        text="Folder of the datasets; $KD_DATA_DIR, else ~/.cache/kdcli/data.",
        panel=RUNNING,
        metavar="DIR",
    ),
]
EvalData = Annotated[
    str | None,
    _option(
        "-d",
        "--data",
        text="Measure on this dataset.",
        panel=RUNNING,
        metavar="NAME",
        autocompletion=completion.datasets,
    ),
]
DataSets = Annotated[
    list[str] | None,
    _option(
        "-s",
        "--set",
        text="Set a key of the data to measure on: data.path=FILE. Repeatable.",
        panel=RUNNING,
        metavar="data.KEY=VALUE",
    ),
]
EvalDevice = Annotated[
    str, _option("--device", text="auto, cpu, cuda or cuda:INDEX.", panel=RUNNING, metavar="DEVICE")
]
SaveLogits = Annotated[
    Path | None,
    _option(
        "--save-logits",
        text="Write logits and targets to this .safetensors file.",
        panel=RUNNING,
        metavar="FILE",
    ),
]
Split = Annotated[
    str,
    typer.Option("--split", help="test, val or train.", metavar="SPLIT", rich_help_panel=RUNNING),
]

# ---- gates ---------------------------------------------------------------------------------------

MinAccuracy = Annotated[
    float | None,
    _option(
        "--min-accuracy",
        key="gates.min_accuracy",
        text="Least test accuracy, a fraction.",
        panel=GATES,
        metavar="X",
    ),
]
MinBalancedAccuracy = Annotated[
    float | None,
    _option(
        "--min-balanced-accuracy",
        key="gates.min_balanced_accuracy",
        text="Least mean of the classes' accuracies.",
        panel=GATES,
        metavar="X",
    ),
]
MinMacroF1 = Annotated[
    float | None,
    _option(
        "--min-macro-f1",
        key="gates.min_macro_f1",
        text="Least mean of the classes' F1.",
        panel=GATES,
        metavar="X",
    ),
]
MinAgreement = Annotated[
    float | None,
    _option(
        "--min-agreement",
        key="gates.min_agreement",
        text="Least share of test images answered as by the teacher.",
        panel=GATES,
        metavar="X",
    ),
]
MaxEntropyGap = Annotated[
    float | None,
    _option(
        "--max-entropy-gap",
        key="gates.max_entropy_gap",
        text="Largest S(student) - S(teacher), nats.",
        panel=GATES,
        metavar="X",
    ),
]
MaxFreeEnergyGap = Annotated[
    float | None,
    _option(
        "--max-free-energy-gap",
        key="gates.max_free_energy_gap",
        text="Largest F(teacher) - F(student).",
        panel=GATES,
        metavar="X",
    ),
]
MaxEce = Annotated[
    float | None,
    _option(
        "--max-ece",
        key="gates.max_ece",
        text="Largest expected calibration error.",
        panel=GATES,
        metavar="X",
    ),
]

MaxPerplexity = Annotated[
    float | None,
    _option(
        "--max-perplexity",
        key="gates.max_perplexity",
        text="Largest perplexity, of text.",
        panel=GATES,
        metavar="X",
    ),
]
MinClassAccuracy = Annotated[
    float | None,
    _option(
        "--min-class-accuracy",
        key="gates.min_class_accuracy",
        text="Least accuracy of every class.",
        panel=GATES,
        metavar="X",
    ),
]
Within = Annotated[
    float | None,
    _option(
        "--within",
        key="gates.within",
        text="Most points of accuracy below the teacher, in percent.",
        panel=GATES,
        metavar="POINTS",
    ),
]
NotBelow = Annotated[
    str | None,
    _option(
        "--not-below",
        key="gates.not_below",
        text="At least as accurate as that run, such as the last release.",
        panel=GATES,
        metavar="RUN",
        autocompletion=completion.runs,
    ),
]
MaxLatency = Annotated[
    str | None,
    _option(
        "--max-latency",
        key="gates.max_latency_ms",
        text="Longest time of one image: 5ms, or a number of milliseconds.",
        panel=GATES,
        metavar="TIME",
        callback=quantity(quantities.milliseconds),
    ),
]
MaxParameters = Annotated[
    str | None,
    _option(
        "--max-parameters",
        key="gates.max_parameters",
        text="Most parameters: 200k, 1.5M, or a number.",
        panel=GATES,
        metavar="N",
        callback=quantity(quantities.amount),
    ),
]
Confident = Annotated[
    bool | None,
    _option(
        "--confident",
        key="gates.confident",
        text="Gates on accuracy and latency are held against their intervals.",
        panel=GATES,
    ),
]

# options that are aliases of recipe keys, by parameter: what it is, and the key
FLAGS: Mapping[str, tuple[Any, str]] = {
    "teacher": (Teacher, "teacher.checkpoint"),
    "teacher_classes": (TeacherClasses, "teacher.classes"),
    "method": (Method, "method.name"),
    "student": (Student, "student.name"),
    "model": (Model, "model.name"),
    "data": (Data, "data.name"),
    "epochs": (Epochs, "train.epochs"),
    "seed": (Seed, "seed"),
    "name": (Name, "name"),
    "device": (Device, "runtime.device"),
    "devices": (Devices, "runtime.devices"),
    "precision": (Precision, "runtime.precision"),
    "min_accuracy": (MinAccuracy, "gates.min_accuracy"),
    "min_balanced_accuracy": (MinBalancedAccuracy, "gates.min_balanced_accuracy"),
    "min_macro_f1": (MinMacroF1, "gates.min_macro_f1"),
    "min_agreement": (MinAgreement, "gates.min_agreement"),
    "max_entropy_gap": (MaxEntropyGap, "gates.max_entropy_gap"),
    "max_free_energy_gap": (MaxFreeEnergyGap, "gates.max_free_energy_gap"),
    "max_ece": (MaxEce, "gates.max_ece"),
    "max_perplexity": (MaxPerplexity, "gates.max_perplexity"),
    "min_class_accuracy": (MinClassAccuracy, "gates.min_class_accuracy"),
    "within": (Within, "gates.within"),
    "not_below": (NotBelow, "gates.not_below"),
    "max_latency": (MaxLatency, "gates.max_latency_ms"),
    "max_parameters": (MaxParameters, "gates.max_parameters"),
    "confident": (Confident, "gates.confident"),
}

# what every training run has, and the thresholds of one under a teacher
COMMON = ("epochs", "seed", "name", "device", "devices", "precision")
LABEL_GATES = (
    "min_accuracy",
    "min_balanced_accuracy",
    "min_macro_f1",
    "min_class_accuracy",
    "max_ece",
    "max_perplexity",
    "not_below",
    "max_latency",
    "max_parameters",
    "confident",
)
GATE_FLAGS = (*LABEL_GATES, "min_agreement", "within", "max_entropy_gap", "max_free_energy_gap")


def takes(*names: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Gives a command the options of FLAGS by these names; it gets them as `**flags`."""

    def mark(function: Callable[..., T]) -> Callable[..., T]:
        function.flags = {name: FLAGS[name][0] for name in names}  # type: ignore[attr-defined]
        return function

    return mark


def overrides(flags: Mapping[str, Any]) -> list[Flag]:
    """The flags that were given, as overrides of recipe keys."""
    from kdcli.recipe.resolve import Flag

    return [
        Flag(f"--{name.replace('_', '-')}", FLAGS[name][1], value)
        for name, value in flags.items()
        if value is not None and value != []
    ]
