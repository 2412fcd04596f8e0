"""Classes as people give them: by name, or by number from 0. No torch.

Text is always a name. A whole number is the class of that name where one is called so, as in a
folder "3", and the class at that position elsewhere: names win. What was understood can be shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from kdcli.errors import UsageError

_SHOWN = 12  # class names that a sentence lists


def number_of(item: str | int, class_names: Sequence[str], key: str) -> int:
    """The number of a class.

    Args:
        item: its name, or a number.
        class_names: [K] names.
        key: where it was given, for messages.

    Raises:
        UsageError: no class has that name or number, or several share the name.
    """
    found = [number for number, name in enumerate(class_names) if name == str(item)]
    if len(found) == 1:
        return found[0]
    if isinstance(item, int):
        if not 0 <= item < len(class_names):
            raise UsageError(
                f"{key}: there is no class {item}",
                hint=f"classes are numbered 0 to {len(class_names) - 1}",
            )
        return item
    if found:
        numbers = " and ".join(map(str, found))
        raise UsageError(
            f"{key}: several classes are called {item!r}",
            hint=f"give the number, without quotes: {numbers}",
        )
    near = difflib.get_close_matches(item, class_names, n=1)
    more = ", ..." if len(class_names) > _SHOWN else ""
    hint = (
        f"did you mean {near[0]!r}?"
        if near
        else f"classes are {', '.join(class_names[:_SHOWN])}{more}"
    )
    raise UsageError(f"{key}: no class is called {item!r}", hint=hint)


def shown(number: int, class_names: Sequence[str]) -> str:
    """A class so that nobody can take its name for its number: cat (number 3); 7, where both are
    the same.
    """
    name = class_names[number]
    return name if name == str(number) else f"{name} (number {number})"
