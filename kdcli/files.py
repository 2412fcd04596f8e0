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
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdcli.errors import CorruptFile, DiskFull, KdError, NotFound, NotWritable

MAX_HEADER_BYTES = 100 * 1024 * 1024  # the format's own limit


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
    write_atomic(path, lambda temporary: _write_bytes(temporary, content))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def finite(value: Any) -> Any:
    """Copy of a JSON-able value with non-finite numbers as None, since JSON has no word for
    them.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; non-finite numbers become null."""
    write_text(
        path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file of ours.

    Raises:
        NotFound: no such file.
        CorruptFile: it is not JSON, or no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise CorruptFile(f"{path} is not what kd writes: it holds no JSON object")
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


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The string metadata in the header of a safetensors file, read without loading a tensor.

    Checks that the header is whole and that the file is as long as its header says.

    Raises:
        NotFound: no such file.
        CorruptFile: it is not a safetensors file, or it is truncated.
    """
    try:
        with path.open("rb") as handle:
            size_bytes = handle.read(8)
            header = _header(path, size_bytes, handle.read(_header_length(path, size_bytes)))
        actual = path.stat().st_size
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {path}") from error
    except IsADirectoryError as error:
        raise NotFound(f"{path} is a folder, not a checkpoint") from error
    ends = [_end(path, entry) for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + _header_length(path, size_bytes) + max(ends, default=0)
    if actual != expected:
        raise CorruptFile(
            f"{path} is truncated: {actual} bytes on disk, {expected} expected",
            hint="copy it again, or train again",
        )
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CorruptFile(f"{path} is damaged: its metadata are no table")
    return {str(key): str(value) for key, value in metadata.items()}


def _end(path: Path, entry: Any) -> int:
    """The byte behind a tensor, from its entry in the header."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (
        isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(offset) is int and offset >= 0 for offset in offsets)
    ):
        raise CorruptFile(
            f"{path} is damaged: its header does not say where each tensor lies",
            hint="copy it again, or train again",
        )
    return int(offsets[1])


def _header_length(path: Path, size_bytes: bytes) -> int:
    length: int = struct.unpack("<Q", size_bytes)[0] if len(size_bytes) == 8 else 0
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise CorruptFile(
            f"{path} is not a safetensors file",
            hint="kd reads the model.safetensors that its own runs leave",
        )
    return length


def _header(path: Path, size_bytes: bytes, text: bytes) -> dict[str, Any]:
    if len(text) < _header_length(path, size_bytes):
        # a short file whose first bytes are no plausible length is not ours at all; else it was cut
        # off
        raise CorruptFile(
            f"{path} is truncated or not a safetensors file", hint="copy it again, or train again"
        )
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(
            f"{path} is not a safetensors file",
            hint="kd reads the model.safetensors that its own runs leave",
        ) from error
    if not isinstance(header, dict):
        raise CorruptFile(f"{path} is not a safetensors file")
    return header
