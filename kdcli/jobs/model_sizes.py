"""The sizes of many networks of a library, for lists: each is measured once for a version of the
library, and remembered in kd's cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from kdcli import __version__, catalog
from kdcli.errors import KdError
from kdcli.files import read_json, write_json
from kdcli.jobs.model_info import ModelCard, Shape, describe_model
from kdcli.surroundings import cache_root
from kdcli.typed import strict

SECONDS = 120.0  # that a list waits for sizes nobody has measured yet
_PACKAGES = {"hf": "transformers"}  # libraries that are called otherwise than their networks


def describe_models(
    names: Sequence[str],
    num_classes: int = 10,
    input_shape: Shape | None = None,
    *,
    seconds: float = SECONDS,
    measuring: Callable[[int], None] = lambda _left: None,
) -> dict[str, ModelCard | None]:
    """What `describe_model` says of each network, in order: None of one that is none for kd. Those
    that there was no time for are left out; the next call finds more.

    Args:
        seconds: after so many no other network is measured.
        measuring: told once how many are not remembered, before the first of them is measured.
    """
    files = {
        name: _file(catalog.entry("model", name).family, num_classes, input_shape) for name in names
    }
    known = {file: _remembered(file) for file in set(files.values())}
    missing = [name for name in names if name not in known[files[name]]]
    if missing and seconds > 0:
        measuring(len(missing))
    until = time.monotonic() + seconds
    changed: set[Path] = set()
    for name in missing:
        if time.monotonic() >= until:
            break
        known[files[name]][name] = _described(name, num_classes, input_shape)
        changed.add(files[name])
    for file in changed:
        with suppress(KdError):  # a cache that cannot be written is no reason not to list
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {name: card and asdict(card) for name, card in known[file].items()})
    found = {name: known[files[name]] for name in names}
    return {name: cards[name] for name, cards in found.items() if name in cards}


def _described(name: str, num_classes: int, input_shape: Shape | None) -> ModelCard | None:
    try:
        return describe_model(name, num_classes, input_shape)
    except KdError:  # it does not take this size, or is none for kd: a list shows the others
        return None


def _file(family: str, num_classes: int, input_shape: Shape | None) -> Path:
    try:
        version = metadata.version(_PACKAGES.get(family, family))
    except metadata.PackageNotFoundError:
        version = "kd"
    size = f"{num_classes}" + ("" if input_shape is None else f"-{'x'.join(map(str, input_shape))}")
    return cache_root() / "networks" / f"{family}-{version}-kd-{__version__}-{size}.json"


def _remembered(file: Path) -> dict[str, ModelCard | None]:
    try:
        return strict(dict[str, ModelCard | None], read_json(file))
    except (KdError, ValueError):  # none yet, or damaged: measured again
        return {}
