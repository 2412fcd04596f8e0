"""The schema of recipes; every default lives here. No torch, no typer, no rich.

Two kinds of recipe share a base: train-teacher's names its network under [model], distill's under
[student] and [teacher]. Options that belong to one method, network family, dataset, optimiser or
schedule stand flat in its section and are checked by the branch that the section's `name` selects,
so that an error names the key and not the union.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from annotated_types import Le, Lt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from kdcli import catalog, tasks
from kdcli.errors import UsageError
from kdcli.results.preprocessing import Interpolation
from kdcli.static_options import UNREAD

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def rule(key: str, problem: str, hint: str | None = None) -> PydanticCustomError:
    """What a validator raises when several keys do not go together. key: the one to point at,
    relative to the section.
    """
    return PydanticCustomError(
        "rule", "{problem}", {"key": key, "problem": problem, **({"hint": hint} if hint else {})}
    )


# in a field's json_schema_extra: the value at which the key does nothing, as before there was one.
# With it the key is no part of a recipe's hash, so that finished runs are found again. A key that
# is None unless given needs no such mark.
NO_EFFECT = "no_effect"


LARGEST = 10**12  # a number that nothing in a recipe needs, and arithmetic still bears


def is_bounded(cls: type[BaseModel], key: str) -> bool:
    """Tells whether a key has an upper bound of its own."""
    field = cls.model_fields.get(key)
    return field is not None and any(isinstance(item, Lt | Le) for item in field.metadata)


class Section(BaseModel):
    """A table of a recipe: frozen, unknown keys are errors, NaN and infinity are not numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


# ---- how a run goes ------------------------------------------------------------------------------


class OptimSection(Section):
    """[optim] common to all optimisers."""

    name: str
    lr: Positive
    weight_decay: float = Field(ge=0)


class SgdSection(OptimSection):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = Field(0.05, description="Learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum.")
    nesterov: bool = Field(default=False, description="Nesterov's form of momentum.")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty on all parameters.")
    dot: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description=(
            "Distillation-oriented trainer: gradients of labels have a momentum that is lower by "
            "this, those of the distillation one that is higher by it, each a buffer of its own."
        ),
    )

    @model_validator(mode="after")
    def _two_momenta(self) -> Self:
        if self.dot is None:
            return self
        if self.nesterov:
            raise rule("dot", "dot and nesterov exclude each other: set one of them")
        if not self.dot <= self.momentum or not self.momentum + self.dot < 1:
            raise rule(
                "dot",
                f"momentum {self.momentum:g} less and plus {self.dot:g} must lie in 0 to 1, 1 left "
                "out",
                f"at most {min(self.momentum, 1 - self.momentum):.3g}; 0.075 at a momentum of 0.9",
            )
        return self


class AdamWSection(OptimSection):
    """Adam with decoupled weight decay; Adam where weight_decay is 0."""

    name: Literal["adamw"] = "adamw"
    lr: Positive = Field(1e-3, description="Learning rate.")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="Decay of the two moments."
    )
    eps: Positive = Field(1e-8, description="Added to the root of the second moment.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")


class ScheduleSection(Section):
    """[schedule] common to all schedules."""

    name: str
    warmup_epochs: float = Field(
        0.0, ge=0, description="Epochs over which the learning rate rises linearly from 0."
    )


class CosineSection(ScheduleSection):
    """Half a cosine from the learning rate to `floor` times it, step by step."""

    name: Literal["cosine"] = "cosine"
    floor: Fraction = Field(0.0, description="Share of the learning rate at the end.")
    epochs: int | None = Field(
        None, ge=1, description="Epochs that the curve takes; as many as the training unless given."
    )


class MultistepSection(ScheduleSection):
    """The learning rate is multiplied by `gamma` after each milestone."""

    name: Literal["multistep"] = "multistep"
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (150, 180, 210), description="Epochs after which the rate drops."
    )
    gamma: Positive = Field(0.1, description="Factor of each drop.")


class ConstantSection(ScheduleSection):
    """The same learning rate throughout."""

    name: Literal["constant"] = "constant"


class RuntimeSection(Section):
    """[runtime]: where and in what precision. Changes speed; must not change what is learnt beyond
    rounding.
    """

    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:INDEX."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Arithmetic of the networks; losses are always float32."
    )
    teacher_precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Arithmetic of teachers; as precision, unless both are automatic."
    )
    teacher_batch: int | None = Field(
        None,
        ge=1,
        description=(
            "Images that teachers answer at once, rounded down to whole minibatches; chosen "
            "unless given."
        ),
    )
    channels_last: Literal["auto", "on", "off"] = Field(
        "auto", description="Memory layout of images."
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description=(
            "Compile the networks with torch.compile: where training is long enough to repay it, "
            "always, or never."
        ),
    )
    graphs: Literal["auto", "on", "off"] = Field(
        "auto",
        description=(
            "Replay training steps from CUDA graphs, where a step can be; auto: never, until it "
            "is measured on a GPU."
        ),
    )
    workers: int = Field(
        0, ge=0, le=64, description="Processes that decode images, for streamed data."
    )
    decode: Literal["workers", "device"] = Field(
        "workers",
        description="What decodes the JPEG files of streamed data in training: worker "
        "processes, or the "
        "CUDA device, whose pixels may "
        "differ by a level or two. Whatever is measured is decoded by workers.",
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of all devices together; all cores unless given."
    )
    devices: int = Field(
        1,
        ge=1,
        le=1024,
        description=(
            "CUDA devices, or processes on a CPU, that train together, each on its part of every "
            "minibatch."
        ),
    )
    shard_teacher: bool = Field(
        default=False,
        description=(
            "Each device holds a part of the teacher's weights, for one that does not fit one "
            "device; its blocks are gathered while it answers."
        ),
    )

    @model_validator(mode="after")
    def _several_devices(self) -> Self:
        if self.devices > 1 and ":" in self.device:
            raise rule(
                "devices",
                f"{self.device} is one device, and {self.devices} are asked for",
                'runtime.device = "cuda"',
            )
        return self


class GatesSection(Section):
    """[gates]: what the result must meet; a miss is exit code 3."""

    min_accuracy: Fraction | None = Field(None, description="Least test accuracy, a fraction.")
    min_balanced_accuracy: Fraction | None = Field(
        None, description="Least mean of the classes' test accuracies, a fraction."
    )
    min_macro_f1: Fraction | None = Field(
        None, description="Least mean of the classes' F1 on the test split, a fraction."
    )
    max_entropy_gap: float | None = Field(
        None, description="Largest S(student) - S(teacher), nats, at temperature 1, on raw logits."
    )
    max_free_energy_gap: float | None = Field(
        None, description="Largest F(teacher) - F(student), at temperature 1, on raw logits."
    )
    max_ece: Fraction | None = Field(
        None, description="Largest expected calibration error, 15 bins."
    )
    min_class_accuracy: Fraction | None = Field(
        None, description="Least test accuracy on the images of every class, a fraction."
    )
    within: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Points of test accuracy, in percent, that it may be below its teacher.",
    )
    not_below: str | None = Field(
        None,
        description=(
            "A run or checkpoint, such as the last release, whose accuracy on the same images it "
            "must reach."
        ),
    )
    max_latency_ms: Positive | None = Field(
        None,
        description="Largest median time of one image, milliseconds, eager on this machine.",
    )
    max_parameters: Positive | None = Field(None, description="Largest number of parameters.")
    confident: bool = Field(
        default=False,
        description=(
            "Hold thresholds on accuracy and latency against the worse end of their intervals."
        ),
        json_schema_extra={NO_EFFECT: False},
    )
    max_perplexity: Positive | None = Field(None, description="Largest test perplexity, of text.")
    min_agreement: Fraction | None = Field(
        None,
        description=(
            "Least share of test images to which the student and its teacher give one class; it "
            "needs no labels."
        ),
    )


def _when(value: Any) -> Any:
    """Refuses what says neither whether nor when a page is drawn, in one sentence."""
    if isinstance(value, bool) or value == "later":
        return value
    raise rule("", 'must be true, false or "later"')


class ReportSection(Section):
    """[report]: what the report shows."""

    html: Annotated[bool | Literal["later"], BeforeValidator(_when)] = Field(
        default=True,
        description=(
            'Write report.html with its plots. "later": keep all that it shows, and leave drawing '
            "to kd report RUN, as the runs of a sweep do unless they say otherwise."
        ),
    )
    explain: bool = Field(
        default=True,
        description="Explain on report.html what the teacher has to teach and what makes the gap.",
    )
    reference: str | None = Field(
        None,
        description=(
            "A checkpoint, a run or a train-teacher recipe to measure the gap to, where the "
            "method has no teacher."
        ),
    )
    latency: bool = Field(
        default=True,
        description=(
            "Measure how long the result and its teacher take for 1 image and for 32, at the end."
        ),
    )
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (),
        description=(
            "Experiment trackers that are told of every epoch and of the result: tensorboard, "
            "wandb, mlflow. Offline, unless their own environment variables say otherwise."
        ),
    )
    pictures: int = Field(
        18,
        ge=0,
        le=64,
        description=(
            "Test pictures of each kind of mistake on report.html, with the answers to them. 0: "
            "none, where pictures must not leave their place."
        ),
    )
    forms: tuple[Literal["compiled", "onnx"], ...] = Field(
        (),
        description=(
            "With latency, other forms than eager PyTorch to time the networks in: compiled, "
            "onnx. Each takes seconds to make."
        ),
    )
    temperatures: tuple[Positive, ...] = Field(
        (1.0, 4.0), min_length=1, description="Temperatures of the gap section."
    )
    probe: int = Field(
        512,
        ge=0,
        description=(
            "Images, held out if any are, on which entropy, free energy, gaps and logit norms "
            "are followed from epoch to epoch. 0: none."
        ),
    )


OPTIMISERS: dict[str, type[OptimSection]] = {"sgd": SgdSection, "adamw": AdamWSection}
SCHEDULES: dict[str, type[ScheduleSection]] = {
    "cosine": CosineSection,
    "multistep": MultistepSection,
    "constant": ConstantSection,
}


# ---- data, networks, teachers, method ------------------------------------------------------------


def _name_or_number(value: Any) -> Any:
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int)
        or (isinstance(value, int) and value < 0)
    ):
        raise rule(
            "",
            (
                "must be a class's name in quotes, or its number from 0, got "
                f"{json.dumps(value, default=str)}"
            ),
        )
    return value


ClassKey = Annotated[str | int, BeforeValidator(_name_or_number)]


Amount = Annotated[float, Field(ge=0, le=2)]


class Augment(Section):
    """Random changes to training images. A section that is absent means the dataset's own usual
    ones.
    """

    crop: int = Field(
        0,
        ge=0,
        le=32,
        description="Pad each side by this many pixels, then crop back at random. 0: off.",
    )
    padding: Literal["zeros", "reflect"] = Field(
        "zeros", description="What the padding of `crop` holds."
    )
    flip: bool = Field(default=False, description="Mirror half of the images left to right.")
    resized_crop: bool = Field(
        default=False,
        description="Crop a random area and aspect ratio and resize it.",
    )
    scale: tuple[Positive, Positive] = Field(
        (0.08, 1.0), description="Range of the area that resized_crop takes."
    )
    ratio: tuple[Positive, Positive] = Field(
        (0.75, 4 / 3), description="Range of its aspect ratio."
    )
    color_jitter: tuple[Amount, Amount, Amount, Annotated[float, Field(ge=0, le=0.5)]] | None = (
        Field(
            None,
            description=(
                "How much brightness, contrast, saturation and hue change at most: "
                "[0.4, 0.4, 0.4, 0.1]."
            ),
        )
    )
    policy: Literal["rand-augment", "trivial-augment"] | None = Field(
        None, description="RandAugment or TrivialAugment: operations drawn for each image."
    )
    policy_ops: int = Field(
        2,
        ge=1,
        le=8,
        description="Operations that rand-augment does one after another.",
        json_schema_extra={NO_EFFECT: 2},
    )
    policy_magnitude: int = Field(
        9,
        ge=0,
        le=30,
        description="How strong those of rand-augment are.",
        json_schema_extra={NO_EFFECT: 9},
    )
    erasing: Fraction = Field(
        0.0,
        description="Share of the images in which a random rectangle is erased.",
        json_schema_extra={NO_EFFECT: 0.0},
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=4,
        description=(
            "Mix each image with another of its minibatch, by a share from Beta(mixup, mixup): 1 "
            "draws all shares alike. 0: off."
        ),
        json_schema_extra={NO_EFFECT: 0.0},
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=4,
        description=(
            "Put a rectangle of another image into each, likewise; with mixup too, a minibatch "
            "gets the one or the other."
        ),
        json_schema_extra={NO_EFFECT: 0.0},
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key in ("scale", "ratio"):
            low, high = getattr(self, key)
            if low > high:
                raise rule(key, f"the range ends ({high}) before it begins ({low})")
        if self.resized_crop and self.crop:
            raise rule("crop", "crop and resized_crop exclude each other: set one of them")
        return self


class Named(Section):
    """A section whose `name` selects a branch with options of its own."""

    KIND: ClassVar[catalog.Kind]
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the branch, by name."""
        own = self.own_keys() - self._left_to_the_file()
        return {key: value for key, value in self.model_dump().items() if key in own}

    def _left_to_the_file(self) -> frozenset[str]:
        """Options whose default only the user's own file knows, where none other is given."""
        return frozenset(
            key
            for key, field in type(self).model_fields.items()
            if isinstance(field.json_schema_extra, dict)
            and UNREAD in field.json_schema_extra
            and getattr(self, key) is None
        )

    @classmethod
    def common(cls) -> type[Named]:
        """The class with the keys that every such section has."""
        return next(
            base for base in cls.__mro__ if "KIND" in base.__dict__ and issubclass(base, Named)
        )

    @classmethod
    def own_keys(cls) -> frozenset[str]:
        """Names of the options that the branch adds to the keys that every such section has."""
        return frozenset(cls.model_fields) - frozenset(cls.common().model_fields)

    def __reduce__(self) -> tuple[Any, ...]:
        # a branch is made while kd runs: a process that unpickles one has to make it first
        return (
            _unfilled,
            (self.common(), None if type(self) is self.common() else self.name),
            self.__getstate__(),
        )


class DataSection(Named):
    """[data]: which images, which part of them, and how they vary."""

    KIND = "dataset"
    name: str = Field(
        "digits", description="A dataset's name (kd datasets) or path/to/file.py:function."
    )
    root: str | None = Field(
        None, description="Folder of the datasets; $KD_DATA_DIR, else ~/.cache/kdcli/data."
    )
    val_fraction: float = Field(
        0.0, ge=0, lt=1, description="Share of the training set held out for validation, by class."
    )
    train_limit: int | None = Field(
        None, ge=2, description="Train on this many samples, drawn by class; all unless given."
    )
    exclude_classes: tuple[ClassKey, ...] = Field(
        (),
        description=(
            "Classes without a training image, by name, or by number from 0 where none is called "
            "so; held-out part and test set keep them."
        ),
    )
    per_class: int | None = Field(
        None, ge=1, description="Train on this many images of each class; all unless given."
    )
    select: Literal["random", "entropy", "entropy-ascending", "stratified"] = Field(
        "random",
        description=(
            "Which per_class images: at random, or by the entropy of the teacher's soft labels: "
            "highest, lowest, evenly spread."
        ),
    )
    select_temperature: Positive = Field(9.0, description="Temperature of those soft labels.")
    augment: Augment | None = Field(
        None, description="Random changes to training images; the dataset's own unless given."
    )
    sampler: Literal["shuffle", "balanced"] = Field(
        "shuffle",
        description=(
            "Images of an epoch: each once, or as many in which every class comes equally often."
        ),
    )
    views: int | None = Field(
        None,
        ge=1,
        le=65536,
        description="Show each image in so many fixed views; in any unless given.",
    )
    eval_batch_size: int = Field(
        512,
        ge=1,
        description="Images a batch when nothing is trained; fewer of large ones, 83 of 224x224.",
    )

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.per_class is not None and self.train_limit is not None:
            raise rule(
                "per_class",
                "per_class and train_limit both say how many images to train on: set one of them",
            )
        if self.per_class is None and self.select != "random":
            raise rule(
                "select",
                "select says which per_class images stay, and per_class is not set",
                "data.per_class = 100, for example",
            )
        return self

    @property
    def ranked(self) -> bool:
        """Tells whether a teacher decides which images are trained on."""
        return self.select != "random"


# of [data]: what is taken away from training alone
RESTRICTIONS = (
    "exclude_classes",
    "per_class",
    "select",
    "select_temperature",
)


# of [data]: what a machine is asked for at most. A bound is whoever runs a recipe's own: no file
# carries it to others, and it changes no result
BOUNDS = ("max_gb", "max_pixels", "cache_pixels")


_TAP = re.compile(r"stem|stage[1-9][0-9]?|pooled")


def _tap_names(taps: dict[str, str] | None) -> dict[str, str] | None:
    for name in taps or ():
        if not _TAP.fullmatch(name):
            problem = f"no tap is called {name!r}"
            raise rule("", problem, "taps are stem, stage1, stage2, ... and pooled")
    return taps


# the modules of nn.Sequential are called 0, 1, 2: TOML and --set read numbers
ModulePath = Annotated[str, BeforeValidator(lambda path: str(path) if type(path) is int else path)]
Taps = Annotated[
    dict[str, ModulePath] | None,
    AfterValidator(_tap_names),
    Field(
        description=(
            "Modules by path that are its taps, for another library's network or your own: "
            '{ stage3 = "blocks.5" } (kd models NAME --taps lists them); its own taps unless given.'
        )
    ),
]


_SIZE = "Width and height of the pictures that it sees; {} unless given."
_RESIZE = (
    "Shorter side of a picture before their middle is cut out; in proportion to size unless given."
)
_INTERPOLATION = "How pictures are resized for it, always antialiased; {} unless given."
Statistics = Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]


class NetworkSection(Named):
    """[model] or [student]: which network."""

    KIND = "model"
    name: str = Field(
        description=(
            "A network's name (kd models), torchvision/NAME, timm/NAME, hf/FOLDER, or "
            "path/to/file.py:factory."
        )
    )
    init: str | None = Field(None, description="Checkpoint to start from instead of fresh weights.")
    taps: Taps = None
    size: int | None = Field(None, ge=4, le=2048, description=_SIZE.format("the data's"))
    resize: int | None = Field(None, ge=4, le=4096, description=_RESIZE)
    interpolation: Interpolation | None = Field(None, description=_INTERPOLATION.format("bilinear"))

    @property
    def options(self) -> dict[str, Any]:
        """What the network is built with: the keys of the branch, and the taps that were given."""
        return {**super().options, **({"taps": self.taps} if self.taps else {})}


def _one_or_several(value: Any) -> Any:
    """A class map with a list for each class, which may be given as one class."""
    if not isinstance(value, dict):
        return value
    several = (list, tuple)
    return {k: tuple(v) if isinstance(v, several) else (v,) for k, v in value.items()}


ClassMap = Annotated[
    dict[str, tuple[ClassKey, ...]] | str | None,
    BeforeValidator(_one_or_several, json_schema_input_type=dict[str, Any] | str | None),
    Field(
        description=(
            "Which of the teacher's classes make up each class of the data, by name or number: "
            '{ dog = ["Airedale", 193], cat = "tabby" }, or a JSON or CSV file of that. A class '
            "that is not there is the teacher's of the same name."
        )
    ),
]


TEACHER_SOURCES = ("checkpoint", "recipe", "name", "logits")


class TeacherSection(Section):
    """[teacher], or one of several [[teacher]]: exactly one of checkpoint, recipe, name and
    logits.
    """

    checkpoint: str | None = Field(None, description="A run directory or a model.safetensors.")
    recipe: str | None = Field(
        None, description="A train-teacher recipe: trained first unless a run with it exists."
    )
    name: str | None = Field(
        None,
        description=(
            "A network that comes with weights: torchvision/NAME, timm/NAME, hf/FOLDER, or "
            "file.py:factory, whose factory loads them."
        ),
    )
    weights: str | None = Field(
        None, description="Which weights of it, for example DEFAULT; a folder's own unless given."
    )
    logits: str | None = Field(
        None,
        description=(
            "A .safetensors, .npz or .parquet file of ready-made answers: logits or probabilities, "
            "by position or by file name."
        ),
    )
    taps: Taps = None
    size: int | None = Field(None, ge=4, le=2048, description=_SIZE.format("its own"))
    resize: int | None = Field(None, ge=4, le=4096, description=_RESIZE)
    interpolation: Interpolation | None = Field(None, description=_INTERPOLATION.format("its own"))
    mean: Statistics | None = Field(
        None,
        description="Mean of each channel, of pixels in [0, 1], in its pictures; its own unless "
        "given.",
    )
    std: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=3)] | None = Field(
        None, description="Standard deviation of each channel, likewise."
    )
    classes: ClassMap = None
    view: Literal["same", "fixed", "independent"] = Field(
        "same",
        description=(
            "What it sees of a training image: the view that the student sees, the image as it "
            "is, or another view."
        ),
        json_schema_extra={NO_EFFECT: "same"},
    )
    weight: Positive | None = Field(
        None, description="Share of this teacher among several; equal unless given."
    )
    epochs: int | None = Field(
        None,
        ge=1,
        description="Train its recipe for so many epochs instead: a teacher that stops early.",
    )
    schedule: Literal["scaled", "truncated"] | None = Field(
        None,
        description=(
            "The rates of that teacher: those of its recipe in proportion (scaled, unless "
            "given), or cut off (truncated)."
        ),
    )
    cache: Literal["auto", "exact", "off"] = Field(
        "auto",
        description=(
            "Look its logits up once they were computed, for methods that ask for nothing else: "
            "where it pays, always, or never."
        ),
    )
    cache_top: int | None = Field(
        None, ge=1, description="Store only so many of an image's largest logits; all unless given."
    )

    @property
    def class_map(self) -> Mapping[str, tuple[str | int, ...]] | None:
        """Its class map; a file has been read when the recipe was resolved."""
        assert not isinstance(self.classes, str)
        return self.classes

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in TEACHER_SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            raise rule(
                "",
                (
                    "give exactly one of checkpoint, recipe, name and logits, got "
                    f"{' and '.join(given) or 'none'}"
                ),
            )
        if self.logits is not None:
            for key, idle in (("taps", self.taps is None), ("cache", self.cache != "exact")):
                if not idle:
                    raise rule(key, "ready-made answers (logits) have no network that could answer")
        if self.weights is not None and self.name is None:
            raise rule("weights", "weights goes with name: a checkpoint or a recipe has its own")
        if self.epochs is not None and self.recipe is None:
            raise rule(
                "epochs",
                "epochs goes with recipe: a checkpoint has been trained",
                "one of its RUN/checkpoints, or recipe = FILE",
            )
        if self.schedule is not None and self.epochs is None:
            raise rule(
                "schedule",
                "schedule says how epochs shortens the teacher's training, and epochs is not given",
            )
        if self.cache_top is not None and self.cache == "off":
            raise rule(
                "cache_top",
                "cache_top says how much of the logits is stored, and cache is off: nothing is",
            )
        return self


class MethodSection(Named):
    """[method]: the method and its own options."""

    KIND = "method"
    name: str = Field("skd", description="A method's name (kd methods) or path/to/file.py.")


class TrainSection(Section):
    """[train]: how long, in what portions, and what is kept."""

    epochs: int = Field(30, ge=1, le=1_000_000, description="Passes over the training set.")
    continues: str | None = Field(
        None, description="Finished run whose last state this one starts from (kd resume --epochs)."
    )
    batch_size: int = Field(64, ge=1, description="Images an optimiser step takes at a time.")
    accumulate: int = Field(
        1, ge=1, description="Minibatches of batch_size whose gradients make one step."
    )
    clip_norm: Positive | None = Field(
        None, description="Largest gradient norm; larger ones are scaled down to it."
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Decay of an average of the weights, which is then the result."
    )
    average_after: int | None = Field(
        None,
        ge=1,
        le=1000,
        description=(
            "Once the held-out loss is above its least of all but the last so many epochs, average "
            "the weights of every step from there on; the average is the result (NT-ASGD)."
        ),
    )
    class_weights: Literal["none", "balanced"] | tuple[Positive, ...] = Field(
        "none",
        description=(
            "How much each class counts in the cross-entropy with labels: alike, in inverse "
            "proportion to its training images, or a number a class, in class order."
        ),
    )
    select: Literal["last", "best"] = Field(
        "last", description="Which epoch is the result; best is chosen on the held-out part."
    )
    calibrate: Literal["auto", "on", "off"] = Field(
        "auto",
        description=(
            "Divide the result's logits by a temperature fitted on the held-out part, and fold it "
            "into the last layer; auto: for methods whose loss leaves the scale of the logits "
            "free, where something is held out."
        ),
    )
    patience: int | None = Field(
        None,
        ge=1,
        description=(
            "Stop once so many epochs in a row have brought no better agreement with the teacher "
            "on the held-out part, or with labels where there is no teacher."
        ),
    )
    keep_best: bool = Field(
        default=False, description="Also keep the epoch with the best validation accuracy."
    )
    keep_every: int | None = Field(None, ge=1, description="Keep the weights every so many epochs.")
    state_seconds: Positive = Field(
        60.0, description="Save the state for `kd resume` at least this often."
    )


N = TypeVar("N", bound=Named)


class Recipe(Section):
    """What both kinds of recipe share. A run is a pure function of it."""

    KIND: ClassVar[Literal["train-teacher", "distill"]]
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of every random draw.")
    name: str | None = Field(
        None,
        pattern=r"^\.*[A-Za-z0-9_+-][A-Za-z0-9._+-]*$",
        description="Name of the run's folder; METHOD-STUDENT-DATA-N unless given.",
    )
    data: SerializeAsAny[DataSection] = Field(default_factory=DataSection)
    method: SerializeAsAny[MethodSection] = Field(default_factory=MethodSection)
    train: TrainSection = Field(default_factory=TrainSection)
    optim: SerializeAsAny[OptimSection] = Field(default_factory=SgdSection)
    schedule: SerializeAsAny[ScheduleSection] = Field(default_factory=CosineSection)
    runtime: RuntimeSection = Field(default_factory=RuntimeSection)
    gates: GatesSection = Field(default_factory=GatesSection)
    report: ReportSection = Field(default_factory=ReportSection)

    @model_validator(mode="after")
    def _selection_has_data(self) -> Self:
        waits = self.train.average_after is not None
        stops = self.train.patience is not None
        needed = self.chooses_an_epoch or self.train.calibrate == "on" or waits or stops
        if not needed or self.data.val_fraction:
            return self
        # a dataset that may bring a validation part is asked when it is opened
        if catalog.entry("dataset", self.data.name).facts.get("val"):
            return self
        if self.chooses_an_epoch:
            key = "train.select" if self.train.select == "best" else "train.keep_best"
            raise rule(key, "the best epoch is chosen on held-out data, and data.val_fraction is 0")
        if stops:
            raise rule(
                "train.patience",
                "training stops by the agreement on held-out data, and data.val_fraction is 0",
                "data.val_fraction = 0.1, for example",
            )
        if waits:
            raise rule(
                "train.average_after",
                "averaging begins by the loss on held-out data, and data.val_fraction is 0",
                "data.val_fraction = 0.1, for example",
            )
        raise rule(
            "train.calibrate",
            "a temperature is fitted on held-out data, and data.val_fraction is 0",
            "data.val_fraction = 0.1, for example",
        )

    @model_validator(mode="after")
    def _one_average(self) -> Self:
        if self.train.ema is not None and self.train.average_after is not None:
            raise rule(
                "train.average_after",
                "ema and average_after are two averages of the weights, and one is the result",
                "leave one of them out",
            )
        return self

    @model_validator(mode="after")
    def _of_one_task(self) -> Self:
        task = tasks.of_data(self.data.name)
        key, network = next(
            (key, getattr(self, key)) for key in ("student", "model") if hasattr(self, key)
        )
        if not tasks.serves(network.name, task):
            other = tasks.of_model(network.name)
            raise rule(
                f"{key}.name",
                f"{network.name} is a network for {other.name.replace('-', ' ')}, and "
                f"{self.data.name} is data for {task.name.replace('-', ' ')}",
                "kd models lists networks, kd datasets data",
            )
        for path, section in self._sections(key):
            for name, field in type(section).model_fields.items():
                reason = task.refuses.get(f"{path}.{name}") or (
                    task.refuses.get(name) if path in {key, "teacher"} else None
                )
                if reason and getattr(section, name) != field.get_default():
                    raise rule(f"{path}.{name}", reason, "leave it out")
        return self

    def _sections(self, network: str) -> list[tuple[str, Section]]:
        """The sections that a task may have a word on, by name."""
        own = ("data", "train", "runtime", "gates", network)
        return [
            *((name, getattr(self, name)) for name in own),
            *(("teacher", section) for section in getattr(self, "teacher", ())),
        ]

    @model_validator(mode="after")
    def _balanced_once(self) -> Self:
        if self.data.sampler == "balanced" and self.train.class_weights == "balanced":
            raise rule(
                "train.class_weights",
                "the balanced sampler shows every class equally often: balanced weights on top of "
                "it would count small classes twice",
                'one of them: data.sampler = "shuffle", or train.class_weights = "none"',
            )
        return self

    @property
    def chooses_an_epoch(self) -> bool:
        """Tells whether the best epoch is looked for, which takes held-out data."""
        return self.train.select == "best" or self.train.keep_best

    @model_validator(mode="after")
    def _a_part_for_each_device(self) -> Self:
        if self.runtime.devices > 1 and self.train.batch_size < 2 * self.runtime.devices:
            problem = (
                f"{self.runtime.devices} devices share a minibatch of {self.train.batch_size}: "
                "each needs two images or more"
            )
            raise rule("train.batch_size", problem)
        return self

    @model_validator(mode="after")
    def _ranking_has_a_teacher(self) -> Self:
        if self.data.ranked and not getattr(self, "teacher", ()) and self.report.reference is None:
            problem = (
                f"{self.data.select} ranks images by a teacher's soft labels, and there is no "
                "teacher"
            )
            hint = (
                "report.reference = RUN, where the method has no teacher of its own; or "
                'data.select = "random"'
            )
            raise rule("data.select", problem, hint)
        return self


class TrainTeacherRecipe(Recipe):
    """A recipe of `kd train-teacher`."""

    KIND = "train-teacher"
    model: SerializeAsAny[NetworkSection]
    method: SerializeAsAny[MethodSection] = Field(
        default_factory=lambda: MethodSection(name="none")
    )


class DistillRecipe(Recipe):
    """A recipe of `kd distill`."""

    KIND = "distill"
    student: SerializeAsAny[NetworkSection]
    teacher: tuple[TeacherSection, ...] = ()


def _unfilled(base: type[Named], name: str | None) -> Named:
    """What pickle fills in when it reads a section: of a branch, or of the class itself."""
    cls = base if name is None else branch(base, name)
    return cls.__new__(cls)


def branch(base: type[N], name: str) -> type[N]:
    """The section class for one name: `base` with the options of that method, network family or
    dataset added flat.

    Raises:
        NotFound: nothing of that name exists. UsageError: the file that a user named cannot be read
            as one.
    """
    return _branch(base, catalog.entry(base.KIND, name))


_BRANCHES: dict[tuple[type[Named], Any], type[Any]] = {}


def _branch(base: type[N], found: catalog.Entry) -> type[N]:
    # made once, so that two recipes with equal content are equal: pydantic compares classes too
    options = catalog.options_class(found)
    if (base, options) not in _BRANCHES:
        taken = sorted(frozenset(options.model_fields) & frozenset(base.model_fields))
        if taken:
            raise UsageError(
                f"{found.path}: the option {taken[0]!r} has the name of a key that every "
                f"{found.kind} has",
                hint="rename it",
            )
        # both are parents, so the validators of an options class go with its fields; in this order
        # the common keys come first
        bases = cast("tuple[type[N], ...]", (options, base))
        _BRANCHES[base, options] = create_model(
            f"{base.__name__}_{found.path.stem}", __base__=bases, __doc__=found.summary
        )
    return cast("type[N]", _BRANCHES[base, options])
