"""Predictions for picture files are the softmax of the logits that `kd evaluate` measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from kdcli.data.datasets import digits
from kdcli.errors import Incompatible, NotFound
from kdcli.jobs import evaluate, predict, train_teacher
from kdcli.jobs.use.pictures import GREYED, REPEATED, find_pictures
from tests.unit.jobs.conftest import QUICK


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two classes of noise of odd sizes, and a run on them: 12 pixels of 16 are looked at."""
    top = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            folder = top / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = draw.integers(0, 256, (18 + number, 30, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    given = {
        **QUICK,
        "data.val_fraction": 0.0,
        "data.path": str(top / "data"),
        "data.size": 12,
        "data.resize": 16,
        "model.hidden": [4],
        "train.batch_size": 4,
    }
    train_teacher(model="mlp", data="image-folder", name="r", out=top, overrides=given)
    return top


def test_a_folder_of_test_pictures_gets_the_answers_that_were_measured(photographs, tmp_path):
    evaluate([photographs / "r"], save_logits_to=tmp_path / "logits.safetensors")
    logits = load_file(tmp_path / "logits.safetensors")["logits.r"]
    found = predict(photographs / "r", [photographs / "data" / "test"])
    assert [Path(item.file).parent.name for item in found.predictions] == ["ant"] * 4 + ["bee"] * 4
    for item, row in zip(found.predictions, logits.double().softmax(-1), strict=True):
        assert [guess.label for guess in item.top] == [
            ("ant", "bee")[index] for index in row.argsort(descending=True)
        ]
        assert sum(guess.probability for guess in item.top) == pytest.approx(1)
        assert item.top[0].probability == pytest.approx(float(row.max()), abs=1e-12)


def test_digits_saved_as_pictures_get_the_answers_that_were_measured(trained, tmp_path):
    evaluate([trained.out / "teacher"], save_logits_to=tmp_path / "logits.safetensors")
    logits = load_file(tmp_path / "logits.safetensors")["logits.teacher"]
    pixels = digits.load("digits", options=digits.Options(), root=tmp_path).x_test[:20, 0]
    for number, picture in enumerate(pixels):
        Image.fromarray(picture.numpy()).save(tmp_path / f"{number:02}.png")
    found = predict(trained.out / "teacher", [str(tmp_path / "*.png")], top=1)
    for item, row in zip(found.predictions, logits.double().softmax(-1), strict=False):
        assert item.top[0].index == int(row.argmax())
        assert item.top[0].probability == pytest.approx(float(row.max()), abs=1e-6)
    assert found.warnings == ()


def test_colours_that_do_not_fit_are_changed_and_said(trained, photographs, tmp_path):
    grey = np.arange(400, dtype=np.uint8).reshape(20, 20)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([grey, grey.T, grey])).save(tmp_path / "coloured.png")
    files = [tmp_path / "grey.png", tmp_path / "coloured.png"]
    for run, remarks in ((photographs / "r", [REPEATED, ""]), (trained.out / "kd", ["", GREYED])):
        found = predict(run, files)
        assert [item.remark for item in found.predictions] == remarks
        [warning] = found.warnings
        assert warning.endswith(remarks[0] or remarks[1])


def test_files_that_cannot_be_read_are_named_and_the_others_are_answered(trained, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    found = predict(trained.out / "kd", [tmp_path, tmp_path / "notes.txt"], top=3)
    assert [Path(item.file).name for item in found.predictions] == ["good.png"]
    assert [Path(item.file).name for item in found.unread] == ["bad.png", "notes.txt"]
    assert all(item.file in item.message for item in found.unread)
    assert len(found.predictions[0].top) == 3


def test_which_files_are_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.JPG", "b/1.png", "b/._1.png", "b/.hidden/3.png", "b/notes.txt", "c[1].png"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [str(path) for path in find_pictures(["b", "b/*.png"])] == ["b/1.png", "b/2.JPG"]
    assert find_pictures(["c[1].png"]) == (Path("c[1].png"),), "a file's name is no pattern"
    for name, told in {
        "b/.hidden/nothing": "no such file",
        "*.gif": "no file fits",
        "x" * 300: "no such file",
    }.items():
        with pytest.raises(NotFound, match=told):
            find_pictures([name])
    Path("empty").mkdir()
    with pytest.raises(NotFound, match="empty holds no picture"):
        find_pictures(["empty"])


def test_a_network_of_vectors_takes_no_pictures(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    vectors = {f"x_{part}": np.ones((40, 5), np.float32) for part in ("train", "test")}
    targets = {f"y_{part}": np.arange(40) % 2 for part in ("train", "test")}
    np.savez(tmp_path / "v.npz", **vectors, **targets)
    given = {**QUICK, "data.path": str(tmp_path / "v.npz")}
    train_teacher(model="mlp", data="npz", name="v", out=tmp_path, overrides=given)
    with pytest.raises(Incompatible, match="takes inputs of 1x1x5"):
        predict(tmp_path / "v", [tmp_path / "a.png"])
