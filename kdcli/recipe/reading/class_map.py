"""A class map in a file: which classes of a teacher make up each class of the data."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from kdcli.errors import BadData, UsageError
from kdcli.files import MAX_JSON_BYTES, parse_json, read_bytes

_HINT = (
    'JSON: {"dog": ["Airedale", 193], "cat": "tabby"}; or CSV with the columns class and teacher, '
    "a row for each class of the teacher"
)
_COLUMNS = ("class", "teacher")


def read_class_map(path: Path) -> dict[str, list[str | int]]:
    """The map of a .json or .csv file: by class of the data, the teacher's by name or number.

    Raises:
        NotFound: no such file. BadData: it holds no such map.
    """
    if path.suffix.lower() not in {".json", ".csv"}:
        raise UsageError(f"{path} is neither .json nor .csv", hint=_HINT)
    try:
        text = read_bytes(path, MAX_JSON_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"{path} is not text", hint=_HINT) from error
    return _from_csv(path, text) if path.suffix.lower() == ".csv" else _from_json(path, text)


def _from_json(path: Path, text: str) -> dict[str, list[str | int]]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise BadData(f"{path} is not JSON: {error}", hint=_HINT) from error
    if not isinstance(content, dict):
        raise BadData(f"{path} holds no classes by name", hint=_HINT)
    found = {name: value if isinstance(value, list) else [value] for name, value in content.items()}
    for name, items in found.items():
        wrong = [item for item in items if not _is_class(item)]
        if wrong:
            raise BadData(
                f"{path}: {name!r} has something that is no class: {str(wrong[0])[:60]}",
                hint=_HINT,
            )
    return found


def _is_class(item: Any) -> bool:
    return isinstance(item, str) or (type(item) is int and item >= 0)


def _from_csv(path: Path, text: str) -> dict[str, list[str | int]]:
    found: dict[str, list[str | int]] = {}
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise BadData(f"{path} is not CSV: {error}", hint=_HINT) from error
    head = tuple(name.strip().lower() for name in rows[0]) if rows else ()
    if not set(_COLUMNS) <= set(head):
        raise BadData(
            f"{path} has no columns {' and '.join(_COLUMNS)} in its first row", hint=_HINT
        )
    places = [head.index(name) for name in _COLUMNS]
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(head):
            raise BadData(
                f"{path}:{number} has {len(row)} values, and the first row {len(head)}",
                hint="a name with a comma stands in quotes",
            )
        name, item = (row[place].strip() for place in places)
        if not name or not item:
            raise BadData(f"{path}:{number} leaves a class empty", hint=_HINT)
        digits = item.isascii() and item.isdecimal() and len(item) < 10
        found.setdefault(name, []).append(int(item) if digits else item)
    return found
