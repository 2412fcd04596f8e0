"""Tables of pictures in Apache's formats: parquet, and the arrow files of Hugging Face's datasets.
pyarrow reads them, and is imported here alone.

A picture is a path, or the content of an image file as bytes, or a struct of both. Bytes in arrow
files lie there as they are. Those in parquet files are compressed many at a time: the first reading
writes them one after another into a file of the cache, out of which each can be had by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.data.packed import Packed, Range
from kdcli.data.picture_rows import Rows, choose_columns, label_of, said_of_columns
from kdcli.errors import BadData, UsageError
from kdcli.files import parse_json, sha256_json, write_atomic
from kdcli.surroundings import cache_root

_ROWS = 256  # of a file whose pictures are in memory at a time

Picture = str | Range | None  # a path, or a range of one of the larger files, or none


@dataclass(frozen=True, slots=True)
class TableFile:
    """A file of a table. name: what it is called in messages and in the pictures' names. part: that
    of all its rows, where the layout says it.
    """

    path: Path
    name: str
    part: str | None = None


def pyarrow() -> Any:
    """The package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "tables of this format need the package pyarrow, which is not installed",
            hint="pip install 'kdcli[data]'",
        ) from error
    return pa


def read_tables(
    files: Sequence[TableFile], asked: Mapping[str, str | None], *, may_lack_labels: bool = False
) -> tuple[Rows, Packed]:
    """The rows of one table, in one file or more, and its pictures that are bytes.

    Args:
        asked, may_lack_labels: as for choose_columns; without "split" where the files say the
            parts.

    Raises:
        UsageError: pyarrow is not installed. BadData: a file cannot be read, lacks a column, or a
            column holds something else.
    """
    arrow = pyarrow()
    names: list[str] = []
    labels: list[str | None] = []
    parts: list[str] = []
    places: list[str] = []
    ranges: dict[str, Range] = {}
    larger: list[Path] = []
    order: tuple[str, ...] | None = None
    chosen: dict[str, str] = {}
    for file in files:
        with _naming(arrow, file.path):
            table = _opened(arrow, file.path)
            kinds = _features(table.schema, file.path)
            chosen = choose_columns(
                table.schema.names,
                asked,
                file.path,
                _likely(kinds),
                may_lack_labels=may_lack_labels,
            )
            named = _class_names(kinds.get(chosen.get("label", "")), file.path)
            if order is not None and named != order:
                raise BadData(
                    f"{file.path} has other classes than the files before it",
                    hint="write all parts with the same class names",
                )
            order = named
            pictures, holder = _pictures(arrow, table, chosen["image"], file.path)
            labels += _labels(table, chosen.get("label"), order, len(pictures), file.path)
            if "split" in chosen:
                parts += [
                    "" if cell is None else str(cell) for cell in table.values(chosen["split"])
                ]
            else:
                parts += [file.part or ""] * len(pictures)
        for row, picture in enumerate(pictures):
            name = picture if isinstance(picture, str) else f"{file.name}#{row}"
            names.append(name)
            places.append(f"row {row} of {file.name}" if len(files) > 1 else f"row {row}")
            if picture is None:
                raise BadData(f"{file.path}: row {row} has no picture", hint="remove the row")
            if not isinstance(picture, str):
                _, offset, size = picture
                ranges[name] = (len(larger), offset, size)
        larger.append(holder)
    told = "split" in chosen or any(file.part for file in files)
    rows = Rows(names, labels, parts if told else None, places, order, (said_of_columns(chosen),))
    return rows, Packed.of(larger, ranges)


def _labels(
    table: Any, column: str | None, order: Sequence[str] | None, count: int, path: Path
) -> list[str | None]:
    """The label of each of so many rows, None where there is none."""
    if column is None:
        return [None] * count
    return [
        label_of(cell, order, f"{path}: row {row}", column)
        for row, cell in enumerate(table.values(column))
    ]


@contextmanager
def _naming(arrow: Any, path: Path) -> Iterator[None]:
    """Whatever pyarrow raises, as one sentence that begins with the file."""
    try:
        yield
    except (arrow.ArrowException, OSError, ValueError, KeyError) as error:
        first_line, _, _ = str(error).partition("\n")
        raise BadData(
            f"{path} cannot be read as a table, or was cut off ({first_line[:200]})",
            hint="write it again, or give the right file",
        ) from error


# ---- files ---------------------------------------------------------------------------------------


class _Parquet:
    """A parquet file, column by column."""

    def __init__(self, arrow: Any, path: Path) -> None:
        self._arrow = arrow
        self.file = arrow.parquet.ParquetFile(path)
        self.schema = self.file.schema_arrow

    def column(self, name: str) -> Any:
        """A column without its bytes, whole."""
        field = self.schema.field(name)
        wanted = f"{name}.path" if self._arrow.types.is_struct(field.type) else name
        return self.file.read(columns=[wanted]).column(0)

    def values(self, name: str) -> list[Any]:
        found: list[Any] = self.column(name).to_pylist()
        return found

    def contents(self, name: str) -> Iterator[Any]:
        """The bytes of a column, portion by portion."""
        for batch in self.file.iter_batches(_ROWS, columns=[name]):
            yield from _bytes_in(self._arrow, batch.column(0)).to_pylist()


class _ArrowFile:
    """An arrow file, as a stream or with a footer, mapped into memory."""

    def __init__(self, arrow: Any, path: Path) -> None:
        self._arrow = arrow
        self.whole = arrow.memory_map(str(path)).read_buffer()
        with path.open("rb") as handle:
            footer = handle.read(6) == b"ARROW1"
        opened = (arrow.ipc.open_file if footer else arrow.ipc.open_stream)(self.whole)
        self.table = opened.read_all()
        self.schema = self.table.schema

    def column(self, name: str) -> Any:
        return self.table.column(name)

    def values(self, name: str) -> list[Any]:
        found: list[Any] = self.table.column(name).to_pylist()
        return found

    def contents(self, name: str) -> Iterator[Any]:
        for chunk in self.table.column(name).chunks:
            yield from _bytes_in(self._arrow, chunk).to_pylist()

    def ranges(self, name: str) -> list[tuple[int, int]] | None:
        """Offset and size in the file of each cell's bytes; None where they do not lie in it as
        they are.
        """
        found: list[tuple[int, int]] = []
        for chunk in self.table.column(name).chunks:
            cells = _bytes_in(self._arrow, chunk)
            _, offsets, content = cells.buffers()
            kind = np.int64 if self._arrow.types.is_large_binary(cells.type) else np.int32
            bounds = np.frombuffer(offsets, kind)[cells.offset : cells.offset + len(cells) + 1]
            start = 0 if content is None else content.address - self.whole.address
            if not 0 <= start <= self.whole.size:
                return None
            starts = bounds[:-1].astype(np.int64) + start
            found += zip(starts.tolist(), np.diff(bounds).tolist(), strict=True)
        return found


_Table = _Parquet | _ArrowFile


def _opened(arrow: Any, path: Path) -> _Table:
    with path.open("rb") as handle:
        parquet = handle.read(4) == b"PAR1"
    return (_Parquet if parquet or path.suffix == ".parquet" else _ArrowFile)(arrow, path)


# ---- pictures ------------------------------------------------------------------------------------


def _pictures(arrow: Any, table: _Table, name: str, path: Path) -> tuple[list[Picture], Path]:
    """The picture of each row, and the file that its ranges are of (of number 0)."""
    kind, types = table.schema.field(name).type, arrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return table.values(name), path
    inner = {field.name: field.type for field in kind} if types.is_struct(kind) else {"bytes": kind}
    if "bytes" not in inner or not _is_bytes(arrow, inner["bytes"]):
        raise BadData(
            f"{path}: column {name!r} holds {str(kind)[:80]}, which are no pictures",
            hint="a picture is a path, the bytes of an image file, or a struct of bytes and path",
        )
    at, holder = (table.ranges(name) if isinstance(table, _ArrowFile) else None), path
    if at is None:
        holder, sizes = _cached(table, name, path)
        ends = np.cumsum(sizes)
        at = list(zip((ends - sizes).tolist(), sizes.tolist(), strict=True))
    paths: list[str | None] = [None] * len(at)
    if "path" in inner and not all(size for _, size in at):
        paths = [cell and cell.get("path") for cell in table.column(name).to_pylist()]
    return [
        (0, offset, size) if size else given
        for (offset, size), given in zip(at, paths, strict=True)
    ], holder


def _is_bytes(arrow: Any, kind: Any) -> bool:
    return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


def _bytes_in(arrow: Any, cells: Any) -> Any:
    """The bytes of some cells, which hold them or are structs that do."""
    if not arrow.types.is_struct(cells.type):
        return cells
    return cells.field(cells.type.get_field_index("bytes"))


def _cached(table: _Table, name: str, path: Path) -> tuple[Path, NDArray[np.int64]]:
    """A file of the cache with the bytes of a column one after another, and their sizes [n]; made
    unless it is there.

    Raises:
        DiskFull, NotWritable: there is no place for it.
    """
    status = path.stat()
    key = {
        "path": str(path.resolve()),
        "size": status.st_size,
        "changed": status.st_mtime_ns,
        "column": name,
    }
    holder = cache_root() / "pictures" / f"{sha256_json(key)[:32]}.bin"
    sizes_file = holder.with_suffix(".npy")
    known = _known_sizes(holder, sizes_file)
    if known is not None:
        return holder, known
    sizes: list[int] = []
    write_atomic(holder, lambda temporary: _write(temporary, table.contents(name), sizes))
    found = np.array(sizes, dtype=np.int64)
    write_atomic(sizes_file, lambda temporary: _save(temporary, found))
    return holder, found


def _write(file: Path, contents: Iterable[Any], sizes: list[int]) -> None:
    with file.open("wb") as handle:
        sizes += [0 if content is None else handle.write(content) for content in contents]


def _save(file: Path, sizes: NDArray[np.int64]) -> None:
    with file.open("wb") as handle:
        np.save(handle, sizes, allow_pickle=False)


def _known_sizes(holder: Path, sizes_file: Path) -> NDArray[np.int64] | None:
    """What an earlier reading has written; None where it is not there, or not whole."""
    try:
        with sizes_file.open("rb") as handle:
            sizes: NDArray[np.int64] = np.load(handle, allow_pickle=False)
        whole = sizes.dtype == np.int64 and sizes.ndim == 1 and not (sizes < 0).any()
        return sizes if whole and holder.stat().st_size == int(sizes.sum()) else None
    except (OSError, ValueError, EOFError):
        return None


# ---- what a table says of itself -----------------------------------------------------------------


def _features(schema: Any, path: Path) -> dict[str, dict[str, Any]]:
    """What Hugging Face's datasets wrote of the columns, by name; nothing where another program
    wrote the table.
    """
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        found = parse_json(text)
    except ValueError as error:
        raise BadData(
            f"{path}: what it says of its columns is damaged", hint="write it again"
        ) from error
    for key in ("info", "features"):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        return {}
    return {str(name): kind for name, kind in found.items() if isinstance(kind, dict)}


def _likely(kinds: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """The only column of a kind, by what it is for."""
    found = {}
    for key, kind in (("image", "Image"), ("label", "ClassLabel")):
        of_kind = [name for name, feature in kinds.items() if feature.get("_type") == kind]
        if len(of_kind) == 1:
            found[key] = of_kind[0]
    return found


def _class_names(kind: dict[str, Any] | None, path: Path) -> tuple[str, ...] | None:
    if kind is None or kind.get("_type") != "ClassLabel":
        return None
    names = kind.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    if len(set(names)) < len(names):
        raise BadData(f"{path} names a class twice", hint="write it with a name a class")
    return tuple(names)
