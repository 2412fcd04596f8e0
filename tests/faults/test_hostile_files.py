"""Files from a stranger: whatever their headers and JSON hold, each command that reads them ends
with one sentence and exit code 2, soon, and without asking for memory.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdcli.cli.app import run as kd
from kdcli.cli.console import Environment
from kdcli.engine.checkpoint import load_state, save_state
from kdcli.errors import Interrupted
from kdcli.files import sha256_json
from kdcli.jobs import distill, train_teacher
from kdcli.jobs.events import EpochDone
from kdcli.recipe.sweep.cells import load_sweep
from kdcli.recipe.writing import recipe_hash

QUICK = {"data.train_limit": 60, "train.batch_size": 20, "report.html": False, "report.probe": 0}
SECONDS = 2.0
MEGABYTES = 500
DEEP = "[" * 50_000 + "]" * 50_000


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A teacher t, its student s, and a run that was stopped, all of one epoch."""
    out = tmp_path_factory.mktemp("runs")
    train_teacher(model="mlp", data="digits", name="t", out=out, epochs=1, overrides=QUICK)
    student = {**QUICK, "student.name": "mlp"}
    teacher = str(out / "t")
    distill(teacher=teacher, method="kd", name="s", out=out, epochs=1, overrides=student)

    def stop(event: object) -> None:
        if isinstance(event, EpochDone):
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        distill(
            teacher=teacher,
            method="kd",
            name="stopped",
            out=out,
            overrides={**student, "train.epochs": 3, "train.state_seconds": 0.001},
            listeners=[stop],
        )
    return out


def refused(*argv: str, code: int = 2) -> str:
    """Runs a command that must end with one sentence and an exit code; returns what it said."""
    stdout, stderr = io.StringIO(), io.StringIO()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    ended = kd(argv, Environment(stdout, stderr, {}))
    seconds = time.process_time() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    said = stderr.getvalue()
    assert ended == code, (ended, said[-2000:], stdout.getvalue()[-300:])
    assert "should not happen" not in said
    assert said.count("error:") == 1
    assert len(said) < 2500
    assert seconds < SECONDS, seconds
    assert grown < MEGABYTES, grown
    return said


def done(*argv: str) -> None:
    """Runs a command that goes on without a file that it cannot read."""
    stderr = io.StringIO()
    began = time.process_time()
    assert kd(argv, Environment(io.StringIO(), stderr, {})) == 0, stderr.getvalue()
    assert time.process_time() - began < SECONDS


# ---- checkpoints ---------------------------------------------------------------------------------


def parts_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the bytes behind it."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def written(path: Path, header: str, tensors: bytes) -> Path:
    """A safetensors file of these parts."""
    text = header.encode("utf-8", "surrogateescape")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    return path


def signed(content: dict[str, Any]) -> str:
    """A kd header as JSON with the checksum that belongs to it: anybody can write one."""
    content = {key: value for key, value in content.items() if key != "header_sha256"}
    return json.dumps({**content, "header_sha256": sha256_json(content)})


WRONG: dict[str, list[Any]] = {
    "architecture": [None, 3, [], "", "nothing", "x" * 100_000, "\ud800", "composite"],
    "arguments": [
        None,
        [],
        "x",
        {},
        {"hidden": [10**6, 10**6]},
        {"hidden": [10**12]},
        {"hidden": [2**62, 2**62]},
        {"hidden": ["x"]},
        {"hidden": None},
        {"hidden": [-1]},
        {"hidden": [8] * 100_000},
        {"nothing": 1},
        {"members": None},
        {"members": [{}], "combine": "mean"},
        {"members": [{"architecture": "mlp", "arguments": 1}], "combine": []},
    ],
    "num_classes": [None, "10", 0, -1, 3, 10.5, True, 10**12, 10**400, [10]],
    "input_shape": [None, [8, 8], [1, 8], [0, 8, 8], "8x8", [1.5, 8, 8], [1, 10**6, 10**6], {}],
    "class_names": [None, "0123456789", [0] * 10, ["a"], {}, [None] * 10, [[]] * 10],
    "mean": [None, "0.5", [], [0.1, 0.2], [None], ["a"], {"a": 1}, [10**400]],
    "std": [None, [0.0], [-1.0], [float("inf")], [float("nan")], ["1"]],
    "data": [
        None,
        [],
        "digits",
        {"path": "x"},
        {"name": None},
        {"name": 3},
        {"name": ["digits"]},
        {"name": "nothing"},
        {"name": "digits", "val_fraction": "x"},
        {"name": "digits", "nothing": 1},
        {"name": "digits", "augment": 3},
        {"name": "digits", "eval_batch_size": 0},
        {"name": "npz"},
        {"name": "npz", "path": 3},
        {"name": "image-folder", "path": "\x00"},
        {"name": "synthetic", "train": 10**9, "test": 10**9},
        {"name": "synthetic", "train": 10**9, "dim": 100_000, "max_gb": 1e9},
        {"name": "synthetic", "classes": 10**12},
    ],
    "metrics": [
        None,
        [1],
        "good",
        {"accuracy": 1.0},
        {"n": "360"},
        {"n": 360, "accuracy_interval": None},
    ],
    "method": [None, 3, []],
    "method_options": [None, [], "x"],
    "parameters": [None, "many", 1.5],
    "seed": [None, "x", 10**400, -(10**30)],
    "teachers": [None, "x", [1]],
    "epoch": ["1", 1.5, [], 10**30],
    "tensors_sha256": [None, 3, "00"],
    "format": [None, "1", [], 2, 10**400],
}
OPTIONAL = {"metrics", "method", "method_options", "seed", "teachers", "epoch"}
# options of its data that a teacher's student does not take over
NOT_INHERITED = {"data-8", "data-9", "data-10", "data-11"}


def content_cases() -> Iterator[tuple[str, Callable[[dict[str, Any]], str]]]:
    """Names of changes to a kd header, and what makes its text."""
    for key, values in WRONG.items():
        for number, value in enumerate(values):
            yield (
                f"{key}-{number}",
                lambda content, key=key, value=value: signed({**content, key: value}),
            )
        if key not in OPTIONAL:
            yield (
                f"{key}-missing",
                lambda content, key=key: signed({k: v for k, v in content.items() if k != key}),
            )
    yield "null", lambda _: "null"
    yield "list", lambda _: "[]"
    yield "text", lambda _: '"kd"'
    yield "empty", lambda _: ""
    yield "deep", lambda _: DEEP
    yield "deep in a key", lambda content: signed(content)[:-1] + f', "data": {DEEP}}}'
    yield "twice", lambda content: signed(content)[:-1] + ', "seed": 1}'
    yield "checksum is a list", lambda content: json.dumps({**content, "header_sha256": []})


def header_cases() -> Iterator[tuple[str, Callable[[dict[str, Any]], str]]]:
    """Names of changes to the safetensors header around it."""

    def with_entry(entry: Any) -> Callable[[dict[str, Any]], str]:
        return lambda header: json.dumps({**header, "w": entry})

    for number, entry in enumerate(
        [
            None,
            3,
            "text",
            [],
            {},
            {"dtype": "F32", "shape": [1], "data_offsets": None},
            {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]},
            {"dtype": "F32", "shape": [1], "data_offsets": [0]},
            {"dtype": "F32", "shape": [1], "data_offsets": [0, -4]},
            {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
            {"dtype": "F32", "shape": [1], "data_offsets": [0, 10**12]},
            {"dtype": "F32", "shape": [1], "data_offsets": [0, 10**400]},
            {"dtype": "F32", "shape": None, "data_offsets": [0, 4]},
            {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
            {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4]},
            {"dtype": None, "shape": [1], "data_offsets": [0, 4]},
            {"dtype": "F1", "shape": [1], "data_offsets": [0, 4]},
        ]
    ):
        yield f"entry-{number}", with_entry(entry)
    for number, metadata in enumerate([None, [], "kd", 3, {"kd": None}, {"kd": {}}, {}, {"kd": 3}]):
        yield (
            f"metadata-{number}",
            lambda header, metadata=metadata: json.dumps({**header, "__metadata__": metadata}),
        )
    yield "deep", lambda _: DEEP
    yield "flat", lambda _: "[" + "[]," * 400_000 + "[]]"
    yield "larger than any", lambda _: "[" + "[]," * 2_600_000 + "[]]"
    yield "NaN", lambda _: '{"w": NaN}'
    yield "twice", lambda header: json.dumps(header)[:-1] + ', "__metadata__": {}}'
    yield "surrogate", lambda header: json.dumps({**header, "\ud800": {}})
    yield "digits", lambda _: '{"w": ' + "9" * 10_000 + "}"
    yield "no UTF-8", lambda _: '{"\udcff": 1}'


COMMANDS: dict[str, Callable[[Path, Path], tuple[str, ...]]] = {
    "evaluate": lambda hostile, _: ("evaluate", str(hostile)),
    "distill": lambda hostile, _: (
        *("distill", "-t", str(hostile), "-m", "kd", "--student", "mlp", "--epochs", "1"),
        *("-o", str(hostile.parent / "out")),
    ),
    "analyze-gap": lambda hostile, runs: (
        *("analyze-gap", "-t", str(runs / "t"), "--student", str(hostile)),
    ),
}


@pytest.fixture(scope="module")
def student(runs) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The header of the student's file, the kd header in it, and the bytes of its tensors."""
    header, tensors = parts_of(runs / "s" / "model.safetensors")
    return header, json.loads(header["__metadata__"]["kd"]), tensors


def test_the_signed_copy_that_the_cases_begin_with_is_good(student, runs, tmp_path):
    header, content, tensors = student
    text = json.dumps({**header, "__metadata__": {"kd": signed(content)}})
    hostile = written(tmp_path / "model.safetensors", text, tensors)
    for command in ("evaluate", "analyze-gap"):
        argv = COMMANDS[command](hostile, runs)
        assert kd(argv, Environment(io.StringIO(), io.StringIO(), {})) == 0


@pytest.mark.parametrize("name", dict(content_cases()))
def test_a_hostile_kd_header(student, runs, tmp_path, name):
    header, content, tensors = student
    text = json.dumps({**header, "__metadata__": {"kd": dict(content_cases())[name](content)}})
    hostile = written(tmp_path / "model.safetensors", text, tensors)
    for command, argv in COMMANDS.items():
        if command != "distill" or name not in NOT_INHERITED:
            assert "try:  kd reads" not in refused(*argv(hostile, runs))


@pytest.mark.parametrize("name", dict(header_cases()))
def test_a_hostile_safetensors_header(student, runs, tmp_path, name):
    header, _, tensors = student
    text = dict(header_cases())[name](header)
    hostile = written(tmp_path / "model.safetensors", text, tensors)
    for argv in COMMANDS.values():
        refused(*argv(hostile, runs))


# ---- the files of a run --------------------------------------------------------------------------


WRONG_KEYS: dict[str, dict[str, list[Any]]] = {
    "summary.json": {
        "command": [None, 3, "train"],
        "test": [None, [], {}, "good", {"n": "360"}],
        "parameters": ["many", 1.5, []],
        "teachers": [None, 3, "t", [1], [{}]],
        "gates": [{}, [3], "none"],
        "gap": [3, [], {}],
        "per_class": [None, [], {"0": "x"}],
        "warnings": ["x", [3]],
        "checkpoint": [None, ["a"]],
    },
    "analysis.json": {
        "class_names": [None, "0123", [0]],
        "confusion": [None, 3, [[1.5]], [["x"]], {}],
        "calibration": [None, [], {"student": 3}],
        "gap": [3, [], {}, {"data": 1}],
    },
    "environment.json": {
        "kind": [None, 3, "train"],
        "recipe_sha256": [None, 3, []],
        "recipe": [None, [], "x"],
        "teacher_logits": [None, {}, [3], [{"stored": "perhaps"}]],
        "data": [None, [], "digits", {"positions_sha256": 3}],
        "git": ["abc", [], {"commit": 3}],
        "compile": [None, 1],
    },
}
TEXTS = {
    "empty": "",
    "cut": '{"command": "dis',
    "null": "null",
    "list": "[]",
    "text": '"x"',
    "deep": DEEP,
    "NaN": '{"a": NaN}',
    "infinity": '{"a": -Infinity}',
    "1e999": '{"a": 1e999}',
    "digits": '{"a": ' + "9" * 10_000 + "}",
    "twice": '{"a": 1, "a": 2}',
    "surrogate": '{"a": "\\ud800"}',
    "no UTF-8": "\udcff",
    "a million gaps": '{"confusion": [[' + "null," * 10**6 + "null]]}",
}


def change(folder: Path, file: str, text: str) -> None:
    (folder / file).write_bytes(text.encode("utf-8", "surrogateescape"))


def readers(file: str, folder: Path, other: Path, sweep: Path) -> Iterator[tuple[str, ...]]:
    """The commands that read a file of a run."""
    if file == "environment.json":
        yield "resume", str(folder)
    yield "report", str(folder)
    yield "compare", str(folder), str(other)
    if file == "summary.json":
        yield "table", str(sweep), "--out", str(folder.parent)
        yield "analyze-gap", "--student", str(folder)


@pytest.fixture
def copied(runs, tmp_path) -> Callable[[str], tuple[Path, dict[str, Any], Path]]:
    """A run to damage one file of, that file's content, and a sweep whose one cell the run is."""
    sweep = tmp_path / "sweep.toml"
    (tmp_path / "base.toml").write_text('[model]\nname = "mlp"\n')
    sweep.write_text('base = "base.toml"\n[axes]\nseed = [0]\n[table]\nrows = ["seed"]\n')

    def copy(file: str) -> tuple[Path, dict[str, Any], Path]:
        folder = tmp_path / "runs" / "s"
        shutil.copytree(runs / ("stopped" if file == "environment.json" else "s"), folder)
        (cell,) = load_sweep(str(sweep)).cells
        # whoever changes a file can leave out what would tell; with it, `test_damage` sees it
        (folder / "manifest.json").unlink()
        content = json.loads((folder / file).read_text())
        return folder, {**content, "recipe_sha256": recipe_hash(cell.resolved.recipe)}, sweep

    return copy


@pytest.mark.parametrize(
    ("file", "key"), [(file, key) for file, keys in WRONG_KEYS.items() for key in keys]
)
def test_a_wrong_value_in_a_file_of_a_run(copied, runs, file, key):
    folder, content, sweep = copied(file)
    for value in WRONG_KEYS[file][key]:
        change(folder, file, json.dumps({**content, key: value}))
        for argv in readers(file, folder, runs / "t", sweep):
            # what only a resume takes from it is no matter to a report
            if argv[0] == "resume" or file == "summary.json":
                assert file in refused(*argv)
            else:
                done(*argv)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("file", WRONG_KEYS)
def test_a_file_of_a_run_that_is_no_json_object_of_ours(copied, runs, file, name):
    folder, _, sweep = copied(file)
    change(folder, file, TEXTS[name])
    for argv in readers(file, folder, runs / "t", sweep):
        if argv[0] == "resume" or (file == "summary.json" and argv[0] in {"report", "compare"}):
            assert file in refused(*argv)
        elif file != "summary.json":
            done(*argv)


@pytest.mark.parametrize(
    "line",
    [
        {"event": "epoch"},
        {"event": "epoch", "stage": 3},
        {"event": "stage", "stage": "distill", "number": "1"},
        {"event": "stage", "stage": "distill", "number": 1, "count": 1, "trainable": None},
    ],
)
def test_a_wrong_line_of_the_log(copied, runs, line):
    folder, _, _ = copied("summary.json")
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    for argv in (("report", str(folder)), ("compare", str(folder), str(runs / "t"))):
        assert "metrics.jsonl" in refused(*argv)


def test_a_line_of_the_log_that_is_no_json_is_left_out(copied, runs):
    folder, _, _ = copied("summary.json")
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(f"{DEEP}\n{{\n{'9' * 5000}\n")
    assert kd(("report", str(folder)), Environment(io.StringIO(), io.StringIO(), {})) == 0


@pytest.mark.parametrize(
    "text",
    [
        "method = 3",
        "data = []",
        "name = 3",
        '[data]\nper_class = "x"',
        "student = [1]",
        f"x = {'[' * 500}{']' * 500}",
        f"x = {'9' * 5000}",
        f"{'a.' * 500}b = 1",
        "x = ",
        "\udcff",
        "x = 1\n" * 2**18,
    ],
    ids=range(11),
)
def test_a_wrong_recipe_in_a_run(copied, runs, text):
    folder, _, _ = copied("summary.json")
    change(folder, "recipe.toml", text)
    for argv in (("report", str(folder)), ("compare", str(folder), str(runs / "t"))):
        assert "recipe.toml" in refused(*argv)


@pytest.mark.parametrize("file", ["summary.json", "metrics.jsonl", "recipe.toml"])
def test_a_pipe_in_a_run_is_not_waited_for(copied, file):
    folder, _, _ = copied("summary.json")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    refused("report", str(folder))


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({}, 2),
        ({"position": None}, 2),
        ({"position": {"stage": "0", "epoch": 1, "batch": 0, "step": 3}}, 2),
        ({"position": {"stage": 0, "epoch": 2, "batch": 0, "step": 3}}, 1),
        (
            {
                "position": {"stage": 0, "epoch": 2, "batch": 0, "step": 3},
                "runtime": {},
                "optimiser": [],
            },
            1,
        ),
    ],
)
def test_a_state_of_another_kind(copied, facts, code):
    folder, _, _ = copied("environment.json")
    state = load_state(folder / "state")
    save_state(folder / "state", replace(state, facts=facts), 10**11)
    assert "the saved state is not one of this run" in refused("resume", str(folder), code=code)
