"""The files of an image folder: which are pictures, of which class and part, and what is wrong.

Layouts as people have them: train/, val/ and test/ with a folder a class in each, one of the last
two alone, or folders of classes without parts, from which a test part is drawn. What other systems
leave behind is skipped, and counted. docs/reference/pictures.md says the same to users.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kdcli.data.arranged import Arranged, Classes, PartName, TestShare, Words, check_named, settle
from kdcli.errors import BadData, NotFound
from kdcli.results.data_report import DataProblem

PARTS: Mapping[PartName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# what other systems leave behind, in lower case, beside all names that begin with a dot
LEFT_BEHIND = frozenset(
    {
        "__macosx",
        "$recycle.bin",
        "@eadir",
        "desktop.ini",
        "ehthumbs.db",
        "icon\r",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)
# formats of pictures that are not read: to leave one out is to lose data
_OTHER_PICTURES = {
    ".avif",
    ".cr2",
    ".cr3",
    ".dcm",
    ".dng",
    ".eps",
    ".exr",
    ".hdr",
    ".heic",
    ".heif",
    ".ico",
    ".j2k",
    ".jp2",
    ".jxl",
    ".jpf",
    ".jpx",
    ".nef",
    ".orf",
    ".pcx",
    ".psd",
    ".raf",
    ".raw",
    ".rw2",
    ".svg",
    ".tga",
    ".xcf",
}
_SHOWN = 6  # endings that a sentence lists


@dataclass(slots=True)
class _Found:
    """What lies below some folders. loose: pictures outside of class folders, by folder. apart: a
    folder that is not gone into from above.
    """

    suffixes: tuple[str, ...]
    skipped: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    loose: Counter[str] = field(default_factory=Counter)
    problems: list[DataProblem] = field(default_factory=list)
    apart: Path | None = None

    def entries(self, folder: Path) -> tuple[list[str], list[str]]:
        """Names of the folders in a folder and of its files, in order, without what is skipped."""
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_left_behind(entry.name):
                        self.skipped += 1
                    elif self._is_apart(entry):
                        continue
                    else:
                        (folders if entry.is_dir() else files).append(entry.name)
        except OSError as error:
            self.problems.append(
                DataProblem(
                    "file",
                    f"{folder} cannot be read: {error.strerror}",
                    "give yourself the right to read it",
                    file=str(folder),
                )
            )
        return sorted(folders), sorted(files)

    def _is_apart(self, entry: os.DirEntry[str]) -> bool:
        """Tells whether an entry is the folder of pictures without labels."""
        return (
            self.apart is not None
            and entry.name == self.apart.name
            and Path(entry.path).resolve() == self.apart
        )

    def pictures(self, folder: Path, below: str) -> tuple[str, ...]:
        """All pictures in a folder and its folders, as paths that begin with `below`: folders in
        order of their paths, files in order of their names.
        """
        found = sorted(self._walk(folder, below, ()))
        return tuple(f"{place}/{name}" for place, name in found)

    def _walk(
        self, folder: Path, below: str, above: tuple[tuple[int, int], ...]
    ) -> Iterator[tuple[str, str]]:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link to a folder that it lies in
            return
        folders, files = self.entries(folder)
        yield from ((below, name) for name in self.read(files))
        for name in folders:
            yield from self._walk(folder / name, f"{below}/{name}", (*above, here))

    def read(self, files: Sequence[str]) -> list[str]:
        """Those files that are read by their names; the others are counted."""
        kept = []
        for name in files:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  a Path for each of a million names takes seconds
            if suffix in self.suffixes:
                kept.append(name)
            else:
                self.unread[suffix or "no ending"] += 1
        return kept

    def has_pictures(self, folder: Path) -> bool:
        """Tells whether a picture lies in a folder itself."""
        return bool(self.read(self.entries(folder)[1]))

    def classes(self, folder: Path, below: str) -> Classes:
        """The pictures of each class folder in a folder; `below` is "" at the top."""
        folders, files = self.entries(folder)
        for name in folders:
            if (shown := name.encode(errors="backslashreplace").decode()) != name:
                raise BadData(
                    f"the name of the class folder {folder}/{shown} is not UTF-8, as kd's files "
                    "are",
                    hint="rename it",
                )
        if loose := self.read(files):
            self.loose[str(folder)] += len(loose)
        return {
            name: self.pictures(folder / name, f"{below}/{name}" if below else name)
            for name in folders
        }


def is_left_behind(name: str) -> bool:
    """Tells whether a file or folder is one that other systems leave behind, by its name."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def arrange(
    top: Path,
    suffixes: tuple[str, ...],
    share: TestShare,
    apart: Path | None = None,
    class_names: Sequence[str] | None = None,
) -> Arranged:
    """Sorts out the files of a folder. None is opened. A part without class folders is of pictures
    without labels, and so is a folder that holds pictures alone.

    Args:
        top: holds train/ and test/ or val/, or the class folders.
        suffixes: how the names of pictures end, in lower case.
        share: of each class, tested on where there is no test/.
        apart: a folder of pictures without labels, which join the training part; inside of the top
            it is none of its folders.
        class_names: all classes in their order, where the user has named them.

    Raises:
        NotFound: there is no such folder, or no part to train on. UsageError: a part is
            to be drawn that is there, or by a seed and there is no share. BadData: there are fewer
            than two classes, or a part twice.
    """
    found = _Found(suffixes)
    if not top.is_dir():
        raise NotFound(f"no such folder: {top}", hint=_LAYOUT_HINT)
    more = () if apart is None else _unlabelled(top, apart, found)
    parts = _parts(top, found)
    split, bare = _sorted_out(top, parts, found)
    if more:
        bare["train"] = (*bare.get("train", ()), *more)
    if "train" not in parts and parts and not more:
        raise NotFound(f"{top} has no folder train/ with class folders in it", hint=_LAYOUT_HINT)
    if class_names is not None:
        check_named((name for classes in split.values() for name in classes), class_names, top)
    words = Words(top, {part: f"{folder}/" for part, folder in parts.items()}, top)
    if parts:
        several = "remove its folders, or put pictures in"
        words = replace(words, classes_of=top / parts.get("train", ""), none=several)
    settled = settle(split, words, share, found.problems, class_names, bare)
    _check_rest(found)
    return replace(
        settled,
        problems=tuple(found.problems),
        notes=(*settled.notes, *_notes(found)),
        skipped=found.skipped,
        unread=dict(sorted(found.unread.items())),
    )


def _sorted_out(
    top: Path, parts: Mapping[PartName, str], found: _Found
) -> tuple[dict[PartName, Classes], dict[PartName, tuple[str, ...]]]:
    """The pictures of each part by class, and those of parts that have no class folders."""
    split: dict[PartName, Classes] = {}
    bare: dict[PartName, tuple[str, ...]] = {}
    for part, folder in (parts or {"train": ""}).items():
        if _Found((), apart=found.apart).entries(top / folder)[0]:
            split[part] = found.classes(top / folder, folder)
        elif pictures := found.pictures(top / folder, folder or "."):
            bare[part] = pictures if folder else tuple(Path(path).name for path in pictures)
    return split, bare


def class_folders(folder: Path, suffixes: tuple[str, ...]) -> tuple[Classes, tuple[str, ...]]:
    """The pictures of each class folder in a folder, and what is to be said of all else that lies
    there, a sentence each.

    Raises:
        BadData: a class folder has a name that is not UTF-8.
    """
    found = _Found(suffixes)
    classes = found.classes(folder, "")
    _check_rest(found)
    return classes, (*(problem.message for problem in found.problems), *_notes(found))


def loose_pictures(folder: Path, suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the pictures in a folder itself, in order."""
    found = _Found(suffixes)
    return tuple(found.read(found.entries(folder)[1]))


def _unlabelled(top: Path, folder: Path, found: _Found) -> tuple[str, ...]:
    """The pictures of a folder without classes, as paths from the top."""
    if not folder.is_dir():
        raise NotFound(
            f"no such folder: {folder}", hint="data.unlabelled is a folder of picture files"
        )
    found.apart = folder.resolve()
    if found.apart in (top.resolve(), *top.resolve().parents):
        raise BadData(
            f"data.unlabelled is {folder}, which holds data.path: what is tested on would be "
            "trained on",
            hint="put the pictures without labels into a folder of their own",
        )
    below = os.path.relpath(found.apart, top.resolve())
    pictures = found.pictures(folder, below)
    if not pictures:
        raise BadData(
            f"{folder} holds no pictures (data.unlabelled)",
            hint=f"kd reads {' '.join(found.suffixes)}",
        )
    return pictures


_LAYOUT_HINT = (
    "set data.path to a folder that holds train/CLASS/ and test/CLASS/, or to one of CLASS/ with "
    "data.test_fraction"
)


def _parts(top: Path, found: _Found) -> dict[PartName, str]:
    """The names of the folders that hold a part; none where the top holds the classes."""
    folders, _ = _Found((), apart=found.apart).entries(top)
    words = {name for names in PARTS.values() for name in names}
    # else a folder of pictures may be a class that is called so
    sure = all(folder.lower() in words for folder in folders) or any(
        folder.lower() in words and _has_folders(top / folder) for folder in folders
    )
    parts: dict[PartName, str] = {}
    for part, names in PARTS.items():
        given = [
            folder
            for folder in folders
            if folder.lower() in names
            and (
                _has_folders(top / folder)
                or (sure and _Found(found.suffixes).has_pictures(top / folder))
            )
        ]
        if len(given) > 1:
            raise BadData(
                f"{top} has {' and '.join(f'{name}/' for name in given)}",
                hint="both mean the same part: keep one of them",
            )
        if given:
            parts[part] = given[0]
    if parts:
        _, files = found.entries(top)
        if loose := found.read(files):
            found.loose[str(top)] += len(loose)
        if others := [folder for folder in folders if folder not in parts.values()]:
            found.problems.append(
                DataProblem(
                    "layout",
                    f"{top} has other folders beside its parts, which are not read: "
                    f"{_listed(others)}",
                    "move their pictures into train/, val/ or test/, or the folders away",
                    stops=False,
                )
            )
    return parts


def _has_folders(folder: Path) -> bool:
    return bool(_Found(()).entries(folder)[0])


def _check_rest(found: _Found) -> None:
    """Notes what is not read."""
    found.problems += [
        DataProblem(
            "layout",
            f"{folder} holds {count} picture{'s' * (count > 1)} outside its class folders",
            "move each into the folder of its class",
            stops=False,
        )
        for folder, count in found.loose.items()
    ]
    lost = {name: n for name, n in found.unread.items() if name in _OTHER_PICTURES}
    if lost:
        found.problems.append(
            DataProblem(
                "format",
                f"pictures of formats that are not read: {_counted(lost)}",
                f"convert them; kd reads {' '.join(found.suffixes)}",
                stops=False,
            )
        )


def _notes(found: _Found) -> Iterator[str]:
    if found.skipped:
        yield (
            f"skipped {found.skipped} hidden or left behind by other systems (such as .DS_Store, "
            "._x, Thumbs.db)"
        )
    others = {name: n for name, n in found.unread.items() if name not in _OTHER_PICTURES}
    if others:
        yield f"files that are no pictures: {_counted(others)}"


def _counted(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return _listed([f"{number} {name}" for name, number in most])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
