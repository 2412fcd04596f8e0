"""Shell completion: the words offered after TAB. From the catalogue and the file system only: no
torch, well under 0.3 s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

Completer = Callable[[str], list[tuple[str, str]]]


def _of_kind(kind: Literal["method", "model", "dataset"]) -> Completer:
    def complete(incomplete: str) -> list[tuple[str, str]]:
        from kdcli import catalog

        found = catalog.entries(kind)
        return [
            (name, found[name].summary) for name in sorted(found) if name.startswith(incomplete)
        ]

    return complete


methods = _of_kind("method")
models = _of_kind("model")
datasets = _of_kind("dataset")


def shipped(incomplete: str) -> list[tuple[str, str]]:
    """Names of shipped recipes."""
    from kdcli.recipe.shipped import ls

    return [(found.name, found.summary) for found in ls() if found.name.startswith(incomplete)]


def sweeps(incomplete: str) -> list[tuple[str, str]]:
    """Shipped sweeps by name, and TOML files nearby."""
    from kdcli.recipe.shipped import ls

    found = [
        (item.name, item.summary)
        for item in ls()
        if item.kind == "sweep" and item.name.startswith(incomplete)
    ]
    return found + [(str(path), "file") for path in _nearby(incomplete) if path.suffix == ".toml"]


def recipes(incomplete: str) -> list[tuple[str, str]]:
    """Shipped recipes by name, and TOML files nearby."""
    return shipped(incomplete) + [
        (str(path), "file") for path in _nearby(incomplete) if path.suffix == ".toml"
    ]


def runs(incomplete: str) -> list[tuple[str, str]]:
    """Run directories, and those of imported weights: below runs/, or below what is typed
    already.
    """
    from kdcli.runs.find import runs_dir

    folder = Path(incomplete).parent if "/" in incomplete else runs_dir(os.environ)
    files = (*folder.glob("*/recipe.toml"), *folder.glob("*/model.safetensors"))
    found = sorted({path.parent for path in files})
    return [(str(path), "run") for path in found if str(path).startswith(incomplete)]


def _nearby(incomplete: str) -> Iterator[Path]:
    folder = Path(incomplete).parent
    return (path for path in sorted(folder.glob("*")) if str(path).startswith(incomplete))
