"""Tar shards of pictures and labels, as WebDataset writes them: 00042.jpg beside 00042.cls.

data.path is a folder of shards, or a pattern: photos/train-{000..007}.tar, photos/train-*.tar. What
is tested on and held out has patterns of its own (data.test, data.val); in a folder, shards say it
by their names or folders (train-000.tar, val/000.tar); else test_fraction draws a part. Labels are
.cls files (a name or a number), else the key "label" of .json, else .txt.

Each shard is looked through once, then every picture is read by itself, as those of image-folder
are: shuffled over all shards, whoever reads, and gone on with in the middle of an epoch.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from kdcli.core.options import PictureOptions
from kdcli.data.arranged import Arranged, TestShare
from kdcli.data.packed import Packed, Range
from kdcli.data.picture_files import checked, examined, image_folder
from kdcli.data.picture_rows import Rows, arrange_rows, part_of, words_of_rows
from kdcli.data.shards import find_shards, look_through, ranges_of
from kdcli.data.source import ImageArrays, ImageFolder
from kdcli.errors import BadData
from kdcli.results.data_report import DataReport
from kdcli.surroundings import at_home

DATASETS: dict[str, dict[str, Any]] = {
    "webdataset": {
        "summary": "your own tar shards of pictures and labels",
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
    """[data] of webdataset."""

    path: str = Field(description="Folder of .tar shards, or a pattern: d/train-{000..007}.tar.")
    test: str | None = Field(None, description="Pattern of the shards that are tested on.")
    val: str | None = Field(None, description="Pattern of the shards that are held out.")
    image: str | None = Field(
        None, description="How members end that are pictures: jpg; in any usual way unless given."
    )
    label: str | None = Field(
        None,
        description=(
            "How members end that hold labels, or KEY.json for a key of a .json; .cls, label.json "
            "or .txt unless given."
        ),
    )


def load(name: str, *, options: Options, root: Path) -> ImageArrays | ImageFolder:  # noqa: ARG001  all families share this signature
    """The pictures of the shards, checked as kdcli.data.picture_files.checked says.

    Raises:
        NotFound: no shards, or no part to test on. UsageError: a test part is to be drawn, and
            there is one. BadData: a shard was cut off, a label is missing, or a picture cannot be
            read.
    """
    folder, found = _folder(options)
    check = f"kd check --data -s data.name=webdataset -s 'data.path={options.path}'"
    return checked(folder, found, options, check)


def examine(options: Options, name: str = "webdataset") -> DataReport:
    """Decodes every picture of the shards, and tells all that is wrong.

    Raises:
        KdError: the shards are not there, or there is nothing to train on.
    """
    folder, found = _folder(options)
    return examined(folder, found, name, options.path)


def _folder(options: Options) -> tuple[ImageFolder, Arranged]:
    place = at_home(options.path)
    shards = _shards(options)
    root = Path(os.path.commonpath([path.parent for path, _ in shards]))
    names: list[str] = []
    labels: list[str | None] = []
    parts: list[str] = []
    ranges: dict[str, Range] = {}
    bare = 0
    for number, (path, part) in enumerate(shards):
        shard = look_through(path, options.image, options.label)
        found = dict(ranges_of(shard, number, str(path.relative_to(root))))
        ranges |= found
        names += found
        labels += shard.labels
        parts += [part] * len(found)
        bare += shard.bare
    if not names:
        ending = options.image or "jpg, png, ..."
        raise BadData(
            f"the {len(shards)} shards at {place} hold no picture ({ending})",
            hint="say how their pictures' names end: -s data.image=ENDING",
        )
    told = any(parts)
    rows = Rows(names, labels, parts if told else None, names)
    arranged = arrange_rows(
        rows,
        place,
        TestShare(options.test_fraction, options.test_seed),
        words_of_rows(place, "name shards to test on: data.test"),
        options.class_names,
    )
    count = f"{len(shards)} shards" if len(shards) > 1 else "1 shard"
    notes = [f"{count} of {len(names):,} pictures"]
    if bare:
        notes.append(f"samples without a picture, which are left out: {bare:,}")
    arranged = replace(arranged, notes=(*notes, *arranged.notes))
    packed = Packed.of([path for path, _ in shards], ranges)
    return image_folder(root, arranged, options, packed), arranged


def _shards(options: Options) -> list[tuple[Path, str]]:
    """All shards, each with its part, "" where nothing says it."""
    first = find_shards(options.path)
    named = {
        part: find_shards(pattern)
        for part, pattern in (("val", options.val), ("test", options.test))
        if pattern is not None
    }
    if not named:
        said = [(path, _said(path, at_home(options.path))) for path in first]
        return said if any(part for _, part in said) else [(path, "") for path in first]
    elsewhere = {path.resolve() for paths in named.values() for path in paths}
    train = [(path, "train") for path in first if path.resolve() not in elsewhere]
    return [*train, *((path, part) for part, paths in named.items() for path in paths)]


def _said(path: Path, top: Path) -> str:
    """The part that a shard's folder below `top`, or its name, says; "" where neither does."""
    folders = path.relative_to(top).parts[:-1] if path.is_relative_to(top) else ()
    begin = path.name.partition(".")[0]
    words = (*folders, begin, begin.partition("-")[0], begin.partition("_")[0])
    return next((word for word in words if part_of(word)), "")
