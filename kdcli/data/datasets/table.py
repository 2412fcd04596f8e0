"""A table of pictures: a row each, with a path (or the picture itself), a label and perhaps a part.

Paths start from the table's folder. A column that says train, val or test sorts the rows; without
one a test part is drawn with test_fraction. In a parquet table a picture may be the bytes of an
image file, or a struct of bytes and path, as Hugging Face's datasets writes it. Columns are found
by their usual names (image or path, label or class, split), and what was taken is printed.

Pictures are read as those of image-folder are, as they are needed.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from kdcli.core.options import PictureOptions
from kdcli.data.arranged import Arranged, TestShare
from kdcli.data.packed import Packed
from kdcli.data.picture_files import checked, examined, image_folder
from kdcli.data.picture_rows import (
    Rows,
    arrange_rows,
    choose_columns,
    said_of_columns,
    words_of_rows,
)
from kdcli.data.source import ImageArrays, ImageFolder
from kdcli.errors import BadData, NotFound
from kdcli.results.data_report import DataReport
from kdcli.surroundings import at_home

DATASETS: dict[str, dict[str, Any]] = {
    "csv": {
        "summary": "your own table of paths and labels, as text",
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
    "parquet": {
        "summary": "your own table of paths or pictures, with labels (kdcli[data])",
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
    """[data] of csv and parquet."""

    path: str = Field(description="The table. Paths in it start from its folder.")
    image: str | None = Field(
        None, description="Column of the pictures; found by its name (image, path) unless given."
    )
    label: str | None = Field(
        None, description="Column of the labels; found by its name (label, class) unless given."
    )
    split: str | None = Field(
        None,
        description=(
            "Column that says train, val or test; one called split or part, if there is any, "
            "unless given."
        ),
    )


_DELIMITERS = ",;\t|"
_LONGEST = 1 << 16  # characters of the first line that are looked at


def load(name: str, *, options: Options, root: Path) -> ImageArrays | ImageFolder:  # noqa: ARG001  all families share this signature
    """The pictures of the table at `options.path`, checked as kdcli.data.picture_files.checked
    says.

    Raises:
        NotFound: no such table, or no part to test on. UsageError: a test part is to be drawn, and
            there is one; pyarrow is not installed. BadData: a column, a label or a picture is not
            there, or a file cannot be read.
    """
    folder, found = _folder(name, options)
    check = f"kd check --data -s data.name={name} -s data.path={options.path}"
    return checked(folder, found, options, check)


def examine(options: Options, name: str) -> DataReport:
    """Decodes every picture of a table, and tells all that is wrong.

    Raises:
        KdError: the table is not there, or there is nothing to train on.
    """
    folder, found = _folder(name, options)
    return examined(folder, found, name, options.path)


def _folder(name: str, options: Options) -> tuple[ImageFolder, Arranged]:
    path = at_home(options.path)
    if not path.is_file():
        raise NotFound(f"no such file: {path}", hint=f"set data.path to a table ({name})")
    asked = {"image": options.image, "label": options.label, "split": options.split}
    bare = options.class_names is not None
    rows, packed = (
        _parquet(path, asked, may_lack_labels=bare)
        if name == "parquet"
        else (_csv(path, asked, may_lack_labels=bare), Packed())
    )
    words = words_of_rows(path)
    share = TestShare(options.test_fraction, options.test_seed)
    found = arrange_rows(rows, path, share, words, options.class_names)
    return image_folder(path.parent, found, options, packed), found


def _parquet(
    path: Path, asked: Mapping[str, str | None], *, may_lack_labels: bool
) -> tuple[Rows, Packed]:
    from kdcli.data.arrow import TableFile, read_tables

    return read_tables([TableFile(path, path.name)], asked, may_lack_labels=may_lack_labels)


def _csv(path: Path, asked: Mapping[str, str | None], *, may_lack_labels: bool) -> Rows:
    """The rows of a text table, whose first line names the columns."""
    names, labels, parts, places = [], [], [], []
    reader: Any = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            first = handle.readline(_LONGEST)
            handle.seek(0)
            # counted, not sniffed: a path may hold any of them
            delimiter = max(_DELIMITERS, key=first.count)
            reader = csv.reader(handle, delimiter=delimiter, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            chosen = choose_columns(header, asked, path, may_lack_labels=may_lack_labels)
            at = {key: header.index(column) for key, column in chosen.items()}
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue  # an empty line
                where = f"line {reader.line_num}"
                if len(cells) <= max(at.values()) or not cells[at["image"]].strip():
                    raise BadData(
                        f"{path}, {where}: no {_lacking(cells, chosen, at)}",
                        hint="mend the line, or remove it",
                    )
                names.append(cells[at["image"]].strip())
                labels.append(cells[at["label"]].strip() or None if "label" in at else None)
                parts.append(cells[at["split"]] if "split" in at else "")
                places.append(where)
    except (UnicodeDecodeError, csv.Error) as error:
        line = f", line {reader.line_num}" if reader is not None else ""
        raise BadData(
            f"{path}{line} cannot be read as a table of text: {error}",
            hint="save it as CSV, in UTF-8",
        ) from error
    except OSError as error:
        raise BadData(
            f"{path} cannot be read: {error.strerror}", hint="give another file"
        ) from error
    told = parts if "split" in at else None
    return Rows(names, labels, told, places, said=(said_of_columns(chosen),))


def _lacking(cells: list[str], chosen: Mapping[str, str], at: Mapping[str, int]) -> str:
    """The column that a line has no cell of."""
    missing = [key for key in chosen if at[key] >= len(cells)]
    return repr(chosen[missing[0] if missing else "image"])
