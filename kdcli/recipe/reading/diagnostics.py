"""Turns a validator's complaints into words for people: which key, what is wrong, what to write
instead, and where it stands.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from kdcli import catalog
from kdcli.errors import Diagnostic, RecipeInvalid, Where
from kdcli.recipe import schema
from kdcli.recipe.reading.layers import Layer, dotted
from kdcli.recipe.reading.toml_file import KeyPath

# names that other tools use for our sections
_OTHER_WORDS = {
    "optimizer": "optim",
    "optimiser": "optim",
    "solver": "optim",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "dataset": "data",
    "training": "train",
    "teachers": "teacher",
    "students": "student",
    "distiller": "method",
    "distillation": "method",
    "criterion": "method",
    "loss": "method",
    "network": "model",
}

MOST_SHOWN = 50  # problems of a recipe

_FREEZING = {"requires_grad", "require_grad", "frozen", "freeze"}

_WRONG = {
    "greater_than": "must be greater than {gt}, got {got}",
    "greater_than_equal": "must be at least {ge}, got {got}",
    "less_than": "must be less than {lt}, got {got}",
    "less_than_equal": "must be at most {le}, got {got}",
    "multiple_of": "must be a multiple of {multiple_of}, got {got}",
    "finite_number": "must be a finite number, got {got}",
    "int_type": "must be a whole number, got {got}",
    "int_from_float": "must be a whole number, got {got}",
    "float_type": "must be a number, got {got}",
    "bool_type": "must be true or false, got {got}",
    "string_type": "must be text in quotes, got {got}",
    "literal_error": "must be {expected}, got {got}",
    "string_pattern_mismatch": "cannot be {got}",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list, got {got}",
    "list_type": "must be a list, got {got}",
    "dict_type": "must be a table, got {got}",
    "model_type": "must be a table, got {got}",
    "model_attributes_type": "must be a table, got {got}",
    "too_short": "is too short: at least {min_length}, got {actual_length}",
    "too_long": "is too long: at most {max_length}",
    "rule": "{problem}",
    "value_error": "{error}",
    "assertion_error": "{error}",
}


def sort_key(diagnostic: Diagnostic) -> tuple[str, int, int, str]:
    """Files by name, each from top to bottom, then what is missing from it; what stands in no file
    comes last.
    """
    where = diagnostic.where or Where()
    return (where.file or "\uffff", where.line or sys.maxsize, where.column or 0, diagnostic.key)


def refuse(shown: str, diagnostics: Sequence[Diagnostic]) -> RecipeInvalid:
    """The error that carries all problems, sorted: "4 problems in recipes/skd.toml". shown: the
    recipe, if none stands in a file.
    """
    ordered = sorted(dict.fromkeys(diagnostics), key=sort_key)
    places = [item.where for item in ordered if item.where is not None]
    files = list(dict.fromkeys(place.file for place in places if place.file))
    if not files and any(place.flag for place in places):
        files = ["the overrides"]
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    if len(ordered) > MOST_SHOWN:
        count = f"more than {MOST_SHOWN} problems"
    return RecipeInvalid(f"{count} in {' and '.join(files or [shown])}", ordered)


class Explainer:
    """Turns the complaints about one recipe into diagnostics.

    Args:
        root: the class of the whole.
        layer: the recipe's values with their origins.
        sections: the class that each section was checked by.
        names: what `name` of a section is where nobody gives it.
        file: the file to name for what stands nowhere.
    """

    def __init__(
        self,
        root: type[BaseModel],
        layer: Layer,
        sections: Mapping[str, type[BaseModel]],
        names: Mapping[str, str] | None = None,
        file: str | None = None,
    ) -> None:
        self.root = root
        self.layer = layer
        self.names = names or {}
        self.file = file
        self.sections = sections

    def at(
        self, key: str, problem: str, hint: str | None = None, *, on_key: bool = False
    ) -> Diagnostic:
        """A problem of a dotted key, placed where that key was set, or its section."""
        return self._placed(tuple(key.split(".")) if key else (), problem, hint, on_key=on_key)

    def explain(self, error: ValidationError, under: KeyPath = ()) -> list[Diagnostic]:
        """All problems that pydantic found. under: the path of the table that was checked, where it
        was not the whole.
        """
        found: dict[KeyPath, Diagnostic] = {}
        problems = error.errors(include_url=False)
        for item in problems[:MOST_SHOWN]:
            path = self._path(
                (*under, *item["loc"]), missing=item["type"] in {"missing", "extra_forbidden"}
            )
            diagnostic = self._one(path, item)
            found.setdefault(
                (*path, diagnostic.problem) if item["type"] == "rule" else path, diagnostic
            )
        if len(problems) > MOST_SHOWN:
            found["",] = Diagnostic("", f"and {len(problems) - MOST_SHOWN:,} more")
        return list(found.values())

    def _one(self, path: KeyPath, item: Mapping[str, Any]) -> Diagnostic:
        context = item.get("ctx") or {}
        if item["type"] == "extra_forbidden":
            return self._unknown(path)
        if item["type"] == "missing" and isinstance(path[-1], int):  # of a list of fixed length
            return self._placed(
                path[:-1], f"is too short: got {len(self.layer.get(*path[:-1]) or ())}", None
            )
        if item["type"] == "missing":
            return self._placed(path, "missing", self._description(path), on_key=True)
        if item["type"] == "rule":
            key = str(context.get("key", ""))
            return self._placed(
                (*path, *(key.split(".") if key else ())),
                str(context["problem"]),
                context.get("hint"),
            )
        # of a validator over several keys: point at the first that it names
        if item["type"] == "value_error":
            named = (
                word
                for word in re.findall(r"\w+", str(context["error"]))
                if (*path, word) in self.layer.origins
            )
            path = (*path, *itertools.islice(named, 1))
        got = self.layer.get(*path)
        words = _WRONG.get(item["type"])
        limits = {
            key: f"{limit:g}" if isinstance(limit, float) else str(limit).replace("'", '"')
            for key, limit in context.items()
        }
        problem = words.format_map({**limits, "got": toml_of(got)}) if words else _fallback(item)
        return self._placed(path, problem, self._help(path, item, got))

    def _placed(
        self, path: KeyPath, problem: str, hint: str | None, *, on_key: bool = False
    ) -> Diagnostic:
        known = path in self.layer.origins
        origin = self.layer.origin(path)
        if origin is None:
            return Diagnostic(dotted(path), problem, hint, Where(self.file, key=dotted(path)))
        return origin.diagnostic(dotted(path), problem, hint, on_key=on_key or not known)

    def _path(self, location: tuple[int | str, ...], *, missing: bool) -> KeyPath:
        """The key path of a complaint: without the names of union members, and [teacher] without
        its number if it is one.
        """
        if location[:1] == ("teacher",) and not isinstance(self.layer.get("teacher"), list):
            location = (*location[:1], *location[2:])
        path: KeyPath = ()
        for number, part in enumerate(location):
            last = number == len(location) - 1
            value = self.layer.get(*path) if path else self.layer.values
            inside = (isinstance(value, dict) and part in value) or (
                isinstance(value, list) and isinstance(part, int)
            )
            if inside or (last and missing):
                path = (*path, part)
        return path

    # ---- keys that are not there -----------------------------------------------------------------

    def _unknown(self, path: KeyPath) -> Diagnostic:
        key, section = str(path[-1]), str(path[0])
        named = self._name(section) if len(path) == 2 else None
        own = issubclass(self.sections.get(section, BaseModel), schema.Named)
        problem = f"unknown option of {named}" if own and isinstance(named, str) else "unknown key"
        return self._placed(path, problem, self._instead(path, key), on_key=True)

    def _name(self, section: str) -> Any:
        return self.layer.get(section, "name") or self.names.get(section)

    def _instead(self, path: KeyPath, key: str) -> str | None:
        if key in _FREEZING:
            return (
                "every method declares what it trains, and teachers are always frozen: leave it out"
            )
        siblings = self._keys(path[:-1])
        section = str(path[0])
        other = self._belongs_to(section, key) if len(path) == 2 else None
        if other:
            return other
        word = _OTHER_WORDS.get(key) if len(path) == 1 else None
        if word is None or word not in siblings:
            word = catalog.suggest(key, siblings)
        if word is not None:
            return (
                f'did you mean "{word}"?{self._takes(section, siblings) if len(path) == 2 else ""}'
            )
        return self._elsewhere(path, key) or (
            f"known keys: {', '.join(siblings)}" if siblings else None
        )

    def _takes(self, section: str, siblings: tuple[str, ...]) -> str:
        cls = self.sections.get(section)
        name = self._name(section)
        if cls is None or not issubclass(cls, schema.Named) or not isinstance(name, str):
            return ""
        own = ", ".join(key for key in siblings if key in cls.own_keys())
        return f"  {name} takes: {own}  (kd {cls.KIND}s {name})" if own else ""

    def _keys(self, path: KeyPath) -> tuple[str, ...]:
        """The keys that a table may have."""
        if not path:
            return tuple(self.root.model_fields)
        cls = self.sections.get(str(path[0]))
        for part in path[1:]:
            if cls is not None and part in cls.model_fields:
                cls = _model_of(cls, str(part))
        return tuple(cls.model_fields) if cls is not None else ()

    def _belongs_to(self, section: str, key: str) -> str | None:
        """For an option of another method, network, dataset, optimiser or schedule: whose it is."""
        owners = _owners(section, key)
        name = self._name(section)
        if not owners:
            return None
        shown = (
            " and ".join(owners)
            if len(owners) <= 3
            else f"{', '.join(owners[:3])} and {len(owners) - 3} more"
        )
        return f"{key} belongs to {shown}, not to {name}" if name else f"{key} belongs to {shown}"

    def _elsewhere(self, path: KeyPath, key: str) -> str | None:
        """For a key that stands in the wrong section: the right one."""
        fields = {section: cls.model_fields for section, cls in self.sections.items()}
        places = [
            f"{section}.{key}"
            for section, known in fields.items()
            if key in known and section != path[0]
        ]
        if len(path) > 1 and key in self.root.model_fields:
            places.append(key)
        return f'did you mean "{places[0]}"?' if places and key != "name" else None

    # ---- values that are wrong -------------------------------------------------------------------

    def _description(self, path: KeyPath) -> str | None:
        parent = self._keys(path[:-1])
        key = str(path[-1])
        if key not in parent:
            return None
        cls: type[BaseModel] | None = (
            self.root if len(path) == 1 else self.sections.get(str(path[0]))
        )
        if len(path) == 1 and key in {"student", "model"}:
            return (
                f"name a network: --{key} NAME, or name = ... under [{key}]  (kd models lists them)"
            )
        found = cls.model_fields.get(key) if cls is not None and len(path) <= 2 else None
        return found.description if found is not None else None

    def _help(self, path: KeyPath, item: Mapping[str, Any], got: Any) -> str | None:
        if item["type"] in {"int_type", "float_type", "bool_type"} and isinstance(got, str):
            return _as_number(got)
        if item["type"] == "literal_error" and isinstance(got, str):
            choices = tuple(
                part.strip("' ")
                for part in str(item["ctx"]["expected"]).replace(" or ", ",").split(",")
            )
            near = catalog.suggest(got, choices)
            return f'did you mean "{near}"?' if near else None
        return self._description(path) if item["type"] == "string_pattern_mismatch" else None


def toml_of(value: Any) -> str:
    """A value as a recipe would write it, short."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _as_number(text: str) -> str | None:
    if text.lower() in {"true", "false"}:
        return f"write {text.lower()}, without quotes"
    try:
        number = float(text)
    except ValueError:
        return None
    return (
        f"write {int(number) if number.is_integer() else number}, without quotes"
        if math.isfinite(number)
        else None
    )


def _fallback(item: Mapping[str, Any]) -> str:
    """A complaint that no table foresees, such as an option's own constraint type; pydantic's words
    with its jargon taken off.
    """
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return message[:1].lower() + message[1:] if message == item["msg"] else f"must be {message}"


def _model_of(cls: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The section class inside a field such as `augment: Augment | None`."""
    found = cls.model_fields.get(key)
    inside = getattr(found.annotation, "__args__", (found.annotation,)) if found is not None else ()
    return next(
        (part for part in inside if isinstance(part, type) and issubclass(part, BaseModel)), None
    )


def _owners(section: str, key: str) -> tuple[str, ...]:
    """Names whose branch of a section has this option."""
    tables: Mapping[str, Mapping[str, type[BaseModel]]] = {
        "optim": schema.OPTIMISERS,
        "schedule": schema.SCHEDULES,
    }
    if section in tables:
        return tuple(name for name, cls in tables[section].items() if key in cls.model_fields)
    kinds: Mapping[str, catalog.Kind] = {
        "method": "method",
        "data": "dataset",
        "student": "model",
        "model": "model",
    }
    if section not in kinds:
        return ()
    found = catalog.entries(kinds[section])
    return tuple(
        sorted(
            name
            for name, entry in found.items()
            if key in catalog.options_class(entry).model_fields
        )
    )
