"""Which classes of a teacher make up each class of the data. No torch.

A class of the data may be several of the teacher's: their probabilities are added. Classes of the
teacher that nobody asked for are left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence

from kdcli.core.classes import number_of
from kdcli.errors import UsageError

Groups = tuple[tuple[int, ...], ...]  # for each class of the data, numbers of the teacher's classes
Names = Sequence[Sequence[str]]  # for each class of the teacher, further names of it

KEY = "teacher.classes"
_LINES = 12  # classes that are shown one by one
_SHOWN = 4  # classes of the teacher that a line lists
_NEAREST = 3


def groups_of(
    given: Mapping[str, Sequence[str | int]],
    own: Sequence[str],
    theirs: Sequence[str],
    further: Callable[[], Names] = tuple,
) -> Groups:
    """The teacher's classes of each class of the data.

    Args:
        given: by class of the data (its name, or its number where none is called so) classes of the
            teacher, by name or number. A class of the data that is not there is the teacher's class
            of the same name.
        own: [K] names of the data's classes. theirs: [M] names of the teacher's.
        further: [M] other names of the teacher's classes, asked for where `theirs` is not enough.

    Raises:
        UsageError: a name is none, or several classes'; a class of the data has no class of the
            teacher; a class of the teacher is in two.
    """
    wanted = {_own_number(name, own): items for name, items in given.items()}
    if len(wanted) < len(given):
        raise UsageError(f"{KEY}: a class of the data is there twice", hint="give each once")
    found = tuple(
        tuple(dict.fromkeys(_their_number(item, theirs, further) for item in wanted[number]))
        if number in wanted
        else (_same(name, theirs, further),)
        for number, name in enumerate(own)
    )
    taken: dict[int, str] = {}
    for name, group in zip(own, found, strict=True):
        if not group:
            raise UsageError(
                f"{KEY}: {name!r} has no class of the teacher",
                hint="give it the nearest one, or leave its pictures out of the data",
            )
        for number in group:
            if number in taken:
                raise UsageError(
                    f"{KEY}: the teacher's class {theirs[number]!r} is in {taken[number]!r} and in "
                    f"{name!r}: its probability counts once",
                    hint="leave it to one of them",
                )
            taken[number] = name
    return found


def in_words(groups: Groups, own: Sequence[str], theirs: Sequence[str]) -> Iterator[str]:
    """What was understood, a line for each class of the data, of the first dozen."""
    for name, group in list(zip(own, groups, strict=True))[:_LINES]:
        names = [theirs[number] for number in group]
        if len(names) == 1:
            yield f"{name} <- {names[0]}"
        else:
            more = ", ..." if len(names) > _SHOWN else ""
            listed = ", ".join(names[:_SHOWN])
            yield f"{name} <- {len(names)} of the teacher's classes: {listed}{more}"
    if len(own) > _LINES:
        yield f"... and {len(own) - _LINES} more classes of the data"
    if left := len(theirs) - sum(map(len, groups)):
        yield f"of the teacher's {len(theirs):,} classes {left:,} are left out"


def _own_number(item: str, own: Sequence[str]) -> int:
    # keys of TOML and JSON are text: digits are a number where no class is called so
    as_number = item.isascii() and item.isdecimal() and len(item) < 10
    return number_of(int(item) if as_number else item, own, f"{KEY}, a class of the data")


def _same(name: str, theirs: Sequence[str], further: Callable[[], Names]) -> int:
    try:
        return _their_number(name, theirs, further)
    except UsageError as error:
        raise UsageError(
            f"{KEY} says nothing of the data's class {name!r}, and the teacher has none of "
            "that name",
            hint=error.hint,
        ) from error


def _their_number(item: str | int, theirs: Sequence[str], further: Callable[[], Names]) -> int:
    if isinstance(item, int) or item in theirs:
        return number_of(item, theirs, f"{KEY}, a class of the teacher")
    names = [
        {_plain(name) for name in every}
        for every in _joined([_synonyms(name) for name in theirs], further())
    ]
    found = [number for number, every in enumerate(names) if _plain(item) in every]
    if len(found) == 1:
        return found[0]
    if found:
        each = ", ".join(f"{number} ({theirs[number]})" for number in found[:_LINES])
        raise UsageError(
            f"{KEY}: {item!r} is what several of the teacher's classes are called",
            hint=f"give the number of one, or of all, without quotes: {each}",
        )
    number_by_name = {name: number for number, every in enumerate(names) for name in every}
    wanted = _plain(item)
    near = [name for name in number_by_name if f" {wanted} " in f" {name} "][:_NEAREST]
    near = near or difflib.get_close_matches(wanted, number_by_name, n=_NEAREST)
    listed = dict.fromkeys(theirs[number_by_name[name]] for name in near)
    first = ", ".join(theirs[:_SHOWN])
    raise UsageError(
        f"{KEY}: the teacher has no class {item!r}",
        hint=(
            f"the nearest are {', '.join(map(repr, listed))}"
            if near
            else f"its classes are {first}{', ...' if len(theirs) > _SHOWN else ''}"
        ),
    )


def _synonyms(name: str) -> list[str]:
    """ImageNet's names are lists of synonyms: tench, Tinca tinca."""
    return [name, *name.split(",")]


def _joined(names: list[list[str]], further: Names) -> list[list[str]]:
    more = further or [()] * len(names)
    return [
        [*every, *(part for name in others for part in _synonyms(name))]
        for every, others in zip(names, more, strict=True)
    ]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
