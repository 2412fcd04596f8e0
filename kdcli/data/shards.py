"""Tar shards of pictures, as WebDataset lays them out: members of one name belong together,
00042.jpg, 00042.cls and 00042.json.

A shard is looked through once, header by header; where each picture lies is kept in the cache. Then
any of them is read by itself, and what a sequential reader can only approximate is exact: an epoch
is one permutation of all pictures, goes on in its middle, and is the same whoever reads.
"""

from __future__ import annotations

import glob
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from kdcli.data.packed import Range
from kdcli.data.picture import SUFFIXES
from kdcli.errors import BadData, KdError, NotFound, UsageError
from kdcli.files import parse_json, read_json, sha256_json, write_json
from kdcli.surroundings import at_home, cache_root
from kdcli.typed import from_dict

_RULE = 1  # raised whenever shards come to be read otherwise
_LARGEST_TEXT = 1 << 20  # bytes of a label, or of what is said of a picture
_MOST_SHARDS = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)")
_REMOTE = re.compile(r"^(pipe:|[a-z0-9]+://)")


@dataclass(frozen=True, slots=True)
class Shard:
    """The pictures of a tar file. names: [n] of the members. ranges: [n] offset and size in bytes.
    labels: [n] as text, None where there is none. bare: samples without a picture.
    """

    names: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...]
    labels: tuple[str | None, ...]
    bare: int = 0


def find_shards(pattern: str) -> list[Path]:
    """The files that a pattern means: {000..007} and {a,b} are spelt out, * and ? are looked for,
    and of a folder all .tar files below it are meant. In order of their names, as given.

    Raises:
        UsageError: it is no path on this machine, or stands for too many. NotFound: nothing is
            there.
    """
    if _REMOTE.match(pattern):
        raise UsageError(
            f"{pattern} is not on this machine", hint="fetch the shards first: kd reads local files"
        )
    found: list[Path] = []
    for text in expand(str(at_home(pattern))):
        if Path(text).is_dir():
            here = sorted(Path(text).rglob("*.tar"))
        elif glob.has_magic(text):
            here = sorted(Path(path) for path in glob.glob(text, recursive=True))  # noqa: PTH207  Path.glob takes no absolute pattern
        else:
            here = [Path(text)]
        if not here or not here[0].exists():
            raise NotFound(
                f"no shards at {text}", hint="data.path is a folder, or a pattern: d-{000..007}.tar"
            )
        found += here
    return list(dict.fromkeys(found))


def expand(pattern: str) -> list[str]:
    """A pattern's braces spelt out, as shells do: {00..02} is 00, 01, 02; {a,b} is a, b.

    Raises:
        UsageError: there are too many.
    """
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    numbers = _NUMBERS.fullmatch(found[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        width = max(map(len, numbers.groups())) if "0" in {n[0] for n in numbers.groups()} else 0
        step = 1 if first <= last else -1
        if abs(last - first) >= _MOST_SHARDS:
            raise UsageError(
                f"{pattern} stands for too many shards", hint=f"at most {_MOST_SHARDS:,}"
            )
        parts = [f"{number:0{width}d}" for number in range(first, last + step, step)]
    else:
        parts = found[1].split(",")
    rests = [f"{pattern[: found.start()]}{part}{pattern[found.end() :]}" for part in parts]
    return list(chain.from_iterable(expand(rest) for rest in rests))


@dataclass(slots=True)
class _Sample:
    """What belongs together. picture: name, offset and size. label: by the ending that holds it."""

    picture: tuple[str, int, int] | None = None
    texts: dict[str, bytes] = field(default_factory=dict)


def look_through(path: Path, image: str | None, label: str | None) -> Shard:
    """What a shard holds; found in the cache if it was looked through before.

    Args:
        image: how the members end that are pictures; in any of the usual ways unless given.
        label: how those end that hold labels, or "KEY.json" for a key of a .json; .cls, else the
            key "label" of .json, else .txt, unless given.

    Raises:
        BadData: it is no tar file, was cut off, or is compressed.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}", hint=_AGAIN) from error
    key = {
        "rule": _RULE,
        "path": str(path.resolve()),
        "size": status.st_size,
        "changed": status.st_mtime_ns,
        "image": image,
        "label": label,
    }
    known = cache_root() / "shards" / f"{sha256_json(key)[:32]}.json"
    with suppress(KdError):  # not there, or damaged: looked through again
        return from_dict(Shard, read_json(known), known)
    shard = _look_through(path, image, label)
    with suppress(KdError):  # a cache that takes nothing costs time alone
        write_json(
            known,
            {
                "names": shard.names,
                "ranges": shard.ranges,
                "labels": shard.labels,
                "bare": shard.bare,
            },
        )
    return shard


_AGAIN = "fetch or write the shard again"


def _look_through(path: Path, image: str | None, label: str | None) -> Shard:
    samples: dict[str, _Sample] = {}
    try:
        with path.open("rb") as handle, tarfile.open(fileobj=handle, mode="r:") as tar:
            size = handle.seek(0, 2)
            for member in tar:
                if not member.isreg() or member.sparse is not None:
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                _take(tar, member, samples, image, path)
            handle.seek(tar.offset)
            # two empty blocks end a tar file; one will do, and none is a file that was cut off
            if handle.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    whole = [(sample, sample.picture) for sample in samples.values() if sample.picture is not None]
    return Shard(
        tuple(picture[0] for _, picture in whole),
        tuple((offset, size) for _, (_, offset, size) in whole),
        tuple(_label(sample.texts, label, path, picture[0]) for sample, picture in whole),
        len(samples) - len(whole),
    )


def _damaged(path: Path, error: Exception) -> BadData:
    with path.open("rb") as handle:
        start = handle.read(4)
    if start[:2] == b"\x1f\x8b" or start in {b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zX"}:
        return BadData(
            f"{path} is compressed: no picture of it could be read by itself",
            hint="unpack it (gunzip): pictures are compressed already, a .tar is hardly larger",
        )
    if "unexpected end" in str(error):
        return BadData(f"{path} was cut off: it does not end as a tar file does", hint=_AGAIN)
    return BadData(f"{path} is no tar file, or is damaged ({error})", hint=_AGAIN)


def _take(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    samples: dict[str, _Sample],
    image: str | None,
    path: Path,
) -> None:
    """Notes what a member is for. A name ends at the first dot of its last part."""
    folder, slash, base = member.name.rpartition("/")
    stem, _, ending = base.partition(".")
    if not stem:  # hidden, as ._x of other systems
        return
    ending = ending.lower()
    sample = samples.setdefault(f"{folder}{slash}{stem}", _Sample())
    pictures = SUFFIXES if image is None else (f".{image.lower().lstrip('.')}",)
    if f".{ending}" in pictures:
        if sample.picture is not None:
            raise BadData(
                f"{path}: {member.name} and {sample.picture[0]} are two pictures of one sample",
                hint="say which is meant: -s data.image=ENDING",
            )
        sample.picture = (member.name, member.offset_data, member.size)
    elif member.size <= _LARGEST_TEXT and ending.rpartition(".")[2] in _TEXTS:
        file = tar.extractfile(member)
        sample.texts[ending] = file.read() if file is not None else b""


_TEXTS = frozenset({"cls", "txt", "json", "label", "class", "index"})


def _label(texts: Mapping[str, bytes], asked: str | None, path: Path, name: str) -> str | None:
    """A sample's label as text, None where there is none."""
    if asked is not None:
        key, dot, ending = asked.rpartition(".")
        if ending == "json" and dot:
            return _of_json(texts.get("json"), key, path, name)
        found = texts.get(asked.lower())
        return None if found is None else _text(found, path, name)
    if "cls" in texts:
        return _text(texts["cls"], path, name)
    if "json" in texts and (label := _of_json(texts["json"], "label", path, name)) is not None:
        return label
    return _text(texts["txt"], path, name) if "txt" in texts else None


def _text(content: bytes, path: Path, name: str) -> str | None:
    try:
        return content.decode().strip() or None
    except UnicodeDecodeError as error:
        raise BadData(
            f"{path}: the label of {name} is no text", hint="write it in UTF-8"
        ) from error


def _of_json(content: bytes | None, key: str, path: Path, name: str) -> str | None:
    if content is None:
        return None
    try:
        found: Any = parse_json(content)
    except ValueError as error:
        raise BadData(f"{path}: the .json of {name} is damaged: {error}", hint=_AGAIN) from error
    value = found.get(key) if isinstance(found, dict) else None
    return str(value).strip() or None if isinstance(value, str | int) else None


def ranges_of(shard: Shard, number: int, name: str) -> Iterator[tuple[str, Range]]:
    """The pictures of a shard by names that say the shard, each with its range.

    Args:
        number: of the shard among the larger files. name: of the shard.
    """
    for member, (offset, size) in zip(shard.names, shard.ranges, strict=True):
        yield f"{name}/{member}", (number, offset, size)
