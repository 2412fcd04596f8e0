"""What is fed to `kd` at random, and what must hold whatever it was fed.

Strategies make inputs that are nearly right: a grammar of recipes with keys that exist, arguments
of the command line, a checkpoint's header and the records of a run with one value exchanged. A job
that would train only pretends to.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import tomli_w
from hypothesis import strategies as st

from kdcli import jobs
from kdcli.cli import app
from kdcli.cli.console import Environment
from kdcli.engine.checkpoint import save_model
from kdcli.errors import Exit, NotFound
from kdcli.files import finite, sha256_json
from kdcli.jobs.build.networks import build_network
from kdcli.recipe import schema, shipped
from kdcli.results.weights_header import CHECKSUM, CheckpointHeader
from tests.unit.report import fake_run

TRAINING = ("train_teacher", "distill", "resume", "run_sweep", "fill_cache", "forecast", "download")

# ---- what must hold ------------------------------------------------------------------------------


def hold(argv: list[str]) -> int:
    """Calls `kd` in this process, in a folder of its own.

    Returns: the exit code, which is in the table; nothing that was said is a traceback or calls
    itself a fault of kd's.
    """
    out, err = io.StringIO(), io.StringIO()
    with pretending():
        code = app.run(argv, Environment(out, err, {}))
    said = out.getvalue() + err.getvalue()
    assert code in list(Exit), (argv, code)
    assert "should not happen" not in said, said
    assert "Traceback (most recent" not in said or "--debug" in argv, said
    assert "\x1b" not in said, said
    if "--json" in argv and "--help" not in argv and "--version" not in argv and out.getvalue():
        json.loads(out.getvalue())
    if code in {Exit.FAILURE, Exit.USAGE}:
        assert said.strip(), argv
        assert max(map(len, said.splitlines())) < 2000, said
    return code


@contextlib.contextmanager
def pretending() -> Iterator[None]:
    """Jobs that would train, download or measure for long refuse instead."""

    def refuse(*_: object, **__: object) -> None:
        raise NotFound("nothing is trained here")

    with contextlib.ExitStack() as patches:
        for name in TRAINING:
            patches.enter_context(mock.patch.object(jobs, name, refuse))
        yield


@functools.cache
def folder() -> Path:
    """A folder for one process's cases, gone with it."""
    made = tempfile.TemporaryDirectory()
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[Any] = []


@contextlib.contextmanager
def here() -> Iterator[Path]:
    """Makes the folder the working one."""
    before = Path.cwd()
    os.chdir(folder())
    try:
        yield folder()
    finally:
        os.chdir(before)


# ---- values --------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *("digits", "synthetic", "mlp", "cnn-small", "resnet20", "kd", "skd", "none", "auto"),
        *("", "0", "nan", "~", "..", "/dev/null", "a.py:f", "\x1b[31m", "\u202e", "名", "a" * 3000),
        *("torchvision/resnet18", "file.py:factory", "composite", "sgd", "best", "cpu", "cuda:9"),
    ]
)
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 10, 0.0, 0.5, -0.0, 1e-300, 1e300, 2**31, 2**63, 10**400]),
    st.integers(-5, 300),
    st.floats(allow_nan=True, allow_infinity=True),
)
SCALARS = st.one_of(WORDS, NUMBERS, st.booleans(), st.text(max_size=8))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)

# ---- recipes -------------------------------------------------------------------------------------


@functools.cache
def keys() -> tuple[str, ...]:
    """Dotted keys that a recipe may have, as far as sections name them."""
    found = []
    for name, field in {**schema.DistillRecipe.model_fields, "model": None}.items():
        kind = getattr(schema, f"{name.capitalize()}Section", None)
        members = getattr(kind, "model_fields", {})
        found += [f"{name}.{member}" for member in members] or [name]
        assert field is not None or name == "model"
    return tuple(found)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as tables; the first of two that cannot both be wins."""
    made: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        table = made
        for name in path:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                break
        else:
            table.setdefault(last, value)
    return made


@st.composite
def recipes(draw: st.DrawFn) -> bytes:
    """The bytes of a recipe: of keys that exist and of some that do not, or a shipped one that was
    cut, doubled or written over somewhere.
    """
    if draw(st.booleans()):
        known = st.dictionaries(st.sampled_from(keys()), VALUES, max_size=6)
        table = nested(
            {**draw(known), **draw(st.dictionaries(st.text(max_size=6), VALUES, max_size=1))}
        )
        with contextlib.suppress(ValueError, TypeError, UnicodeError):
            return tomli_w.dumps(table).encode()
    text = shipped.find(draw(st.sampled_from(["quickstart", "quickstart-teacher"]))).read_bytes()
    return draw(damaged(text))


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with a few accidents."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(len(content) - 1, 0)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 2, 8, 64])))
        new = draw(st.one_of(st.binary(max_size=6), st.just(content[start:end] * 2)))
        content = content[:start] + new + content[end:]
    return content


# ---- arguments -----------------------------------------------------------------------------------


@functools.cache
def options() -> Mapping[str, tuple[str, ...]]:
    """By command, the options that it has."""
    tree = app.command_tree()
    return {
        name: tuple(
            flag
            for parameter in tree.commands[name].params
            for flag in (*parameter.opts, *parameter.secondary_opts)
            if flag.startswith("-") and flag not in {"--show-completion", "--install-completion"}
        )
        for name in tree.commands
    }


@st.composite
def arguments(draw: st.DrawFn) -> list[str]:
    """A command with options of its own, values that may fit them, and more."""
    command = draw(st.sampled_from([*options(), "nonsense", ""]))
    words = [command] if command else []
    own = options().get(command, ("--json",))
    for _ in range(draw(st.integers(0, 5))):
        words.append(draw(st.sampled_from(own)) if draw(st.booleans()) else draw(words_of_values()))
    return [word.replace("\0", "") for word in words]


def words_of_values() -> st.SearchStrategy[str]:
    """Values as the command line would have them."""
    settings = st.tuples(st.sampled_from(keys()), SCALARS).map(lambda pair: f"{pair[0]}={pair[1]}")
    return st.one_of(WORDS, NUMBERS.map(str), settings, st.text(max_size=5))


# ---- headers and records -------------------------------------------------------------------------


@functools.cache
def checkpoint() -> bytes:
    """A small checkpoint, as kd writes it."""
    network = build_network("mlp", num_classes=10, input_shape=(1, 8, 8), options={"hidden": [4]})
    header = CheckpointHeader(
        architecture="mlp",
        arguments={"hidden": [4]},
        num_classes=10,
        input_shape=(1, 8, 8),
        class_names=tuple("0123456789"),
        mean=(0.3,),
        std=(0.3,),
        data={"name": "digits"},
        data_fingerprint="",
        parameters=310,
        epochs=1,
    )
    save_model(folder() / "whole.safetensors", network, header)
    return (folder() / "whole.safetensors").read_bytes()


def with_header(content: bytes, header: Any) -> bytes:
    """The same weights under another kd header, signed as kd signs where it is a table."""
    (length,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + length])
    if isinstance(header, dict):
        kept = {key: value for key, value in header.items() if key != CHECKSUM}
        header = {**kept, CHECKSUM: sha256_json(kept)}
    outer["__metadata__"] = {"kd": json.dumps(header)}
    text = json.dumps(outer).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def header_of(content: bytes) -> dict[str, Any]:
    """The kd header of a checkpoint."""
    (length,) = struct.unpack("<Q", content[:8])
    found: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["kd"])
    return found


@st.composite
def exchanged(draw: st.DrawFn, value: Any) -> Any:
    """JSON with one value somewhere exchanged for another, or gone."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 7)) == 0:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: draw(exchanged(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(exchanged(value[place])), *value[place + 1 :]]
    return draw(st.one_of(st.none(), VALUES))


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    """A checkpoint whose header says something else, or whose bytes had an accident."""
    whole = checkpoint()
    if draw(st.integers(0, 3)):
        return with_header(whole, draw(exchanged(header_of(whole))))
    return draw(damaged(whole))


@functools.cache
def records() -> Mapping[str, Any]:
    """The records of a finished run, by file name."""
    return {
        "summary.json": finite(asdict(fake_run.summary())),
        "analysis.json": finite(asdict(fake_run.analysis())),
        "mistakes.json": finite(asdict(fake_run.mistakes())),
        "environment.json": fake_run.ENVIRONMENT,
        "metrics.jsonl": [finite(line) for line in fake_run.epoch_lines(3)],
    }


@st.composite
def runs(draw: st.DrawFn) -> dict[str, str]:
    """Texts of a run's records, one of them with a value exchanged or an accident."""
    name = draw(st.sampled_from(sorted(records())))
    texts = {
        other: _text(other, draw(exchanged(content)) if other == name else content)
        for other, content in records().items()
    }
    if draw(st.integers(0, 3)) == 0:
        texts[name] = draw(damaged(texts[name].encode())).decode(errors="replace")
    return {"recipe.toml": fake_run.RECIPE, **texts}


def _text(name: str, content: Any) -> str:
    if name.endswith(".jsonl") and isinstance(content, list):
        return "".join(json.dumps(line) + "\n" for line in content)
    return json.dumps(content)
