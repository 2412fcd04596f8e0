"""Pictures sorted out, wherever they lie: by class, and by what is trained and tested on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from kdcli.core import random
from kdcli.errors import BadData, UsageError
from kdcli.results.data_report import DataProblem

PartName = Literal["train", "val", "test"]
Classes = dict[str, tuple[str, ...]]  # paths below the top by class, in order
_NEEDED: tuple[PartName, ...] = ("train", "test")


class NamelessClasses(BadData):
    """No picture has a label, and neither do the data say what the classes are called: whoever asks
    a network may take its names.
    """


@dataclass(frozen=True, slots=True)
class Arranged:
    """An image folder, sorted out. train, val, test: paths below the top by class, for each class
    name; val is None where there is none. problems, notes: as in a DataReport; to have
    no part to test on is a problem, and test is train then. unlabelled: paths of pictures without
    a class, by part; a part to measure on has either those alone or none.
    """

    class_names: tuple[str, ...]
    train: Classes
    val: Classes | None
    test: Classes
    problems: tuple[DataProblem, ...]
    notes: tuple[str, ...]
    skipped: int = 0
    unread: Mapping[str, int] = field(default_factory=dict)
    unlabelled: Mapping[PartName, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Words:
    """How messages speak of some data.

    place: the data. parts: what each part that is there is called. classes_of: what holds the
    classes. Others: the rest of each sentence, here as it is of folders.
    """

    place: Path
    parts: Mapping[PartName, str]
    classes_of: Path
    missing: str = "{}/"
    tested: str = "has a folder {}"
    move: str = "leave data.test_fraction out, or move the folder away"
    untested: str = "has no folder test/ or val/, and data.test_fraction is not set"
    test_on: str = "put class folders of pictures to test on into test/"
    number: str = "holds {} class folders"
    two: str = "put the files of each class into a folder of its own, two at least"
    none: str = "remove its folder, or put pictures in"
    lone: str = "add pictures of it, or remove the folder"
    put: str = "put pictures of it into {}, or remove it from every part"

    def part(self, name: PartName) -> str:
        """What a part is called, there or not."""
        return self.parts.get(name) or self.missing.format(name)


class TestShare(NamedTuple):
    """What is tested on where there is no test part: a share of each class, None for none, and
    which one, by a seed.
    """

    fraction: float | None
    seed: int | None = None

    @property
    def by(self) -> str:
        """What it is drawn by, in words."""
        if self.seed is None:
            return "the files' names (data.test_fraction)"
        return f"the files' names and seed {self.seed} (data.test_fraction, data.test_seed)"


def settle(
    split: dict[PartName, Classes],
    words: Words,
    share: TestShare,
    problems: list[DataProblem],
    order: Sequence[str] | None = None,
    unlabelled: Mapping[PartName, tuple[str, ...]] | None = None,
) -> Arranged:
    """Sorts out pictures whose classes and parts are known: what is tested on, and which classes
    lack pictures.

    Args:
        split: pictures of each class in each part.
        share: of each class, tested on where there is no test part.
        problems: those found so far; what is found here is added.
        order: the classes in their order; that of their names unless given.
        unlabelled: pictures without a class, by part; with them a class needs none in that part.

    Raises:
        UsageError: a part is to be drawn that is there, or by a seed and there is no share.
        BadData: there are fewer than two classes.
    """
    split.setdefault("train", {})
    bare = {part: paths for part, paths in (unlabelled or {}).items() if paths}
    notes = [*_left_out(split, bare, words)]
    if "test" in split or "test" in bare:
        if share != TestShare(None):
            key = "test_seed" if share.fraction is None else "test_fraction"
            has = words.tested.format(words.part("test"))
            raise UsageError(
                f"data.{key} is set, and {words.place} {has}",
                hint=words.move.replace("test_fraction", key),
            )
    elif share.fraction is not None:
        whole = "each class"
        if not any(split["train"].values()) and "train" in bare:
            bare["train"], bare["test"] = _drawn_of(bare["train"], share)
            whole = "the pictures"
        else:
            split["train"], split["test"] = _drawn(split["train"], share, words, problems)
        notes.append(f"the test part is {share.fraction:g} of {whole}, drawn by {share.by}")
    elif share.seed is not None:
        raise UsageError(
            "data.test_seed says which share of the pictures is tested on, and data.test_fraction "
            "says none",
            hint="data.test_fraction = 0.2, for example",
        )
    elif "val" in split or "val" in bare:
        if "val" in split:
            split["test"] = split.pop("val")
        if "val" in bare:
            bare["test"] = bare.pop("val")
        missing = words.missing.format("test")
        notes.append(f"there is no {missing}: accuracy is reported on {words.part('val')}")
    else:
        split["test"] = dict(split["train"])  # what is wrong with the rest can still be told
        untested = DataProblem(
            "part",
            f"{words.place} {words.untested}",
            f"-s data.test_fraction=0.2 tests on a fifth of each class; or {words.test_on}",
        )
        problems.append(untested)
    if "test" in bare:
        split["test"] = {}
    names = order or sorted({name for classes in split.values() for name in classes})
    if not names and bare:
        raise NamelessClasses(
            f"no picture in {words.place} has a label, and nothing names the classes",
            hint='-s \'data.class_names=["ant", "bee"]\' names them in the order of the teacher\'s',
        )
    _check_classes(split, names, words, problems, bare)
    return Arranged(
        tuple(names),
        split["train"],
        split.get("val"),
        split["test"],
        tuple(problems),
        tuple(notes),
        unlabelled=bare,
    )


def _left_out(
    split: dict[PartName, Classes], bare: dict[PartName, tuple[str, ...]], words: Words
) -> Iterator[str]:
    """Takes the pictures without a label out of a part to measure on that has others, and says
    so: accuracy and agreement shall be of the same pictures.
    """
    for part in ("val", "test"):
        if part in bare and any(split.get(part, {}).values()):
            count = len(bare.pop(part))
            yield (
                f"{count} picture{'s' * (count > 1)} in {words.part(part)} without a label "
                f"{'are' if count > 1 else 'is'} left out: the others have one"
            )


def check_named(found: Iterable[str], class_names: Sequence[str], place: Path) -> None:
    """Refuses labels that are none of the classes that the user has named (data.class_names).

    Raises:
        BadData: as said.
    """
    if unknown := sorted(set(found) - set(class_names)):
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise BadData(
            f"{place} has the class {unknown[0][:40]!r}{more}, and data.class_names no such name",
            hint="name it there, or leave data.class_names out",
        )


def _drawn(
    classes: Classes, share: TestShare, words: Words, problems: list[DataProblem]
) -> tuple[Classes, Classes]:
    """The files of each class in two parts. Each file has a number of its own, made of its path and
    the seed alone, and the smallest ones are tested on: so one that comes or goes changes no
    other's place, but at the edge.
    """
    train, test = {}, {}
    for name, paths in classes.items():
        train[name], test[name] = _drawn_of(paths, share)
        if len(paths) == 1:
            problems.append(
                DataProblem(
                    "class",
                    f"class {name!r} has 1 picture, which cannot be both trained and tested on",
                    words.lone,
                )
            )
            test[name] = paths  # said already
    return train, test


def _drawn_of(paths: tuple[str, ...], share: TestShare) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The two parts of some files, those to test on last."""
    assert share.fraction is not None  # else nothing is drawn
    stream = random.key(share.seed or 0, "test part")
    count = min(max(round(len(paths) * share.fraction), 1), max(len(paths) - 1, 0))
    order = sorted(paths, key=lambda path: random.bits_int(stream, _number(path)))
    chosen = set(order[:count])
    return (
        tuple(path for path in paths if path not in chosen),
        tuple(path for path in paths if path in chosen),
    )


def _number(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "little")


def _check_classes(
    split: dict[PartName, Classes],
    names: Sequence[str],
    words: Words,
    problems: list[DataProblem],
    bare: Container[PartName],
) -> None:
    """Gives each part an entry for every class, and notes the classes that lack pictures.

    Args:
        bare: the parts that have pictures without a label, which may be of any class.
    """
    if len(names) < 2:
        number = words.number.format(len(split["train"]))
        raise BadData(f"{words.classes_of} {number}", hint=words.two)
    for classes in split.values():
        for name in names:
            classes.setdefault(name, ())
    for name in names:
        counts = {part: len(classes[name]) for part, classes in split.items()}
        if all(counts[part] or part in bare for part in _NEEDED):
            continue
        has = [
            f"{count} picture{'s' * (count > 1)} in {words.part(part)}"
            for part, count in counts.items()
            if count
        ]
        lacking: list[PartName] = [
            part for part in _NEEDED if not counts.get(part) and part not in bare
        ]
        lacks = " and ".join(words.part(part) for part in lacking)
        if not has:
            message, hint = f"class {name!r} has no picture", words.none
        else:
            message = f"class {name!r} has {' and '.join(has)} and none in {lacks}"
            hint = words.put.format(lacks)
        problems.append(DataProblem("class", message, hint))
    split["train"] = {name: split["train"][name] for name in names}
