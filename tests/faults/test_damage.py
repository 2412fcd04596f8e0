"""Damage is never believed: a flipped bit, an edited recipe or a torn file is named, and what is not
needed does not stop a run.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from kdcli.cli.app import run as main
from kdcli.cli.console import Environment
from kdcli.engine.checkpoint import State, load_state, save_state
from kdcli.errors import BadCheckpoint, CorruptFile, Interrupted, UsageError
from kdcli.jobs import distill, evaluate, resume, train_teacher
from kdcli.jobs.events import EpochDone
from kdcli.report.page.build import build
from kdcli.results.weights_header import is_unsigned, read_header
from kdcli.runs.find import damaged_runs, finished_runs, newest
from kdcli.runs.read import Run

QUICK = {"data.train_limit": 60, "train.batch_size": 20, "report.html": False, "report.probe": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    made = train_teacher(model="mlp", data="digits", out=out, epochs=1, overrides=QUICK)
    return Path(made.run)


def header_of(path: Path) -> tuple[int, dict]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return length, json.loads(data[8 : 8 + length])


def with_header(path: Path, to: Path, change) -> Path:
    """A copy of a checkpoint whose safetensors header went through `change`."""
    length, header = header_of(path)
    text = json.dumps(change(header)).encode()
    to.write_bytes(struct.pack("<Q", len(text)) + text + path.read_bytes()[8 + length :])
    return to


def edited(path: Path, to: Path, sign: bool = False, **changes) -> Path:
    """A copy whose kd header has other values; `sign` leaves the checksum out, as files of before."""

    def change(header):
        content = json.loads(header["__metadata__"]["kd"])
        if sign:
            del content["header_sha256"]
        header["__metadata__"]["kd"] = json.dumps({**content, **changes})
        return header

    return with_header(path, to, change)


def test_every_flipped_bit_of_the_header_is_noticed(run, tmp_path):
    whole = run / "model.safetensors"
    length, _ = header_of(whole)
    data = bytearray(whole.read_bytes())
    start = data.index(b"mean")
    for place in range(start, start + 60, 3):
        for bit in (1, 4):
            damaged = bytearray(data)
            damaged[place] ^= bit
            (tmp_path / "flipped.safetensors").write_bytes(damaged)
            with pytest.raises(BadCheckpoint):
                read_header(tmp_path / "flipped.safetensors")
    assert start < length
    assert read_header(whole)[1].class_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("key", "value"),
    [("mean", [0.5]), ("std", [2.0]), ("data", {"name": "mnist"}), ("method", "skd"), ("seed", 7)],
)
def test_a_header_that_was_changed_is_refused(run, tmp_path, key, value):
    path = edited(run / "model.safetensors", tmp_path / "m.safetensors", **{key: value})
    with pytest.raises(BadCheckpoint, match="its header does not match its checksum"):
        evaluate([path])


def test_a_file_from_before_there_was_a_checksum_is_read(run, tmp_path):
    path = edited(run / "model.safetensors", tmp_path / "m.safetensors", sign=True)
    assert is_unsigned(path)
    assert not is_unsigned(run / "model.safetensors")
    assert evaluate([path]).evaluations[0].measures.n == 360


@pytest.mark.parametrize(
    "options",
    [
        ["--teacher", "m.safetensors", "--student", "mlp"],
        ["--teacher", "RUN", "--student", "mlp", "-s", "student.init=m.safetensors"],
        ["-m", "none", "-s", "report.reference=m.safetensors"],
    ],
)
def test_a_run_says_that_a_file_it_builds_on_has_no_checksum(run, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    edited(run / "model.safetensors", tmp_path / "m.safetensors", sign=True)
    argv = [str(run) if word == "RUN" else word for word in options]
    small = [word for key, value in QUICK.items() for word in ("-s", f"{key}={json.dumps(value)}")]
    out = io.StringIO()
    env = Environment(out, io.StringIO(), {})
    assert main(["distill", *argv, *small, "--dry-run", "--json"], env) == 0
    (warning,) = json.loads(out.getvalue())["warnings"]
    assert warning.startswith("m.safetensors is of an earlier kd: its header has no checksum")


WRONG = {
    "mean": [None, "0.5", [], [0.1, 0.2], [None], ["a"], {"a": 1}],
    "std": [[0.0], [-1.0], [1e999]],
    "class_names": [None, "0123456789", [0] * 10, ["a"], {}],
    "input_shape": [None, [8, 8], [1, 8], [0, 8, 8], "8x8", [1.5, 8, 8]],
    "num_classes": [None, "10", -1, 0, 3, 10.5, True],
    "arguments": [None, [], "x"],
    "data": [None, [], "digits"],
    "metrics": [None, [1], "good"],
    "architecture": [None, 3, []],
    "teachers": [None, "x", [1]],
    "epoch": ["1", 1.5],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG.items() for value in values]
)
def test_a_header_of_wrong_types_is_one_sentence(run, tmp_path, key, value):
    path = edited(run / "model.safetensors", tmp_path / "m.safetensors", sign=True, **{key: value})
    with pytest.raises(BadCheckpoint, match="has a damaged kd header") as caught:
        read_header(path)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "entry",
    [
        None,
        3,
        "text",
        [],
        {},
        {"data_offsets": None},
        {"data_offsets": ["0", "4"]},
        {"data_offsets": [0]},
        {"data_offsets": [0, -4]},
        {"data_offsets": [0, 4.5]},
    ],
)
def test_an_entry_of_a_tensor_that_is_none_is_one_sentence(run, tmp_path, entry):
    path = with_header(
        run / "model.safetensors", tmp_path / "m.safetensors", lambda header: {**header, "w": entry}
    )
    with pytest.raises(BadCheckpoint, match=r"is damaged|truncated"):
        read_header(path)


def test_metadata_that_are_no_table_and_a_deep_header_are_one_sentence(run, tmp_path):
    path = with_header(
        run / "model.safetensors", tmp_path / "m.safetensors", lambda h: {**h, "__metadata__": 3}
    )
    with pytest.raises(BadCheckpoint, match="metadata are no table"):
        read_header(path)
    deep = b"[" * 50_000 + b"]" * 50_000
    path.write_bytes(struct.pack("<Q", len(deep)) + deep)
    with pytest.raises(BadCheckpoint, match="not a safetensors file"):
        read_header(path)


# ---- records of a finished run -------------------------------------------------------------------


@pytest.fixture
def copied(run, tmp_path) -> Path:
    """A finished run of its own, under a folder of runs."""
    return Path(shutil.copytree(run, tmp_path / "runs" / "copy"))


def flipped(path: Path, place: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= bit
    path.write_bytes(data)


@pytest.mark.parametrize("place", range(0, 3000, 100))
def test_a_flipped_bit_of_the_summary_makes_no_number(copied, place):
    assert damaged_runs(copied.parent) == ()
    flipped(copied / "summary.json", place)
    with pytest.raises(CorruptFile, match=r"summary\.json is damaged"):
        Run.load(copied)
    assert finished_runs(copied.parent) == {}
    assert damaged_runs(copied.parent) == (
        f"{copied / 'summary.json'} is damaged: it is not what manifest.json says",
    )


@pytest.mark.parametrize("place", range(0, 300, 30))
@pytest.mark.parametrize("name", ["environment.json", "analysis.json", "recipe.toml"])
def test_a_flipped_bit_of_what_a_report_can_do_without_is_named_on_it(copied, name, place):
    flipped(copied / name, place, 4 if name == "recipe.toml" else 1)
    if name == "recipe.toml":  # a bit may also make it no TOML at all
        (copied / name).write_text((copied / name).read_text() + "# edited\n")
        with suppress(CorruptFile):
            assert f"{name} is damaged" in "".join(Run.load(copied).damage)
        return
    (sentence,) = Run.load(copied).damage
    assert f"{copied / name} is damaged" in sentence
    build(copied, html=False)
    assert f"{name} is damaged" in (copied / "report.md").read_text().replace("\\", "")


def test_a_damaged_manifest_is_named_and_a_run_of_before_is_read(copied):
    flipped(copied / "manifest.json", 40)
    with pytest.raises(CorruptFile, match=r"manifest\.json"):
        Run.load(copied)
    (copied / "manifest.json").unlink()
    assert Run.load(copied).damage == ()


@pytest.mark.parametrize("place", range(5, 400, 20))
def test_a_flipped_bit_of_the_metrics_is_counted(copied, place):
    flipped(copied / "metrics.jsonl", place)
    assert "of its lines are left out of the curves" in "".join(Run.load(copied).damage)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_line_of_the_metrics_that_is_gone_is_counted(copied, number):
    path = copied / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    path.write_text("".join(lines[:number] + lines[number + 1 :]))
    (sentence,) = Run.load(copied).damage
    assert "metrics.jsonl is damaged: 1 of its lines" in sentence


def test_a_table_counts_no_damaged_run(copied):
    """Nor does the sweep take it for a finished cell."""
    assert len(finished_runs(copied.parent)) == 1
    text = (copied / "summary.json").read_text()
    (copied / "summary.json").write_text(text.replace('"accuracy": 0.', '"accuracy": 0.1', 1))
    assert finished_runs(copied.parent) == {}


# ---- runs that were stopped ----------------------------------------------------------------------


@pytest.fixture
def stopped(run, tmp_path) -> Path:
    """A distillation that was stopped after its first epoch."""

    def stop(event: object) -> None:
        if isinstance(event, EpochDone):
            raise Interrupted("stop")

    overrides = {**QUICK, "train.epochs": 3, "train.state_seconds": 0.001, "student.name": "mlp"}
    with pytest.raises(Interrupted):
        distill(
            teacher=str(run),
            method="kd",
            name="s",
            out=tmp_path,
            overrides=overrides,
            listeners=[stop],
        )
    return tmp_path / "s"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("epochs = 3", "epochs = 4", "train.epochs is 4, and the run began with 3"),
        ("batch_size = 20", "batch_size = 30", "train.batch_size is 30"),
        ("temperature = 4.0", "temperature = 2.0", "method"),
        ("momentum = 0.9", "momentum = 0.5", "optim.momentum is 0.5"),
    ],
)
def test_a_run_does_not_go_on_with_another_recipe(stopped, old, new, key):
    recipe = stopped / "recipe.toml"
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match="cannot go on") as caught:
        resume(stopped)
    assert key in caught.value.message
    recipe.write_text(text)
    assert resume(stopped).epochs == 3


def test_a_byte_of_the_log_that_is_no_text_stops_nothing(stopped):
    with (stopped / "metrics.jsonl").open("ab") as handle:
        handle.write(b"\xff\xfe\n")
    assert resume(stopped).epochs == 3


@pytest.mark.parametrize("place", range(10, 3000, 300))
def test_a_run_does_not_go_on_with_a_damaged_environment(stopped, place):
    flipped(stopped / "environment.json", place)
    with pytest.raises(CorruptFile, match=r"environment\.json"):
        resume(stopped)


def test_a_line_that_a_kill_cut_off_is_no_damage_and_what_was_damaged_stays_counted(stopped):
    path = stopped / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text + '{"line": 3, "event": "ep')
    assert (Run.load(stopped).torn, Run.load(stopped).damage) == (True, ())
    flipped(path, 20)
    resume(stopped)
    found = Run.load(stopped)
    assert not found.torn
    assert "1 of its lines" in "".join(found.damage)


@pytest.mark.parametrize("damage", ["data_offsets", "cut", "weights"])
def test_the_state_before_serves_where_the_newest_is_damaged(tmp_path, damage):
    for order in (1, 2):
        save_state(tmp_path, State({"w": torch.full((4,), float(order))}, {"order": order}), order)
    newest = max(tmp_path.glob("state-*"))
    data = newest.read_bytes()
    if damage == "data_offsets":
        newest.write_bytes(data.replace(b"data_offsets", b"data_offsetz"))
    elif damage == "cut":
        newest.write_bytes(data[:-3])
    else:
        newest.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = load_state(tmp_path)
    assert found.facts == {"order": 1}
    assert newest.name in found.damaged
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    newest.write_bytes(data[:-3])
    with pytest.raises(CorruptFile, match="truncated"):
        load_state(tmp_path)


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"kind": 3, "recipe_sha256": ""}', '{"kind": "distill"}', "[" * 100_000]
)
def test_an_environment_that_is_none_is_one_sentence(stopped, text):
    (stopped / "environment.json").write_text(text)
    with pytest.raises(CorruptFile, match=r"environment\.json"):
        resume(stopped)


def test_a_damaged_summary_of_another_run_hides_no_run(stopped, tmp_path):
    resume(stopped)
    for name, text in (("a", "[]"), ("b", "{"), ("c", "\xff")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(text, encoding="latin-1")
        (tmp_path / name / "recipe.toml").touch()
    assert newest(tmp_path) == stopped
