"""The sections of a recipe that are about its run: optimiser and schedule, runtime, gates and
report. See schema.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kdcli.recipe.base import Fraction, Positive, Section, rule


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
    max_entropy_gap: float | None = Field(
        None, description="Largest S(student) - S(teacher), nats, at temperature 1, on raw logits."
    )
    max_free_energy_gap: float | None = Field(
        None, description="Largest F(teacher) - F(student), at temperature 1, on raw logits."
    )
    max_ece: Fraction | None = Field(
        None, description="Largest expected calibration error, 15 bins."
    )


class ReportSection(Section):
    """[report]: what the report shows."""

    html: bool = Field(default=True, description="Write report.html with its plots.")
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
