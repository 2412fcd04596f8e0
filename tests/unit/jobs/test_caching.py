"""Stored teacher logits in a run: when they are used and why, and that they change nothing but the rounding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kdcli.core.types import DataInfo
from kdcli.data.augment import Augmentation
from kdcli.engine.checkpoint import digest
from kdcli.engine.logit_cache import LogitTable
from kdcli.errors import Incompatible, RecipeInvalid
from kdcli.jobs import caching, distill
from kdcli.jobs.caching import Views
from kdcli.jobs.networks import load_network
from tests.unit.jobs.conftest import QUICK

SMALL = {**QUICK, "student.hidden": [12]}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "logits"


@pytest.fixture
def student(trained, tmp_path, cache):
    """Distils a perceptron; gives its weights' digest, its result and the reason that environment.json has."""

    def make(name: str, method: str = "kd", **overrides):
        result = distill(
            teacher=str(trained.out / "teacher"),
            student="mlp",
            method=method,
            name=name,
            out=tmp_path / "runs",
            overrides={**SMALL, **overrides},
        )
        (choice,) = json.loads((tmp_path / "runs" / name / "environment.json").read_text())["teacher_logits"]
        return digest(load_network(result.run)[0].state_dict()), result, choice

    return make


def test_a_table_is_filled_by_the_first_student_and_serves_the_second(student, cache):
    first, _, choice = student("first")
    assert choice["stored"] == "exact"
    assert choice["reason"].startswith("auto: saves 50% of the teacher's passes in 2 epochs over 1 view an image")
    (table,) = cache.iterdir()
    assert choice["table"] == str(table)
    stored = table.read_bytes()
    second, _, again = student("second")
    assert again["reason"].startswith("auto: answers of this teacher to these images are stored already")
    assert second == first
    assert table.read_bytes() == stored, "nothing was asked again"


def test_looking_up_changes_nothing_but_the_rounding(student, cache):
    _, stored, _ = student("stored")
    _, live, choice = student("live", **{"teacher.cache": "off"})
    assert choice == {"stored": "off", "reason": "asked for", "table": None}
    assert stored.test.nll == pytest.approx(live.test.nll, rel=1e-2)
    assert stored.gap.entropy == pytest.approx(live.gap.entropy, abs=1e-2)


def test_the_gap_is_measured_on_the_live_teacher(student, trained):
    _, stored, _ = student("stored")
    assert stored.teachers[0].test.nll == pytest.approx(trained.kd.teachers[0].test.nll, abs=1e-6)


def test_other_images_have_another_table(student, cache):
    student("one")
    student("other-part", seed=1)  # another tenth is held out
    student("fewer", **{"data.train_limit": 200})
    assert len(list(cache.iterdir())) == 3


def test_a_damaged_table_is_made_again_and_that_is_said(student, cache):
    first, _, _ = student("first")
    (table,) = cache.iterdir()
    table.write_bytes(table.read_bytes()[:-1])
    second, _, choice = student("second")
    assert second == first
    assert "damaged: made again" in choice["reason"]


def test_a_method_that_asks_for_more_than_logits_is_told_so(student):
    _, _, choice = student("rkd", method="rkd")
    assert choice == {"stored": "off", "reason": "rkd asks its teacher for more than logits", "table": None}
    with pytest.raises(Incompatible, match=r"teacher\.cache is exact, and rkd asks its teacher for more than logits"):
        student("refused", method="rkd", **{"teacher.cache": "exact"})


def test_a_dry_run_stores_nothing(trained, tmp_path, cache):
    distill(teacher=str(trained.out / "teacher"), student="mlp", method="kd", out=tmp_path / "runs", overrides=SMALL, dry_run=True)
    assert not cache.exists()


def test_a_dry_run_trains_no_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.toml").write_text('[model]\nname = "mlp"\n[train]\nepochs = 100000\n')
    (tmp_path / "student.toml").write_text('[student]\nname = "mlp"\nhidden = [8]\n[teacher]\nrecipe = "teacher.toml"\n')
    assert distill("student.toml", out=tmp_path / "runs", dry_run=True) is None
    assert not (tmp_path / "runs").exists()


def test_another_word_is_refused_with_its_place(student):
    with pytest.raises(RecipeInvalid) as caught:
        student("wrong", **{"teacher.cache": "exakt"})
    assert [problem.key.rpartition(".")[2] for problem in caught.value.diagnostics] == ["cache"]


# ---- what auto weighs ------------------------------------------------------------------------------------------------


def views(epochs: int, augment: Augmentation, samples: int = 50_000, classes: int = 100) -> Views:
    info = DataInfo("d", classes, samples, (3, 32, 32), ("a",) * classes, (0.5,) * 3, (0.5,) * 3, "f", torch.zeros(0, dtype=torch.int64))
    return Views(info, augment, epochs)


CIFAR = Augmentation(crop=4, flip=True)


@pytest.mark.parametrize(
    ("asked", "share"),
    [
        (views(240, CIFAR), 0.478),  # 240 draws of 162 views meet 125 different ones
        (views(20, CIFAR), 0.057),
        (views(20, Augmentation()), 0.95),
        (views(1, Augmentation()), 0.0),
    ],
)
def test_the_share_of_passes_that_a_table_saves(asked, share):
    assert asked.saved(asked.shape.views) == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize(
    ("asked", "free", "value", "says"),
    [
        (views(240, CIFAR), 10**12, "exact", "saves 48% of the teacher's passes in 240 epochs over 162 views an image, 1,628.1 MB"),
        (views(240, CIFAR), 10**10, "off", "a table of 1,628.1 MB is too much for 10.0 GB of free disk"),
        (views(20, CIFAR), 10**12, "off", "stored answers would save 6% of the teacher's passes in 20 epochs over 162 views an image"),
        (views(240, CIFAR, samples=1_281_167, classes=1000), 10**14, "off", "too much for"),
    ],
)
def test_auto_weighs_what_is_saved_against_the_disk(asked, free, value, says, tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "_free_bytes", lambda _path: free)
    choice = caching._choose(asked, asked.shape, tmp_path / "table")
    assert choice.value == value
    assert says in choice.reason


def test_views_that_cannot_be_counted_are_asked_live(trained):
    boundless = views(240, Augmentation(resized_crop=True))
    assert caching.store("auto", None, boundless, None).choice.value == "off"
    with pytest.raises(Incompatible, match="a random resized crop has no countable views"):
        caching.store("exact", None, boundless, None)


def test_a_table_is_as_large_as_it_says(tmp_path):
    asked = views(1, Augmentation(flip=True), samples=10, classes=4)
    LogitTable(tmp_path / "table", {}, asked.shape)
    assert asked.shape.bytes == 10 * 2 * (2 * 4 + 1)
    assert 0 < (tmp_path / "table").stat().st_size - asked.shape.bytes < 1000
