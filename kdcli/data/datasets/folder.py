"""Your own pictures, or ImageNet: train/CLASS/*.jpg, and val/ and test/ likewise.

The folder named test is what accuracy is reported on, and val is held out of training; where there
is no test, val takes its place (ImageNet's labelled half is called so). Folders of classes without
such parts are split with test_fraction. `kd check --data FOLDER` opens every file and lists all
that is wrong.

Files are decoded as they are needed, or once at the start with resident = true, which suits small
pictures. unlabelled names a folder of pictures without labels that join the training part; then
train/ may be missing. A part that holds pictures and no class folders has no labels either, and
where none has any, the classes are those of the teacher, or of class_names.

Pixels are normalised with ImageNet's mean and std unless told otherwise: to measure them here would
mean to read everything first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from kdcli.core.options import PictureOptions
from kdcli.data.arranged import Arranged, TestShare
from kdcli.data.folder_files import arrange
from kdcli.data.picture import SUFFIXES
from kdcli.data.picture_files import checked, examined, image_folder
from kdcli.data.source import ImageArrays, ImageFolder
from kdcli.results.data_report import DataReport
from kdcli.surroundings import at_home

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
        "pictures": True,
        "augment": {},
    },
}


class Options(PictureOptions):
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


def load(name: str, *, options: Options, root: Path) -> ImageArrays | ImageFolder:  # noqa: ARG001  all families share this signature
    """The files below `options.path`, checked as kdcli.data.picture_files.checked says.

    Raises:
        NotFound: the folder, its train/ or its test/ and val/ are not there.
        UsageError: a test part is to be drawn, and there is one.
        BadData: a class has no picture to train or to test on, or a file cannot be read.
    """
    folder, found = _folder(options)
    return checked(folder, found, options, f"kd check --data {options.path}")


def examine(options: Options, name: str = "image-folder") -> DataReport:
    """Decodes every file below `options.path`, and tells all that is wrong.

    Raises:
        KdError: the folder is not there, or there is nothing to train on.
    """
    folder, found = _folder(options)
    return examined(folder, found, name, str(folder.root))


def _folder(options: Options) -> tuple[ImageFolder, Arranged]:
    top = at_home(options.path)
    apart = None if options.unlabelled is None else at_home(options.unlabelled)
    share = TestShare(options.test_fraction, options.test_seed)
    found = arrange(top, SUFFIXES, share, apart, options.class_names)
    return image_folder(top, found, options), found
