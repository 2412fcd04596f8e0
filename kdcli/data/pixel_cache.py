"""A cache of pictures on disk as they were decoded and shrunken (`data.cache_pixels`), mapped into
memory: their files are decoded once, and not in every epoch of every run.

What it holds is what decoding gives, bit for bit: whether it is there changes the speed alone. A
picture is known again by the name of its file, by the size and the time of that, and by all that
decides its pixels; one that is not is decoded anew, and the others are taken along.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcli.data.decode import decode, fit, shrunk_size, size_of
from kdcli.data.feed import Decoded
from kdcli.data.packed import Packed
from kdcli.data.source import READING_RULE, ImageFolder
from kdcli.errors import BadData, CorruptFile, UsageError
from kdcli.file_lock import locked
from kdcli.files import sha256_json, write_atomic, write_error
from kdcli.results.preprocessing import Preprocessing
from kdcli.surroundings import cache_root

_RULE = 1  # raised whenever its files come to be written otherwise
# columns of the index, int64: of the file that a picture is from, and of its pixels
_NAME, _NAME2, _SIZE, _TIME, _OFFSET, _HEIGHT, _WIDTH, _SUM = range(8)
_OF_FILE = slice(_NAME, _TIME + 1)
_AT_ONCE = 256  # pictures that are decoded before they are written
_LARGEST = 1 << 16  # pixels of a side
_LEFT_FREE = 1 << 28  # bytes of the disk that a cache leaves to others


@dataclass(frozen=True)
class Wanted:
    """Which pixels of which pictures of a folder.

    part: what they are for, which has a file of its own. paths: of the folder. how: what the
    pictures are fitted to; None for whole ones. shrink: as of `decode`.
    """

    folder: ImageFolder
    part: Literal["training", "measuring"]
    paths: Sequence[str] = field(repr=False)
    how: Preprocessing | None
    shrink: int | None

    def made(self, path: str) -> Tensor:
        """A picture [3,h,w] uint8, decoded.

        Raises:
            BadData: its file cannot be decoded.
        """
        whole = decode(self.folder, path, self.shrink)
        return whole if self.how is None else fit(whole, self.how)

    def key(self) -> dict[str, Any]:
        """All that decides the pixels but the files themselves."""
        return {
            "rule": _RULE,
            "reading": READING_RULE,
            "part": self.part,
            "root": str(self.folder.root.resolve()),
            "larger": [str(path.resolve()) for path in self._larger()],
            "background": self.folder.background,
            "shrink": self.shrink,
            "how": None if self.how is None else self.how.geometry(),
            # other versions may resize or decode otherwise
            "versions": [version(name) for name in ("torch", "torchvision", "pillow")],
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }

    def _larger(self) -> tuple[Path, ...]:
        packed = self.folder.packed
        return packed.files if isinstance(packed, Packed) else ()

    def bytes(self) -> int:
        """What all pixels take. Whole pictures are looked at for that, one header each."""
        if self.how is not None:
            return len(self.paths) * 3 * self.how.size[0] * self.how.size[1]
        with ThreadPoolExecutor() as pool:
            sizes = pool.map(lambda path: size_of(self.folder, path), self.paths)
            if self.shrink is None:
                return sum(3 * height * width for height, width in sizes)
            # but for a pixel or two, by which the side of a JPEG file is rounded up
            return sum(3 * h * w for h, w in (shrunk_size(*size, self.shrink) for size in sizes))

    def files(self) -> NDArray[np.int64]:
        """What is known of each picture's file, [n,4] int64: its name in two numbers,
        size and time.

        Raises:
            BadData: one is not there.
        """
        known = np.empty((len(self.paths), _TIME + 1), dtype=np.int64)
        packed = self.folder.packed
        larger = {path: _stat(str(path)) for path in self._larger()}
        root = str(self.folder.root)
        for row, path in enumerate(self.paths):
            name = hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=16).digest()
            known[row, :2] = np.frombuffer(name, dtype="<i8")
            if isinstance(packed, Packed) and path in packed:
                holder, _, size = packed.place(path)
                known[row, 2:] = size, larger[holder].st_mtime_ns
            else:
                status = _stat(os.path.join(root, path))  # noqa: PTH118  a Path for each of a million files takes seconds
                known[row, 2:] = status.st_size, status.st_mtime_ns
        return known


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)  # noqa: PTH116  as above
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}", hint="put it back") from error


class Kept:
    """Pictures of the cache, by their places among the paths that were wanted.

    Args:
        pixels: the file. index: [n,8], what is known of each picture. fitted: whether all are of
            one size.
    """

    def __init__(self, pixels: Path, index: NDArray[np.int64], *, fitted: bool) -> None:
        self._file = pixels
        self._index = index
        self._fitted = fitted
        self._open()

    def _open(self) -> None:
        size = _end(self._index)
        self._pixels = (
            np.memmap(self._file, dtype=np.uint8, mode="r", shape=(size,))
            if size
            else np.empty(0, dtype=np.uint8)
        )
        self._whole = np.zeros(len(self._index), dtype=bool)  # found to be what was written

    def __getstate__(self) -> dict[str, Any]:
        # a process that unpickles it maps the file itself
        return {"_file": self._file, "_index": self._index, "_fitted": self._fitted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def picture(self, place: int) -> Tensor:
        """A picture [3,h,w] uint8.

        Raises:
            CorruptFile: it is not what was written.
        """
        offset, height, width = self._index[place, [_OFFSET, _HEIGHT, _WIDTH]].tolist()
        stored = self._pixels[offset : offset + 3 * height * width]
        if not self._whole[place]:
            if zlib.crc32(stored.data) != self._index[place, _SUM]:
                raise CorruptFile(
                    f"{self._file} is damaged: a picture is not what was written",
                    hint="remove it: its pictures are decoded again",
                )
            self._whole[place] = True
        # a copy: nobody writes to the file
        return torch.from_numpy(stored.reshape(height, width, 3).copy()).permute(2, 0, 1)

    def batch(self, places: Sequence[int]) -> Tensor:
        """Pictures of one size, [B,3,H,W] uint8, the colours of a pixel side by side.

        Raises:
            CorruptFile: one is not what was written.
        """
        if not self._fitted or not self._whole[list(places)].all():
            return torch.stack([self.picture(place) for place in places])
        height, width = self._index[0, [_HEIGHT, _WIDTH]].tolist()
        rows = self._index[list(places), _OFFSET] // (3 * height * width)
        return torch.from_numpy(self._pixels.reshape(-1, height, width, 3)[rows]).permute(
            0, 3, 1, 2
        )


def _end(index: NDArray[np.int64]) -> int:
    """Bytes of the file that an index is of."""
    return int((3 * index[:, _HEIGHT] * index[:, _WIDTH]).sum())


def kept_pixels(wanted: Wanted, most_gb: float, decoded: Decoded | None = None) -> tuple[Kept, str]:
    """The pixels that are wanted, of the cache, and what is to be said of it. Those that are not
    there, or are of files that have changed, are decoded and written.

    Args:
        most_gb: what they may take of the disk, in GB.
        decoded: hears how many of the pictures are there, while they are written.

    Raises:
        UsageError: they take more, or there is no room for them. BadData: a file cannot be decoded.
        DiskFull, NotWritable: the cache cannot be written.
    """
    folder = cache_root() / "pixels"
    index_file = folder / f"{sha256_json(wanted.key())[:32]}.npy"
    files = wanted.files()
    fitted = wanted.how is not None
    if (found := _found(index_file, files)) is not None:
        return Kept(*found, fitted=fitted), f"decoded pictures are taken from {found[0]}"
    with _alone(index_file.with_suffix(".lock")):
        if (found := _found(index_file, files)) is not None:  # another process was at it
            return Kept(*found, fitted=fitted), f"decoded pictures are taken from {found[0]}"
        return _written(wanted, most_gb, index_file, files, decoded)


def _written(
    wanted: Wanted,
    most_gb: float,
    index_file: Path,
    files: NDArray[np.int64],
    decoded: Decoded | None,
) -> tuple[Kept, str]:
    before = _known(index_file)
    _check_room(wanted.bytes(), most_gb, index_file.parent)
    index = np.zeros((len(files), _SUM + 1), dtype=np.int64)
    index[:, _OF_FILE] = files
    taken = _Taken(before)
    pixels = _pixels_file(index_file, files)
    write_atomic(pixels, lambda temporary: _write(temporary, wanted, index, taken, decoded))
    write_atomic(index_file, lambda temporary: _save(temporary, index))
    if before is not None and before[0] != pixels:
        before[0].unlink(missing_ok=True)  # whoever has mapped it keeps it
    made = len(files) - len(taken.places)
    size = f"{_end(index) / 1e6:,.1f} MB"
    said = f"{made:,} of {len(files):,} pictures decoded and kept in {pixels} ({size})"
    if before is not None:
        said = f"files have changed since they were decoded: {said}"
    return Kept(pixels, index, fitted=wanted.how is not None), said


def _check_room(needed: int, most_gb: float, folder: Path) -> None:
    hint = "set data.shrink or a smaller data.size, or leave data.cache_pixels out"
    if needed > most_gb * 1e9:
        raise UsageError(
            f"the decoded pictures take {needed / 1e6:,.1f} MB, more than "
            f"data.cache_pixels = {most_gb:g} GB",
            hint=f"raise it, {hint}",
        )
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed + _LEFT_FREE > free:
        raise UsageError(
            f"no room for the decoded pictures: they take {needed / 1e6:,.1f} MB, and {folder} has "
            f"{free / 1e6:,.1f} MB left",
            hint=f"set KD_CACHE_DIR to a folder on a larger disk, {hint}",
        )


class _Taken:
    """The pictures of an earlier cache, by their files. places: those that were taken along."""

    def __init__(self, before: tuple[Path, NDArray[np.int64]] | None) -> None:
        self.places: set[int] = set()
        self._rows: dict[bytes, int] = {}
        self._kept: Kept | None = None
        if before is not None:
            _, index = before
            self._kept = Kept(*before, fitted=False)
            of_file = np.ascontiguousarray(index[:, _OF_FILE])
            self._rows = {row.tobytes(): place for place, row in enumerate(of_file)}

    def get(self, of_file: NDArray[np.int64]) -> Tensor | None:
        place = self._rows.get(of_file.tobytes())
        if place is None or self._kept is None:
            return None
        with contextlib.suppress(CorruptFile):
            found = self._kept.picture(place)
            self.places.add(place)
            return found
        return None


def _write(
    file: Path, wanted: Wanted, index: NDArray[np.int64], taken: _Taken, decoded: Decoded | None
) -> None:
    """Writes the pixels of all pictures, and notes where each lies."""
    offset = 0
    told = decoded or (lambda _done, _of: None)
    told(0, len(index))
    with file.open("wb") as handle:
        for place, pixels in enumerate(_decoded(wanted, index, taken)):
            rows = pixels.permute(1, 2, 0).contiguous().numpy()
            index[place, _OFFSET:] = offset, *rows.shape[:2], zlib.crc32(rows.data)
            offset += _put(handle, rows)
            if (place + 1) % _AT_ONCE == 0 or place + 1 == len(index):
                told(place + 1, len(index))


def _put(handle: BinaryIO, rows: NDArray[Any]) -> int:
    return handle.write(rows.data)


def _decoded(wanted: Wanted, index: NDArray[np.int64], taken: _Taken) -> Iterator[Tensor]:
    def one(place: int) -> Tensor:
        found = taken.get(index[place, _OF_FILE])
        return wanted.made(wanted.paths[place]) if found is None else found

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # decoders leave Python's lock
        for at in range(0, len(wanted.paths), _AT_ONCE):
            yield from pool.map(one, range(at, min(at + _AT_ONCE, len(wanted.paths))))


def _save(file: Path, index: NDArray[np.int64]) -> None:
    with file.open("wb") as handle:
        np.save(handle, index, allow_pickle=False)


def _pixels_file(index_file: Path, files: NDArray[np.int64]) -> Path:
    """Named by the files that its pictures are from: an index is never of another file's pixels."""
    digest = hashlib.sha256(np.ascontiguousarray(files).tobytes()).hexdigest()[:16]
    return index_file.with_name(f"{index_file.stem}-{digest}.bin")


def _found(index_file: Path, files: NDArray[np.int64]) -> tuple[Path, NDArray[np.int64]] | None:
    """An earlier cache of these very files."""
    known = _known(index_file)
    if known is None or not np.array_equal(known[1][:, _OF_FILE], files):
        return None
    return known


def _known(index_file: Path) -> tuple[Path, NDArray[np.int64]] | None:
    """What an earlier run has written; None where it is not there, or not whole."""
    try:
        with index_file.open("rb") as handle:
            index: NDArray[np.int64] = np.load(handle, allow_pickle=False)
        if index.dtype != np.int64 or index.ndim != 2 or index.shape[1] != _SUM + 1:
            return None
        sides = index[:, [_HEIGHT, _WIDTH]]
        if (sides < 1).any() or (sides > _LARGEST).any():
            return None
        sizes = 3 * sides[:, 0] * sides[:, 1]
        pixels = _pixels_file(index_file, index[:, _OF_FILE])
        in_order = np.array_equal(index[:, _OFFSET], np.cumsum(sizes) - sizes)
        whole = in_order and pixels.stat().st_size == int(sizes.sum())
    except (OSError, ValueError, EOFError):
        return None
    return (pixels, index) if whole else None


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Within, no other process writes the same cache, where the file system knows locks: else both
    write, and the last one stays.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, file) from error
    lock = locked(file, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
