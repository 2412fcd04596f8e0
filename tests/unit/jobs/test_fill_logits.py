"""Filling a table ahead of time: all of it, once, and resumably."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import safetensors
import torch
from PIL import Image

from kdcli.engine.checkpoint import digest
from kdcli.engine.teachers.logit_table import LogitTable
from kdcli.engine.teachers.row_format import Shape
from kdcli.errors import Incompatible, Interrupted, UsageError
from kdcli.jobs import distill, fill_cache, resume, train_teacher
from kdcli.jobs.build.job import build_job
from kdcli.jobs.build.networks import load_network
from kdcli.jobs.events import EpochDone
from kdcli.recipe.resolve import Flag, resolve
from tests.unit.jobs.conftest import QUICK


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def recipe(trained):
    def make(**values):
        flags = [Flag("--teacher", "teacher.checkpoint", str(trained.out / "teacher"))]
        flags += [
            Flag(key, key, value)
            for key, value in {**QUICK, "student.name": "mlp", **values}.items()
        ]
        return resolve("distill", flags=flags)

    return make


def test_a_filled_table_leaves_a_student_nothing_to_ask(recipe, trained, tmp_path, monkeypatch):
    views = {"data.augment.flip": True}
    told = []
    result = fill_cache(recipe(**views), out=tmp_path, tell=told.append)
    (table,) = result.tables
    assert (table.images, table.views, table.classes, table.stored, table.rows) == (
        1293,
        2,
        10,
        2586,
        2586,
    )
    assert (told[0].path, told[0].bytes) == ("", table.bytes), (
        "the size is said before anything is made"
    )
    assert [item.stored for item in told[1:]] == sorted(item.stored for item in told[1:])

    assert [item.temperature for item in table.error] == [1.0, 4.0]
    assert all(0 <= item.mean <= item.max < 1e-5 and item.count == 1024 for item in table.error), (
        "rounding to float16"
    )

    asked = []
    write = LogitTable.write
    monkeypatch.setattr(LogitTable, "write", lambda *given: (asked.append(given), write(*given)))
    overrides = {**QUICK, **views, "student.hidden": [12]}
    run = distill(
        teacher=str(trained.out / "teacher"),
        student="mlp",
        method="kd",
        out=tmp_path,
        overrides=overrides,
    )
    assert asked == []
    (choice,) = json.loads((tmp_path / run.name / "environment.json").read_text())["teacher_logits"]
    assert "stored already" in choice["reason"]


def test_interrupted_it_goes_on(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["kdcli.jobs.fill_logits"], "_CHUNK", 100)

    def stop(table):
        if table.stored >= 500:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        fill_cache(recipe(), out=tmp_path, tell=stop)
    told = []
    fill_cache(recipe(), out=tmp_path, tell=told.append)
    assert told[1].stored == 500
    assert told[-1].stored == 1293


def test_the_size_alone_makes_nothing_and_trains_nothing(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.toml").write_text('[model]\nname = "mlp"\n[train]\nepochs = 100000\n')
    (tmp_path / "student.toml").write_text(
        '[student]\nname = "mlp"\n[teacher]\nrecipe = "teacher.toml"\n[data.augment]\ncrop = 1\n'
    )
    (table,) = fill_cache(
        resolve("distill", file=tmp_path / "student.toml"), out=tmp_path, size_only=True
    ).tables
    assert (table.images, table.views, table.bytes) == (1437, 9, 1437 * 9 * 24)
    assert not folder.exists()


def test_views_without_number_and_recipes_without_teacher_are_refused(recipe, tmp_path):
    with pytest.raises(UsageError, match="there is no teacher"):
        fill_cache(
            resolve("train-teacher", flags=[Flag("--model", "model.name", "mlp")]), out=tmp_path
        )
    with pytest.raises(Incompatible):
        fill_cache(recipe(**{"data.augment.resized_crop": True}), out=tmp_path)


def test_a_folder_of_pictures_in_fixed_views_is_stored_and_distilled(tmp_path, folder):
    """A random resized crop has views without number, and data.views gives each picture so many."""
    for part, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("dark", "light")):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            for number in range(count):
                colour = 60 * number % 250 // 2 + 120 * label
                Image.new("RGB", (20, 14), (colour, colour, 250 - colour)).save(
                    tmp_path / "pictures" / part / name / f"{number}.png"
                )
    data = {
        "data.name": "image-folder",
        "data.path": str(tmp_path / "pictures"),
        "data.size": 8,
        "data.augment.resized_crop": True,
    }
    common = {"train.epochs": 1, "report.html": False, "train.batch_size": 4, **data}
    train_teacher(model="mlp", name="teacher", out=tmp_path, overrides=common)
    fixed = {**common, "student.name": "mlp", "data.views": 3, "train.epochs": 5}
    flags = [Flag("--teacher", "teacher.checkpoint", str(tmp_path / "teacher"))]
    (table,) = fill_cache(
        resolve(
            "distill", flags=[*flags, *(Flag(key, key, value) for key, value in fixed.items())]
        ),
        out=tmp_path,
    ).tables
    assert (table.images, table.views, table.stored) == (12, 3, 36)
    run = distill(
        teacher=str(tmp_path / "teacher"),
        student="mlp",
        method="kd",
        name="student",
        out=tmp_path,
        overrides=fixed,
    )
    (choice,) = json.loads((Path(run.run) / "environment.json").read_text())["teacher_logits"]
    assert "stored already" in choice["reason"]


def test_the_largest_logits_alone_take_less_room_and_their_error_is_said(recipe, tmp_path):
    largest = {"teacher.cache_top": 2, "data.augment.flip": True}
    (planned,) = fill_cache(recipe(**largest), out=tmp_path, size_only=True).tables
    assert (planned.top, planned.bytes, planned.error) == (2, 2586 * 14, ())
    (table,) = fill_cache(recipe(**largest), out=tmp_path).tables
    assert (table.stored, table.bytes) == (2586, planned.bytes)
    assert 0 < Path(table.path).stat().st_size - table.bytes < 1000
    assert all(1e-4 < item.mean < item.max for item in table.error)
    with pytest.raises(Incompatible, match="nothing would be left out"):
        fill_cache(recipe(**{"teacher.cache_top": 11}), out=tmp_path, size_only=True)


@pytest.mark.parametrize(
    "varied", [{"data.augment.crop": 1}, {"data.augment.crop": 1, "data.views": 3}]
)
def test_stored_answers_are_those_of_training_views(recipe, trained, tmp_path, varied):
    """A row of the table is the teacher's answer to that view as a training batch has it."""

    resolved = recipe(**varied)
    (table,) = fill_cache(resolved, out=tmp_path).tables
    job = build_job(resolved.recipe, lambda _section: tmp_path, decided=())

    with safetensors.safe_open(table.path, "pt") as handle:
        key = json.loads(handle.metadata()["kd_logits"])

    stored = LogitTable(Path(table.path), key, Shape(table.images, table.views, table.classes))
    batch = next(iter(job.feed.train(1)))
    rows, found = stored.read(batch.index, batch.view)
    assert bool(found.all())
    torch.testing.assert_close(rows.float(), job.method.teacher(batch).logits, rtol=2e-3, atol=2e-3)


def test_a_resumed_run_does_what_it_did_before_whatever_others_have_stored(
    recipe, trained, tmp_path
):
    """162 views in two epochs do not pay, so the teacher is asked; a table that appears meanwhile
    must not be used halfway.
    """
    overrides = {
        **QUICK,
        "student.hidden": [12],
        "data.augment.crop": 4,
        "train.state_seconds": 1e-9,
    }
    given = {
        "teacher": str(trained.out / "teacher"),
        "student": "mlp",
        "method": "kd",
        "out": tmp_path,
        "overrides": overrides,
    }
    straight = distill(**given, name="straight")

    def stop(event):
        if isinstance(event, EpochDone):
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        distill(**given, name="stopped", listeners=[stop])
    fill_cache(recipe(**{"data.augment.crop": 4}), out=tmp_path)
    resumed = resume(tmp_path / "stopped")
    weights = [digest(load_network(run.run)[0].state_dict()) for run in (straight, resumed)]
    assert weights[0] == weights[1]
    assert distill(**given, name="new") is not None
    (choice,) = json.loads((tmp_path / "new" / "environment.json").read_text())["teacher_logits"]
    assert choice["stored"] == "exact", "a run that begins now uses the table"
