"""A Hugging Face dataset of pictures on disk: what save_to_disk wrote, or a folder of its parquet
files.

`dataset.save_to_disk("photos")` of a DatasetDict has its splits, train, validation and test; of a
Dataset it has none, and test_fraction draws one. Parquet files say their split by their folder or
by how their names begin: train-00000-of-00002.parquet. The classes and their order are those that
the dataset names. Nothing is fetched, and no code of a dataset runs.

Pictures are read as those of image-folder are, as they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from kdcli.core.options import PictureOptions
from kdcli.data.arranged import Arranged, TestShare
from kdcli.data.arrow import TableFile, read_tables
from kdcli.data.picture_files import checked, examined, image_folder
from kdcli.data.picture_rows import arrange_rows, part_of, words_of_rows
from kdcli.data.source import ImageArrays, ImageFolder
from kdcli.errors import BadData, NotFound
from kdcli.files import read_json
from kdcli.results.data_report import DataReport
from kdcli.surroundings import at_home

DATASETS: dict[str, dict[str, Any]] = {
    "huggingface": {
        "summary": "an image dataset of Hugging Face on disk (kdcli[data])",
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
    """[data] of huggingface."""

    path: str = Field(description="Folder that save_to_disk wrote, or one of parquet files.")
    image: str | None = Field(
        None, description="Column of the pictures; the only one of images unless given."
    )
    label: str | None = Field(
        None, description="Column of the labels; the only one of classes unless given."
    )


_HINT = "set data.path to what save_to_disk wrote, or to a folder of parquet files"


def load(name: str, *, options: Options, root: Path) -> ImageArrays | ImageFolder:  # noqa: ARG001  all families share this signature
    """The pictures below `options.path`, checked as kdcli.data.picture_files.checked says.

    Raises:
        NotFound: no such folder, no dataset in it, or no part to test on. UsageError: a test part
            is to be drawn, and there is one; pyarrow is not installed. BadData: a column, a label
            or a picture is not there, or a file cannot be read.
    """
    folder, found = _folder(options)
    check = f"kd check --data -s data.name=huggingface -s data.path={options.path}"
    return checked(folder, found, options, check)


def examine(options: Options, name: str = "huggingface") -> DataReport:
    """Decodes every picture of a dataset, and tells all that is wrong.

    Raises:
        KdError: the dataset is not there, or there is nothing to train on.
    """
    folder, found = _folder(options)
    return examined(folder, found, name, options.path)


def _folder(options: Options) -> tuple[ImageFolder, Arranged]:
    top = at_home(options.path)
    if not top.is_dir():
        raise NotFound(f"no such folder: {top}", hint=_HINT)
    files, left = _files(top)
    asked = {"image": options.image, "label": options.label}
    bare = options.class_names is not None
    rows, packed = read_tables(files, asked, may_lack_labels=bare)
    hint = "keep one as a split: dataset.train_test_split(0.2), then save_to_disk"
    words = words_of_rows(top, hint)
    share = TestShare(options.test_fraction, options.test_seed)
    found = arrange_rows(rows, top, share, words, options.class_names)
    folder = image_folder(top, found, options, packed)
    if left:
        note = f"splits that are not read: {', '.join(left[:6])}"
        found = replace(found, notes=(*found.notes, note))
    return folder, found


def _files(top: Path) -> tuple[list[TableFile], list[str]]:
    """The files of a dataset, each with its part, and the splits that are none of kd's."""
    if (top / "dataset_dict.json").is_file():
        names = read_json(top / "dataset_dict.json").get("splits")
        if not isinstance(names, list) or not all(_is_name(name) for name in names):
            raise BadData(f"{top / 'dataset_dict.json'} names no splits", hint="save it again")
        known = [name for name in names if part_of(name)]
        files = [file for name in known for file in _saved(top, top / name, name)]
        return files, [name for name in names if name not in known]
    if (top / "state.json").is_file():
        return list(_saved(top, top, None)), []
    parquet = sorted(top.rglob("*.parquet"))
    if not parquet:
        raise NotFound(f"{top} holds no dataset of Hugging Face", hint=_HINT)
    found = [(path, _split_of(path.relative_to(top))) for path in parquet]
    if not any(part_of(split) for _, split in found):
        return [TableFile(path, str(path.relative_to(top))) for path, _ in found], []
    files = [
        TableFile(path, str(path.relative_to(top)), split)
        for path, split in found
        if part_of(split)
    ]
    return files, sorted({split for _, split in found if not part_of(split)})


def _split_of(path: Path) -> str:
    """The split of a parquet file: a folder that it lies in, or what its name begins with."""
    for folder in path.parts[:-1]:
        if part_of(folder):
            return folder
    return path.name.partition(".")[0].partition("-")[0]


def _saved(top: Path, folder: Path, split: str | None) -> Iterator[TableFile]:
    """The arrow files of one dataset that save_to_disk wrote, in order."""
    state = read_json(folder / "state.json")
    entries = state.get("_data_files")
    names = [entry.get("filename") for entry in entries or () if isinstance(entry, dict)]
    if not names or not all(_is_name(name) for name in names):
        raise BadData(f"{folder / 'state.json'} names no files", hint="save it again")
    if state.get("_indices_data_files"):
        raise BadData(
            f"{folder} holds rows in an order of their own, as older datasets wrote it",
            hint="load it, and save it again with save_to_disk",
        )
    for name in names:
        path = folder / str(name)
        yield TableFile(path, str(path.relative_to(top)), split)


def _is_name(name: object) -> bool:
    """Whether a file's or folder's name stays in the folder that says it."""
    return isinstance(name, str) and name not in {"", ".", ".."} and Path(name).name == name
