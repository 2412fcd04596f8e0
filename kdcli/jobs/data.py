"""Whether a dataset is on this machine, and how to get it."""

from __future__ import annotations

from pathlib import Path

from kdcli import catalog
from kdcli.errors import NotFound, UsageError
from kdcli.jobs.assemble import data_root


def is_present(name: str, root: Path) -> bool:
    """Whether a dataset can be opened under a root.

    Raises:
        BadData: it is there and damaged.
    """
    module = catalog.load(catalog.entry("dataset", name))
    try:
        module.load(name, options=module.Options(), root=root)
    except NotFound:
        return False
    return True


def download(name: str, root: str | None = None) -> Path:
    """Fetch a dataset with torchvision; returns the folder it is in.

    Raises:
        UsageError: there is nothing to fetch for it. KdError: the network or the disk failed.
    """
    found = catalog.entry("dataset", name)
    if not found.facts.get("download"):
        raise UsageError(f"{name} is not downloaded: it is embedded, generated or your own", hint=f"kd datasets {name}")
    folder = data_root(root)
    catalog.load(found).download(name, root=folder)
    return folder
