"""Files that are either whole or absent: atomic writes, checksums, and the header of a safetensors
file.

Standard library only: recipes and reports read these files too, and must not import torch to do so.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import stat
import struct
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from kdcli import clean
from kdcli.errors import BadCheckpoint, CorruptFile, DiskFull, KdError, NotFound, NotWritable

# bounds far above any real file: a header (a tensor takes some hundred bytes), JSON, a recipe
MAX_HEADER_BYTES = 4 * 2**20
MAX_JSON_BYTES = 256 * 2**20
MAX_RECIPE_BYTES = 2**18
MAX_DEPTH = 20  # of tables and lists in a recipe
_STRINGS = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''.*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'|#[^\n]*",
    re.DOTALL,
)
_DOTTED = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{MAX_DEPTH}}}")
_LARGEST = 2**63  # what a number of tensors, images or classes can never reach
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


# what to do about a file of a run that is not as kd wrote it
DAMAGED = "put the file back as it was, or make the run again"
# and about a checkpoint
DAMAGED_WEIGHTS = "copy it again, or train again"


def write_error(error: OSError, path: Path) -> KdError:
    """The error of a failed write: DiskFull, or NotWritable with the system's reason."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(
            f"the disk is full: could not write {path}",
            hint="free some space, or write to another place",
        )
    reason = error.strerror or str(error)
    with contextlib.suppress(OSError):
        if not (there := _there(path.parent)).is_dir():
            reason = f"{there} is a file, and no folder"
    return NotWritable(f"cannot write {path}: {reason}", hint="write to another place")


def _there(folder: Path) -> Path:
    """The part of a path that exists."""
    return next((part for part in (folder, *folder.parents) if part.exists()), folder)


def check_writable(path: Path, *, text: bool = True) -> None:
    """Tries whether a file could be written at `path`, before anything is done for it.

    Args:
        text: whether it is one, which may go to a device or a pipe as well.

    Raises:
        DiskFull, NotWritable: it could not.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not _is_device(path):
            _try_folder(path.parent)
        elif not text:
            raise _no_file()
    except OSError as error:
        raise write_error(error, path) from error


def check_folder(folder: Path) -> None:
    """Tries whether files could be written into a folder, which is there or will be made.

    Raises:
        DiskFull, NotWritable: they could not.
    """
    try:
        _try_folder(folder)
    except OSError as error:
        raise write_error(error, folder) from error


def _try_folder(folder: Path) -> None:
    trial = _there(folder) / f".kd.{os.getpid()}.tmp"
    trial.touch()
    trial.unlink()


def _is_device(path: Path) -> bool:
    """Tells whether a path is a device or a pipe, such as /dev/stdout: it must not be replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _no_file() -> OSError:
    return OSError(errno.EINVAL, "it is a device or a pipe")


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary file beside `path`, then puts it in place in one step.

    A reader sees the old file or the new one, never a part of it, also across a crash: data and
    folder are synced. It has the permissions that a new file has here, whatever `write` gave it.

    Raises:
        DiskFull: there is no space left.
        NotWritable: the folder cannot be written to, or the path is a device.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if _is_device(path):
            raise _no_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        permissions = temporary.stat().st_mode & 0o777
        write(temporary)
        temporary.chmod(permissions)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # as where its folder is a file
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, UTF-8; what is none, in a file's name, as an escape. A device
    or a pipe is written to as it is.
    """
    content = text.encode(errors="backslashreplace")
    try:
        if _is_device(path):
            path.write_bytes(content)
            return
    except OSError as error:
        raise write_error(error, path) from error
    write_bytes(path, content)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    write_atomic(path, lambda temporary: _write_bytes(temporary, content))


def write_page(path: Path, text: str) -> None:
    """Writes a page that people read atomically: what came from outside cannot command a terminal
    (kdcli.clean).
    """
    write_text(path, clean.text(text))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def finite(value: Any) -> Any:
    """Copy of a JSON-able value, or of a dataclass of such, with non-finite numbers as None, since
    JSON has no word for them.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        return {field.name: finite(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def json_text(value: Any) -> str:
    """A JSON file's text; non-finite numbers become null, and what could command a terminal is
    escaped.
    """
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    return clean.text(text) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, as `json_text`."""
    write_text(path, json_text(value))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text from outside: what Python's reader lets through and no file of ours
    holds is refused (a key given twice, NaN and infinity, integers of 64 bits and more, half a
    surrogate pair, nesting without end).

    Raises:
        ValueError: what is wrong with it, in a few words.
    """
    try:
        found = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_number,
            parse_float=_finite_float,
            parse_int=_usual_int,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    if _SURROGATE.search(text if isinstance(text, str) else text.decode("utf-8", "replace")):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it holds half a character") from error
    return found


def parse_toml(text: str) -> dict[str, Any]:
    """The values of a TOML text from outside, refused where they are nested deeper than any recipe.

    Raises:
        ValueError: it is not TOML, or nested too deeply; with the place, as tomllib says it.
    """
    at = _where_deep(text)
    if at is not None:
        raise ValueError(_placed(f"Nested more than {MAX_DEPTH} deep", text, at))
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # an integer that Python does not convert
        digits = re.search(r"[0-9_]{4000,}", text)
        raise ValueError(
            _placed("A number of thousands of digits", text, digits.start() if digits else 0)
        ) from error
    return values


def _placed(problem: str, text: str, at: int) -> str:
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return f"{problem} (at line {line}, column {column})"


def _where_deep(text: str) -> int | None:
    """Where a TOML text nests deeper than a recipe may, before the parser is asked: that takes a
    second for a key of 5,000 parts, and fails at a list of 500.
    """
    bare = _STRINGS.sub(_blank, text)
    depth = 0
    for bracket in re.finditer(r"[\[\]{}]", bare):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MAX_DEPTH:
            return bracket.start()
    dotted = _DOTTED.search(bare)
    return dotted.start() if dotted else None


def _blank(found: re.Match[str]) -> str:
    """As long as a string or comment; a string may be a part of a key."""
    return (" " if found[0][0] == "#" else "s") * len(found[0])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it gives {twice[:60]!r} twice")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"it holds {word}, which is no number")


def _finite_float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"it holds a number that is too large, {text[:30]}")
    return value


def _usual_int(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= _LARGEST:
        raise ValueError(f"it holds a number of {len(text.lstrip('-'))} digits")
    return value


def is_folder(path: str | Path) -> bool:
    """Tells whether a path is a folder; what no path can be, such as a name too long, is none."""
    with contextlib.suppress(OSError, ValueError):
        return Path(path).is_dir()
    return False


def is_file(path: str | Path) -> bool:
    """The same of a file."""
    with contextlib.suppress(OSError, ValueError):
        return Path(path).is_file()
    return False


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever the system says of a file that cannot be read, as one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {path}") from error
    except OSError as error:
        raise CorruptFile(
            f"{path} cannot be read: {error.strerror or error}", hint="look at its permissions"
        ) from error


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file; a pipe, socket or device is not waited for.

    Raises:
        NotFound: no such file. CorruptFile: it is no regular file, is larger than `most` bytes, or
            cannot be read.
    """
    with _reading(path):
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise NotFound(f"{path} is a folder, not a file")
        if not stat.S_ISREG(found.st_mode):
            raise CorruptFile(f"{path} is no regular file", hint="remove it, or give another file")
        if found.st_size > most:
            raise CorruptFile(
                f"{path} is not what kd writes: it has {found.st_size} bytes",
                hint="give a file that kd wrote",
            )
        return path.read_bytes()


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file of ours.

    Raises:
        NotFound: no such file.
        CorruptFile: it is not JSON, or no object.
    """
    content = read_bytes(path, MAX_JSON_BYTES)
    try:
        found = parse_json(content)
    except ValueError as error:
        raise CorruptFile(f"{path} cannot be read as JSON: {error}", hint=DAMAGED) from error
    if not isinstance(found, dict):
        raise CorruptFile(f"{path} is not what kd writes: it holds no JSON object", hint=DAMAGED)
    return found


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()
    ).hexdigest()


@contextlib.contextmanager
def given_by_the_user() -> Iterator[None]:
    """A damaged file that the user named is a wrong invocation, not a run that broke.

    Raises:
        BadCheckpoint: instead of CorruptFile.
    """
    try:
        yield
    except CorruptFile as error:
        raise BadCheckpoint(error.message, hint=error.hint, where=error.where) from error


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The string metadata in the header of a safetensors file, read without loading a tensor.

    Raises:
        NotFound, CorruptFile: as `safetensors_header`.
    """
    return safetensors_header(path)[0]


def safetensors_header(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """The string metadata of a safetensors file, and the shape of each of its tensors by name, read
    without loading one.

    Checks that the header is whole and that the file is as long as its header says.

    Raises:
        NotFound: no such file.
        CorruptFile: it is not a safetensors file, or it is truncated or damaged.
    """
    with _reading(path):
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise NotFound(f"{path} is {kind}, not a checkpoint")
        with path.open("rb") as handle:
            size_bytes = handle.read(8)
            length = _header_length(path, size_bytes)
            header = _header(path, length, handle.read(length))
        actual = path.stat().st_size
    metadata = header.pop("__metadata__", {})
    tensors = {name: _tensor(path, entry) for name, entry in header.items()}
    expected = 8 + length + max((end for _, end in tensors.values()), default=0)
    if actual != expected:
        raise CorruptFile(
            f"{path} is truncated: {actual} bytes on disk, {expected} expected",
            hint=DAMAGED_WEIGHTS,
        )
    if not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise CorruptFile(
            f"{path} is damaged: its metadata are no table of texts", hint=DAMAGED_WEIGHTS
        )
    return metadata, {name: shape for name, (shape, _) in tensors.items()}


def _tensor(path: Path, entry: Any) -> tuple[tuple[int, ...], int]:
    """The shape of a tensor and the byte behind it, from its entry in the header."""
    found = entry if isinstance(entry, dict) else {}
    shape, offsets = (_counts(found.get(key)) for key in ("shape", "data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise CorruptFile(
            f"{path} is damaged: its header does not say where each tensor lies",
            hint=DAMAGED_WEIGHTS,
        )
    return shape, offsets[1]


def _counts(value: Any) -> tuple[int, ...] | None:
    whole = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
    return tuple(value) if whole else None


def _header_length(path: Path, size_bytes: bytes) -> int:
    length: int = struct.unpack("<Q", size_bytes)[0] if len(size_bytes) == 8 else 0
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise _foreign(path)
    return length


_IMPORTED = (".pth", ".pt", ".bin", ".ckpt")  # what other programs call their weights


def _foreign(path: Path) -> CorruptFile:
    imported = path.suffix in _IMPORTED
    return CorruptFile(
        f"{path} is not a safetensors file",
        hint=f"kd import {path} --model NAME makes a checkpoint of it"
        if imported
        else "kd reads the model.safetensors that its own runs leave",
    )


def _header(path: Path, length: int, text: bytes) -> dict[str, Any]:
    if len(text) < length:
        # a short file whose first bytes are no plausible length is not ours at all; else it was cut
        # off
        raise CorruptFile(f"{path} is truncated or not a safetensors file", hint=DAMAGED_WEIGHTS)
    try:
        header = parse_json(text)
    except ValueError as error:
        raise _foreign(path) from error
    if not isinstance(header, dict):
        raise _foreign(path)
    return header
