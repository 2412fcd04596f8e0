"""The base of every options class. Apart from the methods' base, because options are read without
importing torch.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Options(BaseModel):
    """Options of one method, model family or dataset family: frozen, and unknown keys are errors.

    A subclass is executed alone by `kdcli.catalog`, so its body may use pydantic, typing, literals
    and the bases of this file, nothing else of its module. Field descriptions become the lines of
    `kd methods NAME`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class FeatureOptions(Options):
    """What every method on features shares: the weights of the terms that stand beside its own."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")
    kd_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of Hinton's term on the logits beside the method's own; 0: none.",
    )
    temperature: float = Field(4.0, gt=0, description="Softmax temperature tau of that term.")


class ChainOptions(Options):
    """What the methods share that train a chain of networks, each from larger ones: teacher,
    assistants, student.
    """

    assistants: tuple[str, ...] = Field(
        (),
        description=(
            "Networks between teacher and student, from large to small; the zoo's nearest to "
            "their geometric mean unless given."
        ),
    )
    assistant_epochs: int | None = Field(
        None, ge=1, description="Epochs for each assistant; as many as the student's unless given."
    )
    temperature: float = Field(
        4.0, gt=0, description="Softmax temperature tau of both sides, in every link."
    )
    weight: float = Field(0.9, ge=0, description="Weight of the distillation term, in every link.")
    ce_weight: float | None = Field(
        None, ge=0, description="Weight of the cross-entropy; 1 - weight, at least 0, unless given."
    )


class PeerOptions(Options):
    """What the methods share that train networks beside the student, all from one another."""

    peers: tuple[str, ...] = Field(
        ("student",),
        min_length=1,
        description='Networks that learn beside the student; "student": a copy of it.',
    )


def _gigabytes(value: Any) -> Any:
    """Refuses true, which pydantic would take for one."""
    if isinstance(value, bool):
        problem = "is how many GB of disk decoded pictures may take, not true or false"
        context = {"key": "", "problem": problem, "hint": "data.cache_pixels = 20, for example"}
        raise PydanticCustomError("rule", "{problem}", context)
    return value


class PictureOptions(Options):
    """What all data of image files share, however these are stored: where they are, and what a
    network sees of a picture.
    """

    path: str
    test_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of each class that is tested on, where there is no test part.",
    )
    test_seed: int | None = Field(
        None, ge=0, description="Which share that is: each number draws another one."
    )
    class_names: tuple[str, ...] | None = Field(
        None,
        min_length=2,
        description=(
            "Names of the classes in their order, where no picture has a label, or not every class "
            "has one: those of the teacher. The labels' own unless given, and the teacher's where "
            "there is no label."
        ),
    )
    background: tuple[
        Annotated[int, Field(ge=0, le=255)],
        Annotated[int, Field(ge=0, le=255)],
        Annotated[int, Field(ge=0, le=255)],
    ] = Field(
        (255, 255, 255),
        description="What shows through transparent pictures: red, green, blue, 0 to 255.",
    )
    size: int = Field(224, ge=8, le=1024, description="Width and height that the network sees.")
    resize: int | None = Field(
        None,
        ge=8,
        le=2048,
        description=(
            "Shorter side before the middle is cut out; size * 256/224, below 128 the size itself."
        ),
    )
    resident: bool = Field(
        default=False,
        description="Decode all files once and keep them in memory: for small pictures.",
    )
    shrink: int | None = Field(
        None,
        ge=8,
        le=4096,
        description=(
            "Shorter side that pictures are brought to first when they are trained on, JPEG files "
            "as they are decoded, which is faster; whole unless given. What is measured on is read "
            "whole."
        ),
    )
    cache_pixels: Annotated[float, Field(gt=0), BeforeValidator(_gigabytes)] | None = Field(
        None,
        description=(
            "GB of disk that decoded pictures may take: they are kept there, and decoded once for "
            "all runs. Not kept unless given. It changes no pixel."
        ),
    )
    max_pixels: int = Field(
        100_000_000,  # kdcli.data.picture's own; options are read without its code
        ge=1,
        description="Refuse a picture of more pixels than this, before it is decoded.",
    )
    mean: tuple[float, float, float] = Field(
        (0.485, 0.456, 0.406), description="Mean of each channel, of pixels in [0, 1]."
    )
    std: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ] = Field((0.229, 0.224, 0.225), description="Standard deviation of each channel.")
