"""Stored teacher logits in a run: when they are used and why, and that they change nothing but the
rounding.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdcli.core.types import DataInfo
from kdcli.data.augment import Augmentation
from kdcli.engine.checkpoint import digest
from kdcli.engine.runtime import Runtime
from kdcli.engine.teachers.logit_table import LogitTable
from kdcli.errors import DiskFull, Incompatible, NotWritable, RecipeInvalid
from kdcli.jobs import distill, train_teacher
from kdcli.jobs.build import logit_cache
from kdcli.jobs.build.logit_cache import Views, table_key, table_path
from kdcli.jobs.build.networks import load_network
from kdcli.jobs.build.teachers import load_teacher
from tests.unit.jobs.conftest import QUICK

SMALL = {**QUICK, "student.hidden": [12]}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "logits"


@pytest.fixture
def student(trained, tmp_path, cache):
    """Distils a perceptron; gives its weights' digest, its result and the reason that
    environment.json has.
    """

    def make(name: str, method: str = "kd", teacher: Path | None = None, **overrides):
        result = distill(
            teacher=str(teacher or trained.out / "teacher"),
            student="mlp",
            method=method,
            name=name,
            out=tmp_path / "runs",
            overrides={**SMALL, **overrides},
        )
        (choice,) = json.loads((tmp_path / "runs" / name / "environment.json").read_text())[
            "teacher_logits"
        ]
        return digest(load_network(result.run)[0].state_dict()), result, choice

    return make


def test_a_table_is_filled_by_the_first_student_and_serves_the_second(student, cache):
    first, _, choice = student("first")
    assert choice["stored"] == "exact"
    assert choice["reason"].startswith(
        "auto: saves 50% of the teacher's passes in 2 epochs over 1 view an image"
    )
    (table,) = cache.iterdir()
    assert choice["table"] == str(table)
    stored = table.read_bytes()
    second, _, again = student("second")
    assert again["reason"].startswith(
        "auto: answers of this teacher to these images are stored already"
    )
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


def test_a_view_is_never_served_what_was_said_of_another(student, cache):
    """A known defect of a rival, torchdistill (its pull request 539 removed the cache): answers
    filed under the sample alone, so that a random crop in epoch 2 got the logits of epoch 1's. A
    student of stored answers must be that of a live teacher."""
    varied = {"data.augment.crop": 1, "data.augment.flip": True, "train.epochs": 3}
    _, stored, choice = student("stored", **varied, **{"teacher.cache": "exact"})
    _, live, _ = student("live", **varied, **{"teacher.cache": "off"})
    assert choice["stored"] == "exact"
    assert stored.test.nll == pytest.approx(live.test.nll, rel=1e-2)
    assert stored.gap.entropy == pytest.approx(live.gap.entropy, abs=1e-2)


def test_another_teacher_in_the_same_folder_is_not_served_the_first_ones_answers(
    student, trained, tmp_path, cache
):
    """The other known defect of torchdistill's cache: a folder belonged to whoever filled it
    first.
    """
    train_teacher(
        model="mlp",
        data="digits",
        name="other",
        out=tmp_path / "runs",
        overrides={**QUICK, "seed": 1, "model.hidden": [9]},
    )
    other = tmp_path / "runs" / "other"
    student("first")
    after, _, _ = student("second", teacher=other)
    assert len(list(cache.iterdir())) == 2
    alone, _, _ = student("alone", teacher=other, **{"teacher.cache": "off"})
    for table in cache.iterdir():
        table.unlink()
    fresh, _, _ = student("fresh", teacher=other)
    assert after == fresh
    assert after != alone, "rounding shows, so the answers were stored ones"


def test_a_table_put_in_anothers_place_is_refused_and_made_again(student, trained, tmp_path, cache):
    train_teacher(
        model="mlp",
        data="digits",
        name="other",
        out=tmp_path / "runs",
        overrides={**QUICK, "seed": 1},
    )
    expected, _, _ = student("first")
    (own,) = cache.iterdir()
    student("second", teacher=tmp_path / "runs" / "other")
    (others,) = set(cache.iterdir()) - {own}
    own.write_bytes(others.read_bytes())
    again, _, choice = student("third")
    assert again == expected
    assert "holds other answers: teacher differ: made again" in choice["reason"]


@pytest.fixture
def key_of(trained):
    """The key of the teacher's table for some data and augmentation."""
    loaded_for = {}

    def make(asked: Views) -> dict[str, object]:
        loaded = loaded_for.setdefault(
            0, load_teacher(trained.out / "teacher", asked.info, Runtime("cpu"))
        )
        return table_key(loaded, asked, Runtime("cpu"))

    return make


DIGITS = DataInfo(
    "digits",
    10,
    1437,
    (1, 8, 8),
    tuple("0123456789"),
    (0.3,),
    (0.4,),
    "f",
    torch.zeros(0, dtype=torch.int64),
)


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"augment": Augmentation(crop=2)}, "views"),
        ({"augment": Augmentation(crop=1, flip=True)}, "views"),
        ({"augment": Augmentation(crop=1, padding="reflect")}, "views"),
        ({"augment": Augmentation(crop=1, fixed=2)}, "views"),
        ({"augment": Augmentation(crop=1, fixed=9)}, "views"),
        ({"augment": Augmentation(resized_crop=True, fixed=2)}, "views"),
        ({"info": replace(DIGITS, fingerprint="g")}, "data"),
        ({"info": replace(DIGITS, positions_sha256="h")}, "images"),
        ({"info": replace(DIGITS, mean=(0.5,))}, "input"),
        ({"top": 3}, "top"),
    ],
)
def test_whatever_an_answer_depends_on_makes_another_table(key_of, other, differs):
    asked = Views(DIGITS, Augmentation(crop=1), 20)
    one, another = key_of(asked), key_of(replace(asked, **other))
    assert [name for name in one.keys() | another.keys() if one.get(name) != another.get(name)] == [
        differs
    ]
    assert table_path(one) != table_path(another)


def test_a_resized_crop_of_other_areas_makes_another_table(key_of):
    one, another = (
        Augmentation(resized_crop=True, scale=(low, 1.0), fixed=2) for low in (0.08, 0.2)
    )
    assert table_path(key_of(Views(DIGITS, one, 20))) != table_path(
        key_of(Views(DIGITS, another, 20))
    )


def test_how_long_and_how_often_a_teacher_is_asked_changes_no_table(key_of):
    asked = Views(DIGITS, Augmentation(crop=1), 20)
    assert key_of(asked) == key_of(replace(asked, epochs=30, runs=7))


def test_a_damaged_table_is_made_again_and_that_is_said(student, cache):
    first, _, _ = student("first")
    (table,) = cache.iterdir()
    table.write_bytes(table.read_bytes()[:-1])
    second, _, choice = student("second")
    assert second == first
    assert "damaged: made again" in choice["reason"]


def test_half_written_rows_are_asked_again(student, cache):
    first, _, _ = student("first")
    (table,) = cache.iterdir()
    content = bytearray(table.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    # 300 of 1293 rows are gone, their marks, before the rows, are not
    rows = header + 4 * 1293
    content[rows : rows + 20 * 300] = bytes(20 * 300)
    table.write_bytes(content)
    second, _, _ = student("second")
    assert second == first
    assert table.read_bytes() != bytes(content)


def full(*_arguments: object) -> None:
    raise OSError(28, "No space left on device")


def test_on_a_full_disk_the_teacher_is_asked_live_and_that_is_said(student, cache, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", full)
    _, _, choice = student("live")
    assert choice["stored"] == "off"
    assert choice["reason"].startswith("auto: the disk is full: could not write")
    assert list(cache.iterdir()) == []
    with pytest.raises(DiskFull) as caught:
        student("refused", **{"teacher.cache": "exact"})
    assert caught.value.hint == "free some space, or set $KD_CACHE_DIR to another folder"


def test_where_nothing_can_be_written_the_teacher_is_asked_live_and_that_is_said(
    student, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "file"))
    _, _, choice = student("live")
    assert choice["stored"] == "off"
    assert choice["reason"].startswith("auto: cannot write")
    with pytest.raises(NotWritable) as caught:
        student("refused", **{"teacher.cache": "exact"})
    assert caught.value.hint == "set $KD_CACHE_DIR to another folder"


@pytest.mark.parametrize("damaged", [False, True])
def test_a_table_that_cannot_be_written_to_is_not_used(student, cache, damaged):
    student("first")
    (table,) = cache.iterdir()
    if damaged:
        table.write_bytes(table.read_bytes()[:-1])
    table.chmod(0o444)
    cache.chmod(0o555)
    if os.access(cache, os.W_OK):
        pytest.skip("this user may write anywhere")
    try:
        _, _, choice = student("second")
        with pytest.raises(NotWritable, match="cannot write"):
            student("refused", **{"teacher.cache": "exact"})
    finally:
        cache.chmod(0o755)
    assert choice["stored"] == "off"
    assert choice["reason"].startswith(f"auto: cannot write {table}: Permission denied")


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")]
)
def test_a_table_on_a_disk_that_turned_read_only_is_not_used(student, cache, error, monkeypatch):
    student("first")

    def refuse(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr("kdcli.engine.teachers.logit_table.np.memmap", refuse)
    _, _, choice = student("second")
    assert choice["stored"] == "off"
    assert choice["reason"].endswith(error.strerror)


def test_views_of_a_fixed_number_are_stored_and_serve_students_of_any_seed(
    trained, tmp_path, cache
):
    given = {
        "teacher": str(trained.out / "teacher"),
        "student": "mlp",
        "method": "kd",
        "out": tmp_path / "runs",
    }
    overrides = {
        "student.hidden": [12],
        "train.epochs": 6,
        "data.views": 2,
        "data.augment.crop": 2,
        "report.html": False,
    }
    reasons = []
    for seed in (0, 1):
        distill(**given, name=f"seed-{seed}", overrides={**overrides, "seed": seed})
        (choice,) = json.loads(
            (tmp_path / "runs" / f"seed-{seed}" / "environment.json").read_text()
        )["teacher_logits"]
        reasons.append(choice["reason"])
    assert reasons[0].startswith(
        "auto: saves 67% of the teacher's passes in 6 epochs over 2 views an image, 69 kB"
    )
    assert "stored already" in reasons[1]
    assert len(list(cache.iterdir())) == 1


def test_of_images_seen_as_they_are_one_answer_is_stored_whatever_the_student_sees(student, cache):
    cropped = {"data.augment.crop": 2, "teacher.view": "fixed"}
    stored, _, choice = student("stored", **cropped, **{"teacher.cache": "exact"})
    assert choice["reason"] == "asked for"
    (table,) = cache.iterdir()
    assert 0 < table.stat().st_size - 1293 * (2 * 10 + 4) < 2000
    second, looked_up, again = student("second", **cropped)
    assert again["reason"].startswith("auto: answers of this teacher to these images are stored")
    assert second == stored
    _, live, _ = student("live", **cropped, **{"teacher.cache": "off"})
    assert looked_up.train_loss == pytest.approx(live.train_loss, rel=1e-3)


def test_the_largest_logits_alone_are_stored_where_that_is_asked_for(student, cache):
    _, result, choice = student("top", **{"teacher.cache_top": 3})
    assert choice["reason"].endswith(
        ", the 3 largest of 10 logits and what the others weigh together"
    )
    (table,) = cache.iterdir()
    assert 0 < table.stat().st_size - 1293 * (2 * 7 + 4) < 1000
    _, whole, _ = student("whole")
    assert result.test.nll != whole.test.nll
    assert len(list(cache.iterdir())) == 2


def test_as_many_logits_as_classes_are_refused(student):
    with pytest.raises(
        Incompatible,
        match=(
            r"teacher\.cache_top is 10, and the images have 10 classes: nothing "
            r"would be left out"
        ),
    ):
        student("refused", **{"teacher.cache_top": 10})
    with pytest.raises(RecipeInvalid) as caught:
        student("refused", **{"teacher.cache_top": 3, "teacher.cache": "off"})
    assert [problem.problem for problem in caught.value.diagnostics] == [
        "cache_top says how much of the logits is stored, and cache is off: nothing is"
    ]


def test_a_method_that_asks_for_more_than_logits_is_told_so(student):
    _, _, choice = student("rkd", method="rkd")
    assert choice == {
        "stored": "off",
        "reason": "rkd asks its teacher for more than logits",
        "table": None,
    }
    with pytest.raises(
        Incompatible,
        match=r"teacher\.cache is exact, and rkd asks its teacher for more than logits",
    ):
        student("refused", method="rkd", **{"teacher.cache": "exact"})


def test_a_dry_run_stores_nothing(trained, tmp_path, cache):
    distill(
        teacher=str(trained.out / "teacher"),
        student="mlp",
        method="kd",
        out=tmp_path / "runs",
        overrides=SMALL,
        dry_run=True,
    )
    assert not cache.exists()


def test_a_dry_run_trains_no_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.toml").write_text('[model]\nname = "mlp"\n[train]\nepochs = 100000\n')
    (tmp_path / "student.toml").write_text(
        '[student]\nname = "mlp"\nhidden = [8]\n[teacher]\nrecipe = "teacher.toml"\n'
    )
    assert distill("student.toml", out=tmp_path / "runs", dry_run=True) is None
    assert not (tmp_path / "runs").exists()


def test_another_word_is_refused_with_its_place(student):
    with pytest.raises(RecipeInvalid) as caught:
        student("wrong", **{"teacher.cache": "exakt"})
    assert [problem.key.rpartition(".")[2] for problem in caught.value.diagnostics] == ["cache"]


# ---- what auto weighs ----------------------------------------------------------------------------


def views(epochs: int, augment: Augmentation, samples: int = 50_000, classes: int = 100) -> Views:
    info = DataInfo(
        "d",
        classes,
        samples,
        (3, 32, 32),
        ("a",) * classes,
        (0.5,) * 3,
        (0.5,) * 3,
        "f",
        torch.zeros(0, dtype=torch.int64),
    )
    return Views(info, augment, epochs)


CIFAR = Augmentation(crop=4, flip=True)
CUT_4 = Augmentation(resized_crop=True, flip=True, fixed=4)


@pytest.mark.parametrize(
    ("asked", "share"),
    [
        (views(240, CIFAR), 0.478),  # 240 draws of 162 views meet 125 different ones
        (views(20, CIFAR), 0.057),
        (views(20, Augmentation()), 0.95),
        (views(1, Augmentation()), 0.0),
        (replace(views(240, CIFAR), runs=10), 0.933),
        (replace(views(1, Augmentation()), runs=10), 0.9),
        (views(240, Augmentation(resized_crop=True, fixed=8)), 1 - 8 / 240),
    ],
)
def test_the_share_of_passes_that_a_table_saves(asked, share):
    assert asked.saved(asked.shape.views) == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize(
    ("asked", "free", "value", "says"),
    [
        (
            views(240, CIFAR),
            10**12,
            "exact",
            "saves 48% of the teacher's passes in 240 epochs over 162 views an image, 1,652.4 MB",
        ),
        (
            views(240, CIFAR),
            10**10,
            "off",
            "a table of 1,652.4 MB is too much for 10.0 GB of free disk",
        ),
        (
            views(20, CIFAR),
            10**12,
            "off",
            (
                "stored answers would save 6% of the teacher's passes in 20 epochs over 162 "
                "views an image"
            ),
        ),
        (views(240, CIFAR, samples=1_281_167, classes=1000), 10**14, "off", "too much for"),
        (
            replace(views(20, CIFAR), runs=10),
            10**12,
            "exact",
            "saves 42% of the teacher's passes in 10 runs of 20 epochs over 162 views",
        ),
        (
            views(90, CUT_4, samples=1_281_167, classes=1000),
            10**14,
            "off",
            "a table of 10,269.8 MB is too much for",
        ),
        (
            replace(views(90, CUT_4, samples=1_281_167, classes=1000), top=20),
            10**14,
            "exact",
            "over 4 views an image, 440.7 MB, the 20",
        ),
    ],
)
def test_auto_weighs_what_is_saved_against_the_disk(
    asked, free, value, says, tmp_path, monkeypatch
):
    monkeypatch.setattr(logit_cache, "_free_bytes", lambda _path: free)
    choice = logit_cache._choose(asked, asked.shape, tmp_path / "table")
    assert choice.value == value
    assert says in choice.reason


def test_views_that_cannot_be_counted_are_asked_live(trained):
    boundless = views(240, Augmentation(resized_crop=True))
    assert logit_cache.store("auto", None, boundless, None).choice.value == "off"
    with pytest.raises(
        Incompatible, match="a random resized crop has no countable views"
    ) as caught:
        logit_cache.store("exact", None, boundless, None)
    assert caught.value.hint == 'data.views = 8 gives each image so many, or teacher.cache = "off"'


def test_a_table_is_as_large_as_it_says(tmp_path):
    asked = views(1, Augmentation(flip=True), samples=10, classes=4)
    LogitTable(tmp_path / "table", {}, asked.shape)
    assert asked.shape.bytes == 10 * 2 * (2 * 4 + 4)
    assert 0 < (tmp_path / "table").stat().st_size - asked.shape.bytes < 1000
