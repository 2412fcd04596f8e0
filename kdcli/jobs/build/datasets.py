"""Datasets by name. Runs that follow each other in one process, as the cells of a sweep do, read
theirs once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from kdcli import catalog
from kdcli.data.source import Source
from kdcli.errors import KdError, UsageError
from kdcli.recipe.schema import DataSection

_kept: ContextVar[dict[str, Source] | None] = ContextVar("_kept", default=None)


@contextmanager
def kept_sources() -> Iterator[None]:
    """Within it the last dataset that was read is kept for whoever asks for it next; its files are
    taken not to change.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def open_source(data: DataSection) -> Source:
    """The dataset that a [data] section names.

    Raises:
        NotFound: it is not on this machine. BadData: it is, and cannot be used.
    """
    kept = _kept.get()
    key = data.model_dump_json(include={"name", "root", *data.own_keys()})
    if kept is not None and key in kept:
        return kept[key]
    if kept:
        kept.clear()  # first: there may be no room for two
    source = _read(data)
    if kept is not None:
        kept[key] = source
    return source


def _read(data: DataSection) -> Source:
    found = catalog.entry("dataset", data.name)
    module = catalog.load(found)
    if found.factory is not None:
        from kdcli.data.datasets.user import from_user

        try:
            made = getattr(module, found.factory)()
        except KdError:
            raise
        except Exception as error:
            raise UsageError(
                f"{data.name} failed: {type(error).__name__}: {error}",
                hint="it is called without arguments",
            ) from error
        return from_user(made, origin=data.name)
    source: Source = module.load(
        data.name, options=module.Options(**data.options), root=catalog.data_root(data.root)
    )
    return source


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
