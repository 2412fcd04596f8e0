"""Where the files are that a checkpoint names: its data, and the Python files with its code.

A checkpoint holds names as they were typed, and the folder that they start from. So a run can be
used from any folder; and where its Python files are not any more, because the run was copied to
somebody else, their copies in RUN/code take their place. All of it is a stranger's word: which file
a name means is decided here, whether it runs is decided by kdcli.trust alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcli import trust
from kdcli.errors import CorruptFile
from kdcli.files import sha256_file

CODE_FOLDER = "code"
# of [data]: keys that hold paths, where they hold text
PATHS = ("path", "test", "val", "unlabelled")
LARGEST_CODE = 1 << 24  # bytes of a Python file
_PATTERN = re.compile(r"[*?\[{]")


def is_relative(text: object) -> bool:
    """Tells whether a name is a path that starts from a folder."""
    return isinstance(text, str) and not Path(text).is_absolute() and not text.startswith("~")


def start_folder(data: Mapping[str, Any], code: Mapping[str, Any]) -> str:
    """The working directory, where data or code are named by paths that start from it; else ""."""
    named = [*code, *(data.get(key) for key in PATHS)]
    return str(Path.cwd()) if any(is_relative(text) for text in named) else ""


def located(
    names: Mapping[str, Any], folder: str, code: Mapping[str, str], run: Path
) -> dict[str, Any]:
    """The fields of a header that name files, by field, so that they mean the same files from here.
    What is not there is left as it was typed.

    Args:
        names: the fields as they stand; "data" is the [data] section.
        folder, code: as in the header. run: the folder of the checkpoint's run.

    Raises:
        CorruptFile: the copy of a Python file is not the file that was copied.
    """
    away = bool(folder) and folder != str(Path.cwd())
    start = Path(folder) if away else Path()
    files = {
        file: _python(file, start, run, code.get(file)) for file in trust.files_in(dict(names))
    }
    data = dict(names["data"])
    for key in PATHS if away else ():
        text = data.get(key)
        if isinstance(text, str) and is_relative(text) and _is_there(start, text):
            data[key] = str(start / text)
    changed = {file: there for file, there in files.items() if file != there}
    known = {**names, "data": data}
    return {key: _renamed(value, changed) for key, value in known.items()} if changed else known


def _python(file: str, start: Path, run: Path, digest: str | None) -> str:
    """Where a Python file is: at its place, else its copy, else as typed."""
    place = start / file
    if place.is_file():
        return file if start == Path() else str(place)
    if digest is None:
        return file
    copies = sorted((run / CODE_FOLDER).glob("*.py"))
    for copy in copies:
        if copy.is_file() and copy.stat().st_size <= LARGEST_CODE and sha256_file(copy) == digest:
            return str(copy)
    if named := [copy for copy in copies if copy.name == Path(file).name]:
        raise CorruptFile(
            f"{named[0]} is not the file that the run was made with",
            hint="copy the run's folder again, from where it was made",
        )
    return file


def _is_there(start: Path, text: str) -> bool:
    """Whether a path is there; of a pattern, the folder that it begins with."""
    parts = Path(text).parts
    plain = next((n for n, part in enumerate(parts) if _PATTERN.search(part)), len(parts))
    return start.joinpath(*parts[:plain]).exists()


def _renamed(value: Any, files: Mapping[str, str]) -> Any:
    """A JSON-able value with the files that its texts name called otherwise."""
    if isinstance(value, Mapping):
        return {key: _renamed(item, files) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, files) for item in value]
    file = trust.python_file(value)
    if file is None or str(file) not in files:
        return value
    _, colon, function = str(value).partition(":")
    return f"{files[str(file)]}{colon}{function}"


# ---- the copies ----------------------------------------------------------------------------------


def copies_of(code: Mapping[str, bytes]) -> dict[str, bytes]:
    """The names of the copies in RUN/code, and what they hold: each file by its own name, and those
    of one name by numbers.
    """
    found: dict[str, bytes] = {}
    for file, content in code.items():
        if content in found.values():
            continue
        name, number = Path(file).name, 2
        while name in found:
            name, number = f"{Path(file).stem}-{number}.py", number + 1
        found[name] = content
    return found
