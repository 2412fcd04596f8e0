"""The options of a method, network or dataset of a user's own, read from the text of its file.

Nothing of the file is executed: to look at a stranger's file must be safe. So only what the text
itself says is known: names, types made of Python's and typing's own, defaults and limits that are
literals. An option that says more is known by its name, and the file's own class checks it when the
file runs.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field, create_model

from kdcli.core import options as shared
from kdcli.core.options import Options
from kdcli.errors import UsageError

# key of a field's json_schema_extra: what the text does not say of it, in words
UNREAD = "unread"

_BASES: Mapping[str, type[Options]] = {
    "MethodOptions": Options,
    **{
        name: value
        for name, value in vars(shared).items()
        if isinstance(value, type) and issubclass(value, Options)
    },
}
_TYPES: Mapping[str, Any] = {
    **{kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict)},
    "None": None,
    "Any": Any,
    **{
        name: getattr(pydantic, name)
        for sign in ("Positive", "Negative", "NonNegative", "NonPositive")
        for name in (f"{sign}Int", f"{sign}Float")
    },
}
_FACTS = frozenset(
    {
        *("default", "description", "ge", "gt", "le", "lt", "multiple_of"),
        *("min_length", "max_length", "pattern", "strict", "allow_inf_nan"),
    }
)


class _Unread(Exception):
    """The text does not say it."""


def read(path: Path, tree: ast.Module) -> type[Options]:
    """The options class of a file.

    Args:
        path: for messages. tree: the file, parsed.

    Raises:
        UsageError: it inherits from a class that the text does not show, or makes no sense.
    """
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if "Options" not in classes:
        return Options
    try:
        return _Reader(path, classes, _imported(tree)).options("Options")
    except (TypeError, ValueError, NameError, pydantic.errors.PydanticUserError) as error:
        raise UsageError(f"{path}: class Options cannot be read: {error}") from error


def _imported(tree: ast.Module) -> dict[str, str]:
    """Names that the file imports, with those that they have where they come from."""
    return {
        alias.asname or alias.name: alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@dataclass(frozen=True, slots=True)
class _Reader:
    """Makes classes of a file's class statements."""

    path: Path
    classes: Mapping[str, ast.ClassDef]
    imported: Mapping[str, str]

    def options(self, name: str, below: tuple[str, ...] = ()) -> type[Options]:
        node = self.classes[name]
        bases = tuple(self._base(base, (*below, name)) for base in node.bases) or (Options,)
        fields: dict[str, Any] = {
            item.target.id: self._field(item)
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            if not item.target.id.startswith("_") and item.target.id != "model_config"
            if "ClassVar" not in ast.dump(item.annotation)
        }
        return create_model(name, __base__=bases, __doc__=ast.get_docstring(node), **fields)

    def _base(self, node: ast.expr, below: tuple[str, ...]) -> type[Options]:
        name = _last_name(node)
        if isinstance(node, ast.Name) and name in self.classes and name not in below:
            return self.options(name, below)
        known = self.imported.get(name, name) if isinstance(node, ast.Name) else name
        if known == "BaseModel":
            return Options
        if known in _BASES:
            return _BASES[known]
        raise UsageError(
            f"{self.path}: class {below[-1]} takes options from {ast.unparse(node)[:60]}, which kd "
            "cannot read without running the file",
            hint="let it inherit from kdcli.core.method.MethodOptions, and write them out",
        )

    def _field(self, node: ast.AnnAssign) -> tuple[Any, Any]:
        """The type and the field of an option; what the text does not say is left open."""
        unread: list[str] = []
        try:
            kind, facts = self._type(node.annotation)
        except _Unread:
            kind, facts = Any, {}
            unread.append("type")
        for key, value in _facts(node.value):
            try:
                facts = {**facts, key: _value(value)}
            except _Unread:
                unread.append(key)
        if "default" in unread:
            kind, facts = _union(kind, None), {**facts, "default": None}
        if unread:
            facts["json_schema_extra"] = {UNREAD: ", ".join(unread)}
        return kind, Field(**facts)

    def _type(self, node: ast.expr) -> tuple[Any, dict[str, Any]]:
        """A type, and the limits that Annotated adds to it at the outermost place."""
        if isinstance(node, ast.Subscript) and self._name(node.value) == "Annotated":
            kind, *more = _elements(node.slice)
            found, facts = self._type(kind)
            for item in more:
                if not isinstance(item, ast.Call):
                    raise _Unread
                facts = {**facts, **{key: _value(value) for key, value in _facts(item)}}
            return found, facts
        return self._plain(node), {}

    def _plain(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                return self._plain(ast.parse(node.value, mode="eval").body)
            except SyntaxError:
                raise _Unread from None
        if isinstance(node, ast.Constant) and node.value is None:
            return None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return _union(self._plain(node.left), self._plain(node.right))
        if isinstance(node, ast.Subscript):
            return self._subscript(self._name(node.value), _elements(node.slice))
        name = self._name(node)
        if name not in _TYPES:
            raise _Unread
        return _TYPES[name]

    def _subscript(self, name: str, inner: list[ast.expr]) -> Any:
        if name == "Literal":
            values = tuple(_value(item) for item in inner)
            if not all(isinstance(value, str | int | bool | None) for value in values):
                raise _Unread
            return Literal[values]
        kinds = tuple(... if _is_dots(item) else self._plain(item) for item in inner)
        if name in {"Optional", "Union"}:
            return _union(*kinds, *((None,) if name == "Optional" else ()))
        if name.lower() in {"list", "tuple", "dict"}:
            base: Any = _TYPES[name.lower()]
            return base[kinds]
        if name == "Sequence":
            return _TYPES["tuple"][kinds[0], ...]
        raise _Unread

    def _name(self, node: ast.expr) -> str:
        name = _last_name(node)
        return self.imported.get(name, name) if isinstance(node, ast.Name) else name


def _union(*kinds: Any) -> Any:
    return typing.Union.__getitem__(kinds)


def _last_name(node: ast.expr) -> str:
    """The name at the end of a dotted one."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _is_dots(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise _Unread from None


def _facts(node: ast.expr | None) -> Iterator[tuple[str, ast.expr]]:
    """The default and the limits that stand behind an option's annotation, unread."""
    call = _last_name(node.func) if isinstance(node, ast.Call) else ""
    if isinstance(node, ast.Call) and call in {"Ge", "Gt", "Le", "Lt"} and node.args:
        yield call.lower(), node.args[0]
    elif isinstance(node, ast.Call) and call == "Field":
        yield from (("default", argument) for argument in node.args[:1])
        for keyword in node.keywords:
            if keyword.arg == "default_factory":
                yield "default", keyword.value
            elif keyword.arg in _FACTS:
                yield keyword.arg, keyword.value
    elif node is not None:
        yield "default", node
