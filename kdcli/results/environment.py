"""Records of environment.json, as far as anything reads them back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class StoredChoice:
    """Whether the answers of one teacher are stored."""

    stored: Literal["auto", "exact", "off"]


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """The images of a run. train, val, test: how many; positions_sha256: of which ones of the
    training set, where some were left out.
    """

    fingerprint: str = "unknown"
    train: int | None = None
    val: int | None = None
    test: int | None = None
    positions_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """The state of the code that a run was made in."""

    commit: str
    dirty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a report says of the machine, the software and the images of a run."""

    data: TrainedOn = field(default_factory=TrainedOn)
    kdcli: str = "?"
    torch: str = "?"
    git: Commit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnvironment(Described):
    """What a run that goes on needs besides. folder: the one that it was started in, from which the
    paths in its recipe start.
    """

    kind: Literal["train-teacher", "distill"]
    recipe_sha256: str
    recipe: dict[str, Any] = field(default_factory=dict)
    folder: str = ""
    compile: Literal["on", "off"] = "off"
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    teacher_precision: Literal["fp32", "bf16", "fp16"] | None = None
    channels_last: bool | None = None
    threads: int | None = None
    teacher_images: int | None = None
    teacher_logits: tuple[StoredChoice, ...] = ()
