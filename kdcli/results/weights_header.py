"""The header of a model.safetensors: what makes a checkpoint explain itself. No torch.

A checkpoint names its architecture and arguments, the classes it predicts, how its input was
normalised, what it was trained on and how good it was; so `kd evaluate` needs no recipe, any
student is a valid teacher, and a teacher that does not fit the data is refused before torch is
imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kdcli.errors import CorruptFile, NotFound
from kdcli.files import (
    DAMAGED_WEIGHTS,
    finite,
    given_by_the_user,
    parse_json,
    safetensors_metadata,
    sha256_json,
)
from kdcli.results.measures import Measures
from kdcli.results.places import located
from kdcli.results.preprocessing import LARGEST_SIDE, Preprocessing
from kdcli.results.vocabulary import Vocabulary
from kdcli.typed import strict

FORMAT = 1
MODEL_FILE = "model.safetensors"
KEPT_FOLDER = "checkpoints"
_NAMING_FILES = ("architecture", "arguments", "method", "data")
CHECKSUM = "header_sha256"  # of all else in the header


@dataclass(frozen=True, slots=True)
class CheckpointHeader:
    """architecture: a name that `kd models` lists (or torchvision/NAME, file.py:factory,
    "composite"). arguments: its options.

    data: the resolved [data] section it was trained on; empty where that is not known. metrics: as
    in summary.json, without times, so that equal runs give equal files. method, method_options,
    seed, teachers, recipe_sha256: how it came to be. teacher_classes: by the checksum of a teacher
    of other classes, its classes of each class of this network. tensors_sha256: checksum of the
    weights.
    epochs: as many as the recipe asked for. epoch: epochs of training that the weights have had,
    where that is known (not where the best one was chosen).
    folded_temperature: what the weights and bias of the last layer were divided by after training,
    so that their softmax is a probability; None where they are as they were trained.
    continues: the run from whose last state its own went on.
    preprocessing: how a picture becomes what it takes; None in files of old, and where that is not
    known.
    vocabulary: how a text becomes tokens, of a network that sorts texts into classes.
    folder: what relative paths of data and Python files start from; "" where there are none. code:
    the SHA-256 of each Python file that it names, by its name as typed; copies lie in RUN/code.
    """

    architecture: str
    arguments: Mapping[str, Any]
    num_classes: int
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: Mapping[str, Any]
    data_fingerprint: str
    parameters: int
    method: str = "none"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    teachers: tuple[str, ...] = ()
    teacher_classes: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    recipe_sha256: str = ""
    epochs: int | None = None
    epoch: int | None = None
    folded_temperature: float | None = None
    continues: str = ""
    preprocessing: Preprocessing | None = None
    vocabulary: Vocabulary | None = None
    folder: str = ""
    code: Mapping[str, str] = field(default_factory=dict)
    tensors_sha256: str = ""
    created_by: str = ""

    def __post_init__(self) -> None:
        channels = self.input_shape[0]
        for problem, wrong in {
            "numbers must be 1 or more": min(self.num_classes, *self.input_shape) < 1,
            "one name is needed for each class": len(self.class_names) != self.num_classes,
            "mean and std are of other channels": {len(self.mean), len(self.std)} != {channels},
            "std must be above 0": not all(0 < value < math.inf for value in self.std),
            "mean must be finite": not all(map(math.isfinite, self.mean)),
            "its pictures are of another shape": self.preprocessing is not None
            and self.preprocessing.input_shape != self.input_shape,
            "its pictures cannot be resized so": self.preprocessing is not None
            and not all(
                0 < side <= max(LARGEST_SIDE, *self.input_shape)
                for side in self.preprocessing.sides
            ),
            "a class map needs classes for each class": not all(
                len(groups) == self.num_classes and all(map(len, groups))
                for groups in self.teacher_classes.values()
            ),
            "data must have a name": bool(self.data) and not isinstance(self.data.get("name"), str),
        }.items():
            if wrong:
                raise ValueError(problem)

    def to_metadata(self) -> dict[str, str]:
        """The string metadata that safetensors stores: the header, and its checksum."""
        content = {"format": FORMAT, **finite(asdict(self))}
        # one entry: safetensors writes several in no order, and equal runs give equal files
        return {"kd": json.dumps({**content, CHECKSUM: sha256_json(content)}, sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> CheckpointHeader:
        """Parses what `to_metadata` made. A header without a checksum, of a kd before there was
        one, is read: `is_unsigned` tells.

        Raises:
            CorruptFile: the file was not written by kd, or its header is damaged or of a newer
                format.
        """
        hint = "give a model.safetensors that kd wrote, or its run directory"
        if "kd" not in metadata:
            raise CorruptFile(
                f"{path} has no kd header: its architecture and classes are unknown",
                hint=f"kd import {path} --model NAME makes a checkpoint of another program's "
                "weights",
            )
        try:
            content = strict(dict[str, Any], parse_json(metadata["kd"]))
            signed = content.pop(CHECKSUM, None)
            if signed is not None and signed != sha256_json(content):
                raise CorruptFile(
                    f"{path} is damaged: its header does not match its checksum",
                    hint=DAMAGED_WEIGHTS,
                )
            if strict(int, content.pop("format", None)) > FORMAT:
                raise CorruptFile(f"{path} was written by a newer kd", hint="upgrade kd")
            found = strict(cls, content)
            if found.metrics:
                strict(Measures, found.metrics)
        except ValueError as error:
            raise CorruptFile(f"{path} has a damaged kd header: {error}", hint=hint) from error
        return found

    @property
    def measures(self) -> Measures | None:
        """The test measures that it carries; weights kept on the way carry none."""
        return strict(Measures, self.metrics) if self.metrics else None


def is_unsigned(path: Path) -> bool:
    """Tells whether a checkpoint's header has no checksum: damage to it could not be seen."""
    return f'"{CHECKSUM}"' not in safetensors_metadata(path).get("kd", "")


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a user means: a file, or the model.safetensors of a run directory.

    Raises:
        NotFound: neither is there; says what is.
    """
    given = Path(path)
    if given.is_file():
        return given
    if (given / MODEL_FILE).is_file():
        return given / MODEL_FILE
    if given.is_dir():
        state = (
            "the run is not finished: kd resume " + str(given)
            if (given / "state").is_dir()
            else "it is not a run directory"
        )
        raise NotFound(f"{given} holds no {MODEL_FILE}", hint=state)
    nearby = sorted(str(found.parent) for found in Path("runs").glob(f"*/{MODEL_FILE}"))[:8]
    raise NotFound(
        f"no checkpoint at {given}",
        hint=f"there are: {', '.join(nearby)}" if nearby else "train one: kd train-teacher",
    )


def kept_along(checkpoint: Path, epoch: int | None = None) -> tuple[Path, ...]:
    """The checkpoints that a run kept on the way to one of its own, earliest first, and that one
    last.

    Args:
        checkpoint: a file in a run directory or in its checkpoints folder.
        epoch: the epochs that it was trained for; what was kept from then on is left out.
    """
    folder = (
        checkpoint.parent
        if checkpoint.parent.name == KEPT_FOLDER
        else checkpoint.parent / KEPT_FOLDER
    )
    found = {
        int(path.stem.removeprefix("epoch-")): path
        for path in folder.glob("epoch-*.safetensors")
        if path.stem[6:].isdecimal()
    }
    earlier = [
        path
        for number, path in sorted(found.items())
        if (epoch is None or number < epoch) and path != checkpoint
    ]
    return (*earlier, checkpoint)


def read_header(path: str | Path) -> tuple[Path, CheckpointHeader]:
    """Finds the checkpoint that a user names and reads its header, without loading a tensor or
    importing torch. The files that it names are named as they are from here (kdcli.results.places).

    Raises:
        NotFound: nothing there. BadCheckpoint: truncated, not safetensors, or not ours.
    """
    found = find_checkpoint(path)
    with given_by_the_user():
        header = CheckpointHeader.from_metadata(safetensors_metadata(found), found)
        run = found.parent.parent if found.parent.name == KEPT_FOLDER else found.parent
        names = {key: getattr(header, key) for key in _NAMING_FILES}
        return found, replace(header, **located(names, header.folder, header.code, run))
