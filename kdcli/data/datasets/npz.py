"""Pictures or vectors of your own in one NumPy file.

The file holds x_train, y_train, x_test, y_test and, if you like, classes, superclass, mean and std;
see kdcli.data.arrays for shapes and types. Python objects in it are refused, so a file from a
stranger cannot run code.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdcli.core.options import Options as _Options
from kdcli.data.arrays import from_arrays
from kdcli.data.source import ImageArrays
from kdcli.errors import BadData, NotFound
from kdcli.surroundings import at_home

DATASETS: dict[str, dict[str, Any]] = {
    "npz": {
        "summary": "your own arrays in one .npz file",
        "classes": None,
        "shape": None,
        "train": None,
        "test": None,
        "megabytes": None,
        "download": False,
        "augment": {},
    },
}


class Options(_Options):
    """[data] of npz."""

    path: str = Field(
        description="The .npz file: x_train, y_train, x_test, y_test and optionally classes."
    )


def load(name: str, *, options: Options, root: Path) -> ImageArrays:  # noqa: ARG001  all families share this signature
    """The arrays of `options.path`.

    Raises:
        NotFound: no such file.
        BadData: it cannot be used.
    """
    path = at_home(options.path)
    return from_arrays(read(path), origin=str(path))


def read(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file by name.

    Raises:
        NotFound: no such file.
        BadData: it is not an .npz file, is damaged, or holds Python objects.
    """
    if not path.is_file():
        raise NotFound(f"no such file: {path}", hint="set data.path to an .npz file")
    try:
        # opened here, because np.load leaves a file open that turns out to be damaged
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (
        ValueError
    ) as error:  # numpy's word for pickled content, both in an array and in place of the whole file
        raise BadData(
            f"{path} is not an .npz file, or holds Python objects, which kd never loads",
            hint="save plain arrays",
        ) from error
    except (OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadData(
            f"{path} is not an .npz file, or is damaged", hint="write it with numpy.savez"
        ) from error
