"""Pictures of which something else than folders says the class and the part: a table, or shards.

Every reader of such data gives the same `Rows`, and this file sorts them out as folders are: the
same parts, the same split, the same complaints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdcli.data.arranged import Arranged, Classes, PartName, TestShare, Words, check_named, settle
from kdcli.data.folder_files import PARTS
from kdcli.errors import BadData
from kdcli.results.data_report import DataProblem

_SHOWN = 5  # rows that a sentence names
MOST_CLASSES = 100_000
_NO_LABEL = -1  # as Hugging Face writes it


@dataclass(frozen=True, slots=True)
class Rows:
    """Pictures in order.

    names: [n]. labels: [n] names of classes, None where there is none. parts: [n] as
    given, or None where nothing says them. places: [n] where each stands, as people find it: "line
    3". order: all classes in their order, where something says it. said: how it was understood, a
    sentence each.
    """

    names: Sequence[str]
    labels: Sequence[str | None]
    parts: Sequence[str] | None
    places: Sequence[str]
    order: Sequence[str] | None = None
    said: tuple[str, ...] = ()


def part_of(text: str) -> PartName | None:
    """The part that a word means, in any case of letters; None where it means none."""
    found = text.strip().lower()
    return next((part for part, names in PARTS.items() if found in names), None)


def label_of(cell: object, names: Sequence[str] | None, where: str, column: str) -> str | None:
    """The class that a cell of a table names: as its column names a number, else the cell as text;
    None where it names none.

    Args:
        names: of the column's numbers, where something says them. where: the row, for messages.

    Raises:
        BadData: it holds something else, or a number that has no name.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if not isinstance(cell, str | int):
        raise BadData(
            f"{where} of column {column!r} holds {str(cell)[:40]!r}, which is no label",
            hint="labels are names or whole numbers",
        )
    if isinstance(cell, str):
        return cell.strip()
    if cell == _NO_LABEL:
        return None
    if names is None:
        return str(cell)
    if not 0 <= cell < len(names):
        raise BadData(
            f"{where} has the label {cell}, and {len(names)} classes are named",
            hint="mend the label",
        )
    return names[cell]


def words_of_rows(
    place: Path, split: str = "name a column that says train and test: data.split"
) -> Words:
    """How messages speak of data whose pictures say their parts themselves. split: how they would
    say what is tested on.
    """
    return Words(
        place,
        {},
        place,
        missing="part {}",
        tested="has a part {}",
        move="leave data.test_fraction out",
        untested="has no part test or val, and data.test_fraction is not set",
        test_on=split,
        number="has {} different labels",
        two="give the pictures of each class a label of their own, two at least",
        none="add pictures of it",
        lone="add pictures of it, or leave it out",
        put="add pictures of it to {}, or remove it from every part",
    )


def arrange_rows(
    rows: Rows,
    place: Path,
    share: TestShare,
    words: Words,
    class_names: Sequence[str] | None = None,
) -> Arranged:
    """Sorts out rows.

    Args:
        place: the table or the shards, for messages.
        share: of each class, tested on where there is no test part.
        words: how messages speak of them; the parts that are there are filled in.
        class_names: all classes in their order, where the user has named them.

    Raises:
        UsageError: a part is to be drawn that is there. BadData: there is nothing to train on, or
            fewer than two classes.
    """
    if not rows.names:
        raise BadData(f"{place} holds no picture", hint="give data with one row a picture")
    problems = list(_refused(rows, place))
    split: dict[PartName, Classes] = {}
    collected: dict[PartName, dict[str, list[str]]] = {}
    given: dict[PartName, str] = {}
    bare: dict[PartName, list[str]] = {}
    for number, (name, label) in enumerate(zip(rows.names, rows.labels, strict=True)):
        word = "train" if rows.parts is None else rows.parts[number]
        part = part_of(word)
        if part is None:
            continue  # said already
        given.setdefault(part, word.strip())
        if label is None:
            bare.setdefault(part, []).append(name)
            continue
        collected.setdefault(part, {}).setdefault(label, []).append(name)
    split = {
        part: {label: tuple(names) for label, names in classes.items()}
        for part, classes in collected.items()
    }
    classes = {label for labels in split.values() for label in labels}
    named = class_names if class_names is not None else rows.order
    # then too little is left to tell more
    if problems and ("train" not in split or (len(classes) < 2 and not named)):
        raise BadData(problems[0].message, hint=problems[0].hint)
    if "train" not in split and "train" not in bare:
        raise BadData(
            f"{place} has no picture to train on", hint="call the part of training pictures train"
        )
    order, said = _order(rows, split, class_names, place)
    if len(order) > MOST_CLASSES:
        raise BadData(
            f"{place} has {len(order):,} different labels",
            hint=f"kd takes {MOST_CLASSES:,} classes at most: is data.label the right column?",
        )
    words = replace(words, parts={} if rows.parts is None else given)
    unlabelled = {part: tuple(names) for part, names in bare.items()}
    found = settle(split, words, share, problems, order, unlabelled)
    return replace(found, notes=(*rows.said, *said, *found.notes))


def _order(
    rows: Rows, split: dict[PartName, Classes], class_names: Sequence[str] | None, place: Path
) -> tuple[list[str], list[str]]:
    """The classes in order, and what is to be said of it: as the user names them, else whole
    numbers count, and all other labels are sorted as text.

    Raises:
        BadData: a label is none of the user's names.
    """
    if class_names is not None:
        check_named((label for labels in split.values() for label in labels), class_names, place)
        return list(class_names), []
    if rows.order is not None:
        return list(rows.order), []
    labels = {label for classes in split.values() for label in classes}
    if not labels or not all(label.isascii() and label.isdecimal() for label in labels):
        return sorted(labels), []
    order = sorted(labels, key=lambda label: (int(label), label))
    return order, [f"labels are numbers: {len(order)} classes, {order[0]} to {order[-1]}"]


def _refused(rows: Rows, place: Path) -> Iterator[DataProblem]:
    if rows.parts is None:
        return
    strange: dict[str, list[str]] = {}
    for where, word in zip(rows.places, rows.parts, strict=True):
        if part_of(word) is None:
            strange.setdefault(word, []).append(where)
    for word, found in list(strange.items())[:_SHOWN]:
        yield DataProblem(
            "dataset",
            f"{place}: {_counted(found)} of the part {word[:40]!r}",
            "parts are train, val and test",
        )


def _counted(places: Sequence[str]) -> str:
    """Some places in a few words: "3 pictures (line 4, line 7, line 12)"."""
    number = f"{len(places):,} picture{'s' * (len(places) > 1)}"
    more = ", ..." if len(places) > _SHOWN else ""
    return f"{number} ({', '.join(places[:_SHOWN])}{more})"


# ---- which columns -------------------------------------------------------------------------------

# names that columns have for what they hold, the likeliest first
_USUAL = {
    "image": ("image", "img", "picture", "photo", "path", "file", "filename", "file_name"),
    "label": ("label", "labels", "class", "target", "category", "class_name", "fine_label"),
    "split": ("split", "part", "subset", "set", "fold"),
}


def choose_columns(
    there: Sequence[str],
    asked: Mapping[str, str | None],
    place: Path,
    likely: Mapping[str, str] | None = None,
    *,
    may_lack_labels: bool = False,
) -> dict[str, str]:
    """Which column holds what.

    Args:
        there: the columns. asked: the column that a key ("image", "label", "split") names, None
            where it is to be found by its name.
        place: the table, for messages. likely: what the table itself says of a column's use.
        may_lack_labels: whether a table without a column of labels is of pictures without any.

    Raises:
        BadData: a column that was asked for is not there, or none is found for pictures or labels.
    """
    chosen = {}
    for key, name in asked.items():
        if name is not None:
            if name not in there:
                raise BadData(
                    f"{place} has no column {name!r} (data.{key})",
                    hint=f"it has {_listed(there)}",
                )
            chosen[key] = name
            continue
        plain = {column.strip().lower(): column for column in reversed(there)}
        found = next((plain[usual] for usual in _USUAL[key] if usual in plain), None)
        found = (likely or {}).get(key, found)
        if found is not None:
            chosen[key] = found
        elif key == "image" or (key == "label" and not may_lack_labels):
            what = "pictures" if key == "image" else "labels"
            raise BadData(
                f"{place}: no column's name says that it holds {what}",
                hint=f"-s data.{key}=COLUMN, one of {_listed(there)}"
                + ("; or data.class_names, where no picture has a label" * (key == "label")),
            )
    return chosen


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(name[:40] for name in names[:20]) + more


def said_of_columns(chosen: Mapping[str, str]) -> str:
    """The sentence that tells which column was taken for what."""
    return "columns: " + ", ".join(f"{key} from {name!r}" for key, name in chosen.items())
