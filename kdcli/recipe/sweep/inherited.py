"""A sweep file over the one that it extends: a sweep as published, and the same one scaled down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli import trust
from kdcli.recipe.reading import extends, toml_file
from kdcli.recipe.reading.layers import Layer
from kdcli.recipe.reading.toml_file import Document, KeyPath, Origin

# laid over each other key by key; whatever else a sweep says replaces what it extends
MERGED = ("axes", "set", "table")


@dataclass(frozen=True)
class Inherited:
    """A sweep file, and what it extends, if anything."""

    own: Document
    below: Inherited | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The keys of all files, each from the uppermost that has it."""
        if self.below is None:
            return self.own.values
        below = self.below.values
        merged = {
            key: {**below[key], **value}
            for key, value in self.own.values.items()
            if key in MERGED and isinstance(value, dict) and isinstance(below.get(key), dict)
        }
        return {**below, **self.own.values, **merged}

    def document(self, path: KeyPath) -> Document:
        """The file that a value stands in; that of the sweep itself where no file has it."""
        return self._owner(path) or self.own

    def _owner(self, path: KeyPath) -> Document | None:
        values: Any = self.own.values
        for part in path[: 2 if path[:1] in {(name,) for name in MERGED} else 1]:
            if not isinstance(values, Mapping) or part not in values:
                return self.below._owner(path) if self.below else None  # noqa: SLF001  its own kind
            values = values[part]
        return self.own

    def origin(self, path: KeyPath) -> Origin:
        """The place of a key path, as Document.origin."""
        return self.document(path).origin(path)

    def is_own(self, path: KeyPath) -> bool:
        """Tells whether a value stands in the sweep's own file."""
        return self.document(path) is self.own

    def layer(self) -> Layer:
        """All values, with the places of all keys."""
        layer = Layer(self.values)
        found: Inherited | None = self
        while found is not None:
            document = found.own
            layer.origins.update(
                (path, document.origin(path))
                for path in document.spans
                if self.document(path) is document
            )
            found = found.below
        return layer


def from_file(path: Path) -> Inherited:
    """A sweep file over all that it extends.

    Raises:
        NotFound: no such file. RecipeInvalid: one of the files is not TOML, or cannot be extended.
    """
    return _from_file(path, (), trust.Folder(path.parent))


def _from_file(path: Path, children: tuple[Path, ...], tree: trust.Folder) -> Inherited:
    stranger = bool(children) and extends.is_stranger(path, tree)
    own = replace(toml_file.read(path), stranger=stranger)
    named = own.values.get("extends")
    if named is None:
        return Inherited(own)
    parent = extends.parent(own, named, (*children, path), "sweep")
    return Inherited(own, _from_file(parent, (*children, path), tree))
