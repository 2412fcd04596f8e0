"""What all datasets of image files share once it is known which pictures there are, of which class
and part: they are checked, named and read by this one code, wherever they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from kdcli.core.options import PictureOptions
from kdcli.core.types import UNLABELLED
from kdcli.data.arranged import Arranged, Classes
from kdcli.data.decode import decode, fit, look
from kdcli.data.packed import Container, Packed
from kdcli.data.picture import Kind
from kdcli.data.source import REPLACE, ImageArrays, ImageFolder
from kdcli.errors import BadData, KdError, NotFound, UsageError
from kdcli.results.data_report import DataProblem, DataReport
from kdcli.results.preprocessing import shorter_side

T = TypeVar("T")

_AT_ONCE = 4096  # files
_A_TASK = 32  # of them: to hand a thread a single header costs more than to read it


def image_folder(
    root: Path, found: Arranged, options: PictureOptions, packed: Container | None = None
) -> ImageFolder:
    """Sorted-out pictures as a source. root: what their paths start from. packed: those in larger
    files.
    """
    numbers = {name: label for label, name in enumerate(found.class_names)}
    train, y_train = _files(found.train, numbers)
    bare = found.unlabelled
    train, y_train = _joined(train, y_train, bare.get("train", ()))
    held, y_held = _joined(*_files(found.val or {}, numbers), bare.get("val", ()))
    test, y_test = _joined(*_files(found.test, numbers), bare.get("test", ()))
    return ImageFolder(
        root=root,
        train=train + held,
        y_train=torch.cat([y_train, y_held]),
        test=test,
        y_test=y_test,
        class_names=found.class_names,
        size=options.size,
        resize=shorter_side(options.size, options.resize),
        mean=options.mean,
        std=options.std,
        max_pixels=options.max_pixels,
        background=options.background,
        held=len(held),
        packed=packed or Packed(),
        shrink=options.shrink,
        cache_gb=options.cache_pixels,
    )


def _files(classes: Classes, numbers: dict[str, int]) -> tuple[tuple[str, ...], Tensor]:
    """Paths and labels [n] of one part, classes in order of their numbers."""
    paths = tuple(path for name in numbers for path in classes.get(name, ()))
    counts = torch.tensor([len(classes.get(name, ())) for name in numbers])
    return paths, torch.repeat_interleave(torch.arange(len(numbers)), counts)


def _joined(
    paths: tuple[str, ...], labels: Tensor, bare: tuple[str, ...]
) -> tuple[tuple[str, ...], Tensor]:
    """The same with pictures that have no label behind them."""
    return (*paths, *bare), torch.cat([labels, torch.full((len(bare),), UNLABELLED)])


def checked(
    folder: ImageFolder, found: Arranged, options: PictureOptions, check: str
) -> ImageArrays | ImageFolder:
    """The pictures that a run reads; all of them decoded, where the options ask for that.

    Of files that are decoded as they are needed, the headers and ends of what is measured on, and
    of one file of each class in training, are read now: a file that is no picture, or was cut off,
    is found before training, but not one that is damaged in between.

    Args:
        check: the command that lists all that is wrong with them.

    Raises:
        NotFound: there is no part to test on. BadData: a class has no picture to train or to test
            on, or a file cannot be read. UsageError: options exclude each other.
    """
    _check_ways(options)
    if stopping := [problem for problem in found.problems if problem.stops]:
        kind = NotFound if stopping[0].kind == "part" else BadData
        _refuse([problem.message for problem in stopping], check, stopping[0].hint, kind=kind)
    said = [problem.message for problem in found.problems]
    labels = folder.y_train.tolist()
    first = dict(reversed(list(zip(labels, folder.train, strict=True))))
    held = folder.train[len(folder.train) - folder.held :]
    paths = (*folder.test, *held, *(first[label] for label in sorted(first)))
    kinds, bad = _sorted_out(_each(paths, lambda path: look(folder, path)))
    if bad:
        _refuse([error.message for error in bad.values()], check, REPLACE)
    folder = replace(folder, notes=(*found.notes, *said, *_reading(kinds)))
    return resident(folder) if options.resident else folder


def _check_ways(options: PictureOptions) -> None:
    """Refuses ways of reading that exclude each other, or would enlarge what was shrunken."""
    for key in ("cache_pixels", "shrink"):
        if options.resident and getattr(options, key) is not None:
            raise UsageError(
                f"data.{key} is for pictures that are decoded as they are needed, and "
                "data.resident decodes all at the start",
                hint="leave one of them out",
            )
    least = shorter_side(options.size, options.resize)
    if options.shrink is not None and options.shrink < least:
        raise UsageError(
            f"data.shrink is {options.shrink}, and the network sees what is made of {least} pixels "
            "(data.resize): they would be enlarged again",
            hint=f"set data.shrink to {least} at least",
        )


def examined(folder: ImageFolder, found: Arranged, data: str, path: str) -> DataReport:
    """Decodes every picture, and tells all that is wrong.

    Args:
        data, path: the dataset's name and where it is, for the report.
    """
    problems = list(found.problems)
    untested = any(problem.kind == "part" for problem in problems)
    paths = folder.train if untested else (*folder.train, *folder.test)
    kinds, bad = _sorted_out(_each(paths, lambda path: _decodable(folder, path)))
    problems += [
        DataProblem("file", error.message, REPLACE, file=str(folder.root / path))
        for path, error in bad.items()
    ]
    if small := _small(folder, kinds):
        problems.append(small)
    return DataReport(
        data,
        path,
        len(folder.class_names),
        len(folder.train) - folder.held,
        folder.held,
        0 if untested else len(folder.test),
        tuple(problems),
        (*found.notes, *_reading(kinds)),
        found.skipped,
        found.unread,
    )


def _refuse(problems: Sequence[str], check: str, hint: str, kind: type[KdError] = BadData) -> None:
    more = len(problems) - 1
    others = f" (and {more} more: {check} lists all)" if more else ""
    raise kind(f"{problems[0]}{others}", hint=hint)


def _each(paths: Sequence[str], work: Callable[[str], T]) -> Iterator[tuple[str, T | BadData]]:
    """What some work makes of each file, or why it cannot: side by side, as decoders leave Python's
    lock.
    """

    def one(path: str) -> tuple[str, T | BadData]:
        try:
            return path, work(path)
        except BadData as error:
            return path, error

    def some(at: int) -> list[tuple[str, T | BadData]]:
        return [one(path) for path in paths[at : at + _A_TASK]]

    with ThreadPoolExecutor() as pool:
        for at in range(0, len(paths), _AT_ONCE):  # in portions: an interruption is heard soon
            tasks = pool.map(some, range(at, min(at + _AT_ONCE, len(paths)), _A_TASK))
            yield from chain.from_iterable(tasks)


def _sorted_out(
    results: Iterator[tuple[str, Kind | BadData]],
) -> tuple[dict[str, Kind], dict[str, BadData]]:
    kinds, bad = {}, {}
    for path, result in results:
        if isinstance(result, BadData):
            bad[path] = result
        else:
            kinds[path] = result
    return kinds, bad


def _decodable(folder: ImageFolder, path: str) -> Kind:
    """What the header of a file says whose pixels were decoded, too."""
    kind = look(folder, path)
    decode(folder, path)
    return kind


def _reading(kinds: dict[str, Kind]) -> Iterator[str]:
    """What is said once of how files are read."""
    for what, found in (
        ("16 bits a channel: the upper 8 are used", [p for p, kind in kinds.items() if kind.deep]),
        (
            "several frames or pages: the first is used",
            [p for p, kind in kinds.items() if kind.frames],
        ),
    ):
        if found:
            others = f" and {len(found) - 1} more" if len(found) > 1 else ""
            yield f"{found[0]}{others}: {what}"


def _small(folder: ImageFolder, kinds: dict[str, Kind]) -> DataProblem | None:
    """A word on pictures that have to be enlarged to the folder's size."""
    small = [path for path, kind in kinds.items() if kind.short < folder.size]
    if not small:
        return None
    least = min(small, key=lambda path: kinds[path].short)
    return DataProblem(
        "size",
        f"pictures that are smaller than {folder.size} pixels and are enlarged: {len(small)} of "
        f"{len(kinds)}; the smallest is {least}, {kinds[least].short} on its shorter side",
        f"set data.size to {max(kinds[least].short, 8)}"
        if len(small) == len(kinds)
        else "remove them, or set data.size to what most pictures have",
        stops=False,
        file=str(folder.root / least),
    )


def resident(folder: ImageFolder) -> ImageArrays:
    """The same pictures decoded and kept, each at the folder's size.

    Raises:
        BadData: a file cannot be decoded.
    """
    return ImageArrays(
        x_train=_decoded(folder, folder.train),
        y_train=folder.y_train,
        x_test=_decoded(folder, folder.test),
        y_test=folder.y_test,
        class_names=folder.class_names,
        mean=folder.mean,
        std=folder.std,
        train=folder.train,
        test=folder.test,
        held=folder.held,
        notes=folder.notes,
    )


def _decoded(folder: ImageFolder, paths: tuple[str, ...]) -> Tensor:
    how = folder.preprocessing

    def one(path: str) -> Tensor:
        return fit(decode(folder, path), how).contiguous()

    with ThreadPoolExecutor() as pool:  # decoders leave Python's lock
        return torch.stack(list(pool.map(one, paths)))
