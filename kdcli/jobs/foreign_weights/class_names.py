"""The names of classes in a file of the user's, or ImageNet's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdcli.errors import BadData, UsageError
from kdcli.files import MAX_JSON_BYTES, parse_json, read_bytes

IMAGENET = "imagenet"


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of classes in the order of a network's logits.

    Args:
        path: "imagenet", for the thousand that most published weights predict; or a file. One name
            a line; or JSON: a list of names, an object of names by number (as transformers'
            id2label), or of numbers by name (as torchvision's class_to_idx).

    Raises:
        NotFound: no such file. BadData: it does not say one name for each number from 0.
    """
    if str(path) == IMAGENET and not path.exists():
        return _imagenet()
    try:
        text = read_bytes(path, MAX_JSON_BYTES).decode()
    except UnicodeDecodeError as error:
        raise BadData(f"{path} is no text in UTF-8", hint=_HINT) from error
    if path.suffix.lower() != ".json":
        return _checked(path, [line.strip() for line in text.splitlines() if line.strip()])
    try:
        content = parse_json(text)
    except ValueError as error:
        raise BadData(f"{path} cannot be read as JSON: {error}", hint=_HINT) from error
    return _checked(path, _ordered(path, content))


def _imagenet() -> tuple[str, ...]:
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


_HINT = 'one name a line; or JSON: ["ant", "bee"], {"0": "ant", "1": "bee"}, {"ant": 0, "bee": 1}'


def _ordered(path: Path, content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise BadData(f"{path} holds neither a list nor an object", hint=_HINT)
    by_number = {
        number: name
        for key, value in content.items()
        for number, name in [(int(key), value) if key.isdecimal() else (value, key)]
    }
    if any(type(number) is not int for number in by_number) or sorted(by_number) != list(
        range(len(content))
    ):
        raise BadData(
            f"{path} does not number its {len(content)} classes from 0 to {len(content) - 1}",
            hint=_HINT,
        )
    return [by_number[number] for number in range(len(content))]


def _checked(path: Path, names: list[Any]) -> tuple[str, ...]:
    # ImageNet's index has two names for each class: that of WordNet, and a word
    words = [name[-1] if isinstance(name, list) and name else name for name in names]
    if not words or not all(isinstance(name, str) and name for name in words):
        raise BadData(f"{path} does not name its classes", hint=_HINT)
    return tuple(words)


def check_number(path: Path, names: tuple[str, ...], num_classes: int, file: Path) -> None:
    """Refuses names that are more or fewer than the classes of a network.

    Raises:
        UsageError: they are.
    """
    if len(names) != num_classes:
        raise UsageError(
            f"{file} predicts {num_classes} classes, {path} names {len(names)}",
            hint="one name for each class, in the order of the network's answers",
        )
