"""Your own pictures, or ImageNet: train/CLASS/*.jpg and test/CLASS/*.jpg (or val/).

The folder named test is what accuracy is reported on; where there is none, val is (ImageNet's
labelled half is called so). Files are decoded as they are needed, or once at the start with
resident = true, which suits small pictures. Pixels are normalised with ImageNet's mean and std
unless told otherwise: to measure them here would mean to read everything first.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from kdcli.core.options import Options as _Options
from kdcli.data.decode import decode, fit
from kdcli.data.source import ImageArrays, ImageFolder
from kdcli.errors import BadData, NotFound

DATASETS: dict[str, dict[str, Any]] = {
    "image-folder": {
        "summary": "your own folders of image files, one a class",
        "classes": None,
        "shape": None,
        "train": None,
        "test": None,
        "megabytes": None,
        "download": False,
        "augment": {},
    },
}

_LARGE = 128  # from here on pictures are photographs that are cropped; smaller ones are taken whole


class Options(_Options):
    """[data] of image-folder."""

    path: str = Field(
        description="Folder that holds train/ and test/ (or val/), each with one folder a class."
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
        100_000_000,
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

    Raises:
        NotFound: the folder, its train/ or its test/ and val/ are not there.
        BadData: a class is empty, train and test differ in classes, or (if resident) a file cannot
            be decoded.
    """
    top = Path(options.path).expanduser()
    train, test = _parts(top)
    names = _class_names(train)
    if (other := _class_names(test)) != names:
        odd = sorted(set(names) ^ set(other))
        raise BadData(
            f"{train} and {test} differ in classes: {odd[0]!r} is in one of them only",
            hint="give both the same class folders",
        )
    paths_train, y_train = _files(top, train, names)
    paths_test, y_test = _files(top, test, names)
    folder = ImageFolder(
        root=top,
        train=paths_train,
        y_train=y_train,
        test=paths_test,
        y_test=y_test,
        class_names=names,
        size=options.size,
        resize=_resize(options),
        mean=options.mean,
        std=options.std,
        max_pixels=options.max_pixels,
    )
    return resident(folder) if options.resident else folder


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
    )


def _resize(options: Options) -> int:
    if options.resize is not None:
        return max(options.resize, options.size)
    return round(options.size * 256 / 224) if options.size >= _LARGE else options.size


def _parts(top: Path) -> tuple[Path, Path]:
    train = top / "train"
    test = next((top / part for part in ("test", "val") if (top / part).is_dir()), None)
    if not train.is_dir() or test is None:
        what = "train/" if not train.is_dir() else "test/ or val/"
        raise NotFound(
            f"{top} has no folder {what}",
            hint="set data.path to a folder that holds train/CLASS/ and test/CLASS/",
        )
    return train, test


def _class_names(part: Path) -> tuple[str, ...]:
    names = tuple(
        sorted(
            entry.name
            for entry in part.iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )
    )
    if len(names) < 2:
        raise BadData(
            f"{part} holds {len(names)} class folders",
            hint="put the files of each class into a folder of its own, two at least",
        )
    return names


def _files(top: Path, part: Path, names: tuple[str, ...]) -> tuple[tuple[str, ...], Tensor]:
    """Paths below `top` and labels [n] of one part, classes in order of their names, files in order
    of theirs.
    """
    classes = {name: label for label, name in enumerate(names)}
    found = make_dataset(str(part), classes, extensions=IMG_EXTENSIONS, allow_empty=True)
    labels = torch.tensor([label for _, label in found], dtype=torch.int64)
    for name, count in zip(
        names, torch.bincount(labels, minlength=len(names)).tolist(), strict=True
    ):
        if not count:
            raise BadData(
                f"{part / name} holds no image file",
                hint=f"kd reads {' '.join(IMG_EXTENSIONS)}; remove the folder or fill it",
            )
    return tuple(path.removeprefix(f"{top}/") for path, _ in found), labels


def _decoded(folder: ImageFolder, paths: tuple[str, ...]) -> Tensor:
    with ThreadPoolExecutor() as pool:  # decoders leave Python's lock
        return torch.stack(list(pool.map(lambda path: fit(folder, decode(folder, path)), paths)))
