"""A method by name: its class, and an instance ready to train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from kdcli import catalog
from kdcli.core import random
from kdcli.core.method import Method, Setup
from kdcli.core.options import Options
from kdcli.errors import Incompatible, UsageError


def method_class(name: str) -> type[Method]:
    """The single Method subclass that a method's file defines.

    Raises:
        UsageError: it defines none, or several.
    """
    found = catalog.entry("method", name)
    module = catalog.load(found)
    own = [
        item
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, Method)
        and item is not Method
        and item.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise UsageError(
            f"{found.path} must define exactly one Method subclass, it defines {len(own)}",
            hint="docs/how-to/own-method.md",
        )
    return own[0]


def make_method(name: str, options: Mapping[str, Any], setup: Setup, *, given: int) -> Method:
    """A method ready to train.

    Args:
        given: how many teachers the recipe gives; several answer as one ensemble, so setup.teachers
            does not tell.

    Raises:
        Incompatible: the method takes another number of teachers.
    """
    cls = method_class(name)
    if not cls.teachers.admits(given):
        raise Incompatible(
            f"{name} takes {catalog.teachers_in_words(*cls.teachers)}, {given} given"
        )
    # regressors, embeddings and banks start from the recipe's seed alone
    with random.seeded(setup.seed, "method"):
        return cls(_checked(cls, name, options), setup)


def _checked(cls: type[Method], name: str, options: Mapping[str, Any]) -> Options:
    """The options of a method as its class takes them: an own file may check what its text does not
    show.

    Raises:
        UsageError: it refuses them.
    """
    try:
        return cls.Options(**options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("method", *first["loc"]))
        raise UsageError(
            f"{key}: {first['msg'].removeprefix('Value error, ')}", hint=f"kd methods {name}"
        ) from error
