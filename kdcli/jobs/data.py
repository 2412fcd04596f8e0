"""How to get a dataset."""

from __future__ import annotations

from pathlib import Path

from kdcli import catalog
from kdcli.errors import UsageError


def download(name: str, root: str | None = None) -> Path:
    """Fetch a dataset with torchvision; returns the folder it is in.

    Raises:
        UsageError: there is nothing to fetch for it. KdError: the network or the disk failed.
    """
    found = catalog.entry("dataset", name)
    if not found.facts.get("download"):
        raise UsageError(
            f"{name} is not downloaded: it is embedded, generated or your own",
            hint=f"kd datasets {name}",
        )
    folder = catalog.data_root(root)
    catalog.load(found).download(name, root=folder)
    return folder
