"""Your own pictures, or ImageNet: train/CLASS/*.jpg, and val/ and test/ likewise.

The folder named test is what accuracy is reported on, and val is held out of training; where there
is no test, val takes its place (ImageNet's labelled half is called so). Folders of classes without
such parts are split with test_fraction. `kd check --data FOLDER` opens every file and lists all
that is wrong.

Files are decoded as they are needed, or once at the start with resident = true, which suits small
pictures. unlabelled names a folder of pictures without labels that join the training part; then
train/ may be missing. Pixels are normalised with ImageNet's mean and std unless told otherwise: to
measure them here would mean to read everything first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from kdcli.core.options import Options as _Options
from kdcli.core.types import UNLABELLED
from kdcli.data.decode import decode, fit, look
from kdcli.data.folder_files import Arranged, Classes, arrange
from kdcli.data.picture import SUFFIXES, Kind
from kdcli.data.source import REPLACE, ImageArrays, ImageFolder
from kdcli.errors import BadData, KdError, NotFound
from kdcli.results.data_report import DataProblem, DataReport
from kdcli.results.preprocessing import shorter_side
from kdcli.surroundings import at_home

T = TypeVar("T")

DATASETS: dict[str, dict[str, Any]] = {
    "image-folder": {
        "summary": "your own folders of image files, one a class",
        "classes": None,
        "shape": None,
        "train": None,
        "test": None,
        "megabytes": None,
        "download": False,
        "val": True,
        "augment": {},
    },
}

_AT_ONCE = 4096  # files


class Options(_Options):
    """[data] of image-folder."""

    path: str = Field(
        description=(
            "Folder that holds train/, test/ and val/ (or one of these two), each with one folder "
            "a class; or the class folders."
        )
    )
    unlabelled: str | None = Field(
        None,
        description=(
            "Folder of pictures without labels, in it and below it, that are trained on as well: "
            "the teacher's answers are all that is known of them."
        ),
    )
    test_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of each class that is tested on, where there is no test/.",
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


def load(name: str, *, options: Options, root: Path) -> ImageArrays | ImageFolder:  # noqa: ARG001  all families share this signature
    """The files below `options.path`.

    Of files that are decoded as they are needed, the headers and ends of what is measured on, and
    of one file of each class in training, are read now: a file that is no picture, or was cut off,
    is found before training, but not one that is damaged in between.

    Raises:
        NotFound: the folder, its train/ or its test/ and val/ are not there.
        UsageError: a test part is to be drawn, and there is one.
        BadData: a class has no picture to train or to test on, or a file cannot be read.
    """
    folder, found = _folder(options)
    if stopping := [problem for problem in found.problems if problem.stops]:
        kind = NotFound if stopping[0].kind == "part" else BadData
        _refuse(
            [problem.message for problem in stopping], options.path, stopping[0].hint, kind=kind
        )
    said = [problem.message for problem in found.problems]
    labels = folder.y_train.tolist()
    first = dict(reversed(list(zip(labels, folder.train, strict=True))))
    held = folder.train[len(folder.train) - folder.held :]
    paths = (*folder.test, *held, *(first[label] for label in sorted(first)))
    kinds, bad = _sorted_out(_each(paths, lambda path: look(folder, path)))
    if bad:
        _refuse([error.message for error in bad.values()], options.path, REPLACE)
    folder = replace(folder, notes=(*found.notes, *said, *_reading(kinds)))
    return resident(folder) if options.resident else folder


def examine(options: Options) -> DataReport:
    """Decodes every file below `options.path`, and tells all that is wrong.

    Raises:
        KdError: the folder is not there, or there is nothing to train on.
    """
    folder, found = _folder(options)
    problems = list(found.problems)
    untested = any(problem.kind == "part" for problem in problems)
    paths = folder.train if untested else (*folder.train, *folder.test)
    kinds, bad = _sorted_out(_each(paths, lambda path: _decodable(folder, path)))
    problems += [
        DataProblem("file", error.message, REPLACE, file=str(folder.root / path))
        for path, error in bad.items()
    ]
    if small := _small(folder, kinds):
        problems.append(small)
    return DataReport(
        "image-folder",
        str(folder.root),
        len(folder.class_names),
        len(folder.train) - folder.held,
        folder.held,
        0 if untested else len(folder.test),
        tuple(problems),
        (*found.notes, *_reading(kinds)),
        found.skipped,
        found.unread,
    )


def _folder(options: Options) -> tuple[ImageFolder, Arranged]:
    top = at_home(options.path)
    apart = None if options.unlabelled is None else at_home(options.unlabelled)
    found = arrange(top, SUFFIXES, options.test_fraction, apart)
    numbers = {name: label for label, name in enumerate(found.class_names)}
    train, y_train = _files(found.train, numbers)
    train += found.unlabelled
    y_train = torch.cat([y_train, torch.full((len(found.unlabelled),), UNLABELLED)])
    held, y_held = _files(found.val or {}, numbers)
    test, y_test = _files(found.test, numbers)
    folder = ImageFolder(
        root=top,
        train=train + held,
        y_train=torch.cat([y_train, y_held]),
        test=test,
        y_test=y_test,
        class_names=found.class_names,
        size=options.size,
        resize=shorter_side(options.size, options.resize),
        mean=options.mean,
        std=options.std,
        max_pixels=options.max_pixels,
        background=options.background,
        held=len(held),
    )
    return folder, found


def _files(classes: Classes, numbers: dict[str, int]) -> tuple[tuple[str, ...], Tensor]:
    """Paths and labels [n] of one part, classes in order of their numbers."""
    paths = tuple(path for name in numbers for path in classes.get(name, ()))
    counts = torch.tensor([len(classes.get(name, ())) for name in numbers])
    return paths, torch.repeat_interleave(torch.arange(len(numbers)), counts)


def _refuse(problems: Sequence[str], path: str, hint: str, kind: type[KdError] = BadData) -> None:
    more = len(problems) - 1
    others = f" (and {more} more: kd check --data {path} lists all)" if more else ""
    raise kind(f"{problems[0]}{others}", hint=hint)


def _each(paths: Sequence[str], work: Callable[[str], T]) -> Iterator[tuple[str, T | BadData]]:
    """What some work makes of each file, or why it cannot: side by side, as decoders leave Python's
    lock.
    """

    def one(path: str) -> tuple[str, T | BadData]:
        try:
            return path, work(path)
        except BadData as error:
            return path, error

    with ThreadPoolExecutor() as pool:
        for at in range(0, len(paths), _AT_ONCE):  # in portions: an interruption is heard soon
            yield from pool.map(one, paths[at : at + _AT_ONCE])


def _sorted_out(
    results: Iterator[tuple[str, Kind | BadData]],
) -> tuple[dict[str, Kind], dict[str, BadData]]:
    kinds, bad = {}, {}
    for path, result in results:
        if isinstance(result, BadData):
            bad[path] = result
        else:
            kinds[path] = result
    return kinds, bad


def _decodable(folder: ImageFolder, path: str) -> Kind:
    """What the header of a file says whose pixels were decoded, too."""
    kind = look(folder, path)
    decode(folder, path)
    return kind


def _reading(kinds: dict[str, Kind]) -> Iterator[str]:
    """What is said once of how files are read."""
    for what, found in (
        ("16 bits a channel: the upper 8 are used", [p for p, kind in kinds.items() if kind.deep]),
        (
            "several frames or pages: the first is used",
            [p for p, kind in kinds.items() if kind.frames],
        ),
    ):
        if found:
            others = f" and {len(found) - 1} more" if len(found) > 1 else ""
            yield f"{found[0]}{others}: {what}"


def _small(folder: ImageFolder, kinds: dict[str, Kind]) -> DataProblem | None:
    """A word on pictures that have to be enlarged to the folder's size."""
    small = [path for path, kind in kinds.items() if kind.short < folder.size]
    if not small:
        return None
    least = min(small, key=lambda path: kinds[path].short)
    return DataProblem(
        "size",
        f"pictures that are smaller than {folder.size} pixels and are enlarged: {len(small)} of "
        f"{len(kinds)}; the smallest is {least}, {kinds[least].short} on its shorter side",
        f"set data.size to {max(kinds[least].short, 8)}"
        if len(small) == len(kinds)
        else "remove them, or set data.size to what most pictures have",
        stops=False,
        file=str(folder.root / least),
    )


def resident(folder: ImageFolder) -> ImageArrays:
    """The same pictures decoded and kept, each at the folder's size.

    Raises:
        BadData: a file cannot be decoded.
    """
    return ImageArrays(
        x_train=_decoded(folder, folder.train),
        y_train=folder.y_train,
        x_test=_decoded(folder, folder.test),
        y_test=folder.y_test,
        class_names=folder.class_names,
        mean=folder.mean,
        std=folder.std,
        train=folder.train,
        test=folder.test,
        held=folder.held,
        notes=folder.notes,
    )


def _decoded(folder: ImageFolder, paths: tuple[str, ...]) -> Tensor:
    with ThreadPoolExecutor() as pool:  # decoders leave Python's lock
        return torch.stack(list(pool.map(lambda path: fit(folder, decode(folder, path)), paths)))
