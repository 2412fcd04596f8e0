"""The catalogue of methods, networks and datasets, found by looking at the files, without importing
torch.

There is no registry. A method is a file in kdcli/methods and its name is the file's name. A network
family is a file in kdcli/models whose literal VARIANTS maps names to constructor arguments. A
dataset family is a file in kdcli/data/datasets whose literal DATASETS maps names to facts.
Docstrings and literals are read with `ast`; a module is imported only when something of it is to be
used.
"""

from __future__ import annotations

import ast
import copy
import difflib
import fnmatch
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

from kdcli import trust
from kdcli.errors import NotFound, UsageError
from kdcli.files import is_folder
from kdcli.surroundings import USER_MODULE, at_home

if TYPE_CHECKING:
    from kdcli.core.options import Options

Kind = Literal["method", "model", "dataset"]
KINDS: tuple[Kind, ...] = ("method", "model", "dataset")

_FOLDERS: Mapping[Kind, str] = {"method": "methods", "model": "models", "dataset": "data/datasets"}
# entry points under which installed packages add to what is here
_GROUPS: Mapping[Kind, str] = {
    "method": "kdcli.methods",
    "model": "kdcli.models",
    "dataset": "kdcli.data",
}
_TABLES: Mapping[Kind, str] = {"model": "VARIANTS", "dataset": "DATASETS"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that exists.

    family: the method's FAMILY constant, or the name of the file that holds a network or dataset.
    facts: the literal that the file gives for it: constructor arguments of a network, facts of a
    dataset, and for a method the literal class attributes (teachers, student_taps, teacher_taps,
    ...).
    factory: the function to call, for what a user wrote as path/to/file.py:function.
    own: whether it was named by its file: that is code of the user's, or of a stranger
    (kdcli.trust).
    """

    kind: Kind
    name: str
    family: str
    summary: str
    doc: str
    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    factory: str | None = None
    own: bool = False


# ---- listing -------------------------------------------------------------------------------------


@functools.cache
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {path}") from error
    except SyntaxError as error:
        raise UsageError(
            f"{path} is not valid Python: {error.msg} (line {error.lineno})"
        ) from error
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{path} cannot be read as Python: {error}") from error


def _literal(node: ast.expr) -> Any:
    """The value of a literal, or of a call such as Arity(1, 2) as the tuple of its arguments; None
    where it is neither.
    """
    try:
        if isinstance(node, ast.Call):
            return tuple(ast.literal_eval(argument) for argument in node.args)
        return ast.literal_eval(node)
    except ValueError:
        return None


def _assignments(body: list[ast.stmt]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = _literal(node.value)
        elif (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.value is not None
        ):
            found[node.target.id] = _literal(node.value)
    return found


def _title(doc: str) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(doc.partition("\n\n")[0].split())


def _files(kind: Kind) -> list[Path]:
    folder = Path(__file__).parent / _FOLDERS[kind]
    return sorted(path for path in folder.glob("*.py") if not path.stem.startswith("_"))


def _method_entry(path: Path, name: str) -> Entry:
    tree = _tree(path)
    doc = ast.get_docstring(tree) or ""
    constants = _assignments(tree.body)
    classes = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name != "Options"
    ]
    facts = _assignments(classes[-1].body) if classes else {}
    return Entry(
        "method",
        name,
        str(constants.get("FAMILY") or "own"),
        _title(doc),
        doc,
        path,
        facts,
    )


def _table_entries(kind: Kind, path: Path) -> list[Entry]:
    tree = _tree(path)
    table = _assignments(tree.body).get(_TABLES[kind])
    if not isinstance(table, dict):
        return []  # shared machinery such as data/base.py holds no table
    doc = ast.get_docstring(tree) or ""
    title = _title(doc)
    return [
        Entry(kind, name, path.stem, str(facts.get("summary", title)), doc, path, facts)
        for name, facts in table.items()
    ]


@functools.cache
def entries(kind: Kind) -> Mapping[str, Entry]:
    """Everything of one kind, by name: what ships with kd, then what installed packages add
    (`kdcli.methods` and so on).
    """
    if kind == "method":
        found = [_method_entry(path, path.stem) for path in _files(kind)]
    else:
        found = [entry for path in _files(kind) for entry in _table_entries(kind, path)]
    group = _GROUPS[kind]
    if _anything_declares(group):
        from importlib.metadata import entry_points

        for point in entry_points(group=group):
            found += _plugin_entries(kind, point.name, point.module)
    return {entry.name: entry for entry in found}


def _anything_declares(group: str) -> bool:
    """Tells whether an installed package may add to a group. importlib.metadata knows, but takes a
    tenth of the time of a listing to import.
    """
    declarations = (
        path for folder in sys.path for path in Path(folder or ".").glob("*-info/entry_points.txt")
    )
    return any(f"[{group}]".encode() in path.read_bytes() for path in declarations)


def _plugin_entries(kind: Kind, name: str, module: str) -> list[Entry]:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return []
    path = Path(spec.origin)
    return [_method_entry(path, name)] if kind == "method" else _table_entries(kind, path)


def names(kind: Kind, pattern: str = "*") -> tuple[str, ...]:
    """Names of one kind, sorted, filtered by a shell wildcard."""
    return tuple(sorted(name for name in entries(kind) if fnmatch.fnmatchcase(name, pattern)))


def suggest(name: str, among: tuple[str, ...]) -> str | None:
    """The name most like a misspelt one, or None where nothing is near. Separators and case do not
    count.
    """

    def plain(text: str) -> str:
        return "".join(letter for letter in text.lower() if letter.isalnum())

    by_plain = {plain(candidate): candidate for candidate in among}
    close = difflib.get_close_matches(plain(name), list(by_plain), n=1, cutoff=0.6)
    return by_plain[close[0]] if close else None


@functools.cache
def _by_itself(kind: Kind, name: str) -> Entry | None:
    """What ships with kd under a name, found without reading the files that do not have it in them:
    all of them take a quarter of a second. None where that does not tell.
    """
    if _anything_declares(_GROUPS[kind]):
        return None
    if kind == "method":
        path = next((path for path in _files(kind) if path.stem == name), None)
        return None if path is None else _method_entry(path, name)
    spelt = f'"{name}"'
    holding = (path for path in _files(kind) if spelt in path.read_text(encoding="utf-8"))
    found = (entry for path in holding for entry in _table_entries(kind, path))
    return next((entry for entry in found if entry.name == name), None)


def entry(kind: Kind, name: str) -> Entry:
    """One entry by name; a path to a Python file (a method), or path/to/file.py:factory (a network
    or dataset), too.

    Raises:
        NotFound: nothing of that name; the hint names the nearest one.
    """
    found = _by_itself(kind, name)
    if found is not None:
        return found
    known = entries(kind)
    if name in known:
        return known[name]
    for prefix in (
        prefix for prefix in known if prefix.endswith("/*") and name.startswith(prefix[:-1])
    ):
        adapter = known[prefix]
        facts = dict(adapter.facts)
        if isinstance(facts.get("smaller"), dict):  # an adapter has siblings by name, not one
            facts["smaller"] = facts["smaller"].get(name)
        return Entry(kind, name, adapter.family, adapter.summary, adapter.doc, adapter.path, facts)
    file, _, factory = name.partition(":")
    if file.endswith(".py"):
        return _user_entry(kind, name, Path(file), factory)
    if kind == "dataset" and is_folder(name):
        raise NotFound(
            f"{name!r} is a folder, not a dataset",
            hint=f"of pictures: -d image-folder -s data.path={name}; kd check --data {name} first",
        )
    near = suggest(name, tuple(known))
    plural = f"kd {kind}s"
    raise NotFound(
        f"{name!r} is not a {kind}",
        hint=f"did you mean {near!r}?  ({plural} lists all {len(known)})"
        if near
        else f"{plural} lists all {len(known)}",
    )


def _user_entry(kind: Kind, name: str, path: Path, factory: str) -> Entry:
    if kind == "method":
        return replace(_method_entry(path.resolve(), name), own=True)
    if not factory:
        raise UsageError(
            f"{name!r} does not say which function builds the {kind}", hint=f"write {name}:FUNCTION"
        )
    tree = _tree(path.resolve())
    functions = tuple(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    )
    if factory not in functions:
        near = suggest(factory, functions)
        raise NotFound(
            f"{path} defines no {factory!r}",
            hint=f"did you mean {near!r}?" if near else f"it defines {', '.join(functions)}",
        )
    doc = ast.get_docstring(tree) or ""
    # data may bring a validation part: they are asked when they are opened
    facts = {"val": True} if kind == "dataset" else {}
    return Entry(kind, name, path.stem, _title(doc), doc, path.resolve(), facts, factory, own=True)


def own_entries(kind: Kind, file: str) -> tuple[Entry, ...]:
    """What a Python file of somebody's own offers as networks or datasets: its functions and
    classes, by file.py:function, read without running the file.

    Raises:
        NotFound: no such file, or nothing in it. UsageError: it is not Python.
    """
    path = Path(file).resolve()
    found = tuple(
        Entry(
            kind,
            f"{file}:{node.name}",
            path.stem,
            _title(ast.get_docstring(node) or ""),
            ast.get_docstring(_tree(path)) or "",
            path,
            {},
            node.name,
            own=True,
        )
        for node in _tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    )
    if not found:
        raise NotFound(f"{file} defines no function", hint=f"a {kind} is {file}:FUNCTION")
    return found


def teachers_in_words(least: int, most: int | None) -> str:
    """The number of teachers a method takes, as messages and lists say it."""
    if most == 0:
        return "no teacher"
    if most is None:
        return "one or more teachers" if least == 1 else f"at least {least} teachers"
    if least == most:
        return "one teacher" if least == 1 else f"{least} teachers"
    return (
        ("at most one teacher" if most == 1 else f"at most {most} teachers")
        if least == 0
        else f"{least} to {most} teachers"
    )


def data_root(given: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Folder of the datasets: the one given, else $KD_DATA_DIR, else ~/.cache/kdcli/data."""
    return at_home(given or environ.get("KD_DATA_DIR") or "~/.cache/kdcli/data")


def is_present(dataset: Entry, root: Path) -> bool | None:
    """Tells whether a dataset is on this machine; None where only a path that the user gives would
    tell.

    Looks at the places that its table names; whether the files are whole is seen when they are
    opened.
    """
    places = dataset.facts.get("places")
    if places is None:
        return True if dataset.facts.get("megabytes") == 0 else None
    return any((root / place).exists() for place in places)


# ---- using ---------------------------------------------------------------------------------------


@functools.cache
def _options_in(path: Path) -> type[Options]:
    from kdcli import static_options

    return static_options.read(path, _tree(path))


@functools.cache
def _options_of(path: Path) -> type[Options]:
    from kdcli.core.options import Options as Base

    tree = _tree(path)
    node = next(
        (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Options"),
        None,
    )
    if node is None:
        return Base
    # executed alone, so that a recipe's options are checked before torch is imported: only what
    # needs no torch is imported
    light = {
        "pydantic",
        "typing",
        "annotated_types",
        "__future__",
        "collections.abc",
        "kdcli.core.options",
    }
    imports = [
        item for item in tree.body if isinstance(item, ast.ImportFrom) and item.module in light
    ]
    shared = {
        alias.name
        for item in imports
        if item.module == "kdcli.core.options"
        for alias in item.names
    }
    alone = copy.copy(node)
    bases = [base for base in node.bases if isinstance(base, ast.Name) and base.id in shared]
    alone.bases = list[ast.expr](bases) or [ast.Name("_Base", ast.Load())]
    alone.keywords, alone.decorator_list = [], []
    module = ast.fix_missing_locations(ast.Module(body=[*imports, alone], type_ignores=[]))
    holder = ModuleType(f"kdcli._options.{path.parent.name}.{path.stem}")
    # pydantic looks annotations up in the module that a class says it is from
    sys.modules[holder.__name__] = holder
    holder.__dict__["_Base"] = Base
    try:
        exec(compile(module, str(path), "exec"), holder.__dict__)  # noqa: S102  our own file, or an installed package's
        found = cast("type[Options]", holder.__dict__["Options"])
        # an annotation that cannot be resolved shows here, not when a recipe is checked
        found.model_rebuild()
    except NameError as error:
        raise UsageError(
            f"{path}: class Options may use pydantic and typing only ({error})"
        ) from error
    except Exception as error:
        raise UsageError(
            f"{path}: class Options cannot be read: {type(error).__name__}: {error}"
        ) from error
    return found


def options_class(found: Entry) -> type[Options]:
    """The options of a method, network family or dataset family, without importing the module they
    stand in; of a user's own file, without running anything of it. What a dataset of a user's own
    takes is the same for all of them.
    """
    if found.own and found.kind == "dataset":  # its function takes none: these are kd's
        return _options_of(Path(__file__).parent / _FOLDERS["dataset"] / "user.py")
    return _options_in(found.path) if found.own else _options_of(found.path)


def load(found: Entry) -> ModuleType:
    """Imports the module of an entry: from here on torch is needed.

    Raises:
        Untrusted: it is a file that the user has not named. UsageError: it cannot be imported.
    """
    if found.own:
        trust.check(found.path, found.name.partition(":")[0])
    package = Path(__file__).parent
    if found.path.is_relative_to(package):
        folder = _FOLDERS[found.kind].replace("/", ".")
        return importlib.import_module(f"kdcli.{folder}.{found.path.stem}")
    module_name = f"{USER_MODULE}{found.path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, found.path)
    if spec is None or spec.loader is None:
        raise NotFound(f"cannot import {found.path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(
            f"{found.path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module
