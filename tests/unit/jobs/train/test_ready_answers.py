"""Ready-made answers as the teacher: by position, by file name, of other classes; and what is no
answer.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

from kdcli.errors import KdError
from kdcli.jobs import distill, evaluate, fill_cache, train_teacher
from kdcli.jobs.build.ready_answers import read_answers
from kdcli.recipe.resolve import resolve
from kdcli.recipe.writing import recipe_hash

N, TESTED, K = 120, 40, 10
FAST = {
    "train.epochs": 1,
    "report.html": False,
    "student.hidden": [8],
    "data.augment.crop": 0,
    "method.weight": 1.0,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    given = load_digits()
    x = (given.images / 16 * 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    parts = (slice(0, N), slice(N, N + TESTED))
    arrays = {
        f"{key}_{part}": of[rows]
        for key, of in (("x", x), ("y", given.target))
        for part, rows in zip(("train", "test"), parts, strict=True)
    }
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def logits():
    """Right answers, one a picture, each of its own certainty."""
    y = load_digits().target[: N + TESTED]
    v = np.random.default_rng(0).normal(size=(N + TESTED, K)).astype(np.float32)
    v[np.arange(len(v)), y] += 8
    return v


def taught(digits, file, out, method="kd", **more):
    return distill(
        student="mlp",
        method=method,
        data="npz",
        out=out,
        overrides={**FAST, "data.path": str(digits), "teacher.logits": str(file), **more},
    )


def written(tmp_path, name, **arrays):
    path = tmp_path / name
    if name.endswith(".npz"):
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)
    return path


def softmax(v):
    return torch.from_numpy(v).softmax(1).numpy()


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_answers_by_position_teach_and_are_what_the_gap_is_measured_to(
    name, digits, logits, tmp_path
):
    file = written(tmp_path, name, logits=logits[:N], test_logits=logits[N:])
    found = taught(digits, file, tmp_path, **{"data.val_fraction": 0.2})
    (teacher,) = found.teachers
    assert (teacher.checkpoint, teacher.test.accuracy, teacher.test.n) == (str(file), 1.0, TESTED)
    assert found.gap is not None
    assert "to the pictures as they are" in found.notes[0]
    chances = written(
        tmp_path, "p.npz", probabilities=softmax(logits[:N]), test_probabilities=softmax(logits[N:])
    )
    other = taught(digits, chances, tmp_path, **{"data.val_fraction": 0.2})
    assert other.train_losses["kd"] == pytest.approx(found.train_losses["kd"], rel=1e-4)


def test_held_out_pictures_count_too(digits, logits, tmp_path):
    file = written(tmp_path, "a.npz", logits=logits[: N - 24])
    with pytest.raises(KdError, match=r"96 answers, .* 120 pictures, 24 of them held out"):
        taught(digits, file, tmp_path, **{"data.val_fraction": 0.2})


def test_a_column_of_a_table(logits, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pip install 'kdcli[data]'")
    from pyarrow import parquet

    columns = {"logits": logits[:3].tolist(), "files": ["a.png", "b/c.png", "d.png"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    found = read_answers(tmp_path / "a.parquet")
    assert found.by_file == {"a.png": 0, "b/c.png": 1, "d.png": 2}
    assert np.array_equal(found.named.numpy(), logits[:3])
    columns["path"] = columns.pop("files")
    parquet.write_table(pyarrow.table(columns), tmp_path / "d.parquet")
    assert read_answers(tmp_path / "d.parquet").by_file == found.by_file
    ragged = {"logits": [[1.0, 2.0], [1.0]]}
    parquet.write_table(pyarrow.table(ragged), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    for name in ("b", "c"):
        with pytest.raises(KdError, match="cannot be read"):
            read_answers(tmp_path / f"{name}.parquet")


def test_names_may_stand_in_the_metadata_of_a_safetensors_file(logits, tmp_path):
    names = [f"{number}.png" for number in range(3)]
    file, classes = tmp_path / "a.safetensors", [f"class {number}" for number in range(K)]
    about = {"files": json.dumps(names), "classes": json.dumps(classes)}
    save_file({"logits": logits[:3]}, file, metadata=about)
    found = read_answers(file)
    assert found.by_file == {"0.png": 0, "1.png": 1, "2.png": 2}
    assert list(found.class_names) == classes
    save_file({"logits": logits[:3]}, file, metadata={"files": '["a.png", 3]'})
    with pytest.raises(KdError, match="files in its metadata is no JSON list of texts"):
        read_answers(file)


def test_without_answers_to_the_test_pictures_no_gap_is_told(digits, logits, tmp_path):
    found = taught(digits, written(tmp_path, "a.npz", logits=logits[:N]), tmp_path)
    assert (found.gap, found.teachers[0].test, found.agreement) == (None, None, None)
    assert "no answers to the test pictures" in found.notes[1]
    assert "ready-made answers" in (tmp_path / found.name / "report.md").read_text()


def test_probabilities_of_0_are_bounded(digits, logits, tmp_path):
    sure = np.eye(K, dtype=np.float32)[logits[:N].argmax(1)]
    found = taught(digits, written(tmp_path, "a.npz", probabilities=sure), tmp_path)
    assert np.isfinite(found.train_losses["kd"])


def test_answers_of_other_classes_go_through_a_map(digits, logits, tmp_path):
    more = np.concatenate([logits, np.full((N + TESTED, 1), 30, np.float32)], axis=1)
    names = np.array([*map(str, range(K)), "blot"])
    file = written(tmp_path, "a.npz", logits=more[:N], test_logits=more[N:], classes=names)
    with pytest.raises(KdError, match=r"answers of 11 classes .*npz has 10"):
        taught(digits, file, tmp_path / "runs")
    found = taught(digits, file, tmp_path, **{"teacher.classes": {}})
    assert found.teachers[0].test.accuracy == 1.0
    assert "0 <- 0" in found.notes


def test_columns_are_put_into_the_order_of_the_data(digits, logits, tmp_path):
    names, order = np.array([f"d{number}" for number in range(K)]), np.arange(K)[::-1]
    with np.load(digits) as given:
        np.savez(tmp_path / "named.npz", **given, classes=names)
    plain = written(tmp_path, "plain.npz", logits=logits[:N])
    turned = written(tmp_path, "turned.npz", logits=logits[:N, order], classes=names[order])
    one, other = (taught(tmp_path / "named.npz", file, tmp_path) for file in (plain, turned))
    assert one.train_losses["kd"] == pytest.approx(other.train_losses["kd"], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "made", "said"),
    [
        ("gone.npz", None, "no such file"),
        ("a.csv", None, "no such file"),
        ("a.npz", lambda v: {"answers": v[:N]}, "neither logits nor probabilities, it has answers"),
        (
            "a.npz",
            lambda v: {"logits": v[: N - 1]},
            "119 answers, and the train part .* 120 pictures",
        ),
        (
            "a.npz",
            lambda v: {"logits": v[:N], "test_logits": v[:3]},
            "3 answers, and the test part",
        ),
        ("a.npz", lambda v: {"logits": v[:N, :4]}, "answers of 4 classes"),
        ("a.npz", lambda v: {"logits": v[:N].astype(int)}, "not floating point"),
        ("a.npz", lambda v: {"logits": np.where(v[:N] > 8, np.nan, v[:N])}, "NaN or infinite"),
        ("a.npz", lambda v: {"probabilities": v[:N]}, "no probabilities that add up to 1"),
        ("a.npz", lambda v: {"logits": v[:N], "probabilities": v[:N]}, "has both"),
        ("a.npz", lambda v: {"test_logits": v[N:]}, "no answers to training pictures"),
        ("a.npz", lambda v: {"logits": v[:N], "files": np.array(["a"])}, "1 files and 120 answers"),
        (
            "a.npz",
            lambda v: {"logits": v[:2], "files": np.array(["a", "a"])},
            "several answers to a",
        ),
        ("a.npz", lambda v: {"logits": v[:2], "files": np.array(["a", "b"])}, "are from no files"),
        ("a.npz", lambda v: {"logits": v[:N], "classes": np.array(["a"])}, "1 names of classes"),
    ],
)
def test_what_is_no_answer_is_one_sentence_before_training(
    name, made, said, digits, logits, tmp_path
):
    file = tmp_path / name if made is None else written(tmp_path, name, **made(logits))
    with pytest.raises(KdError, match=said):
        taught(digits, file, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("method", ["at", "crd", "kd_sim"])
def test_methods_that_ask_for_more_are_refused(method, digits, logits, tmp_path):
    file = written(tmp_path, "a.npz", logits=logits[:N])
    with pytest.raises(KdError, match=r"more than logits|the last layer of the teacher"):
        distill(
            student="mlp",
            method=method,
            data="npz",
            out=tmp_path / "runs",
            overrides={"data.path": str(digits), "teacher.logits": str(file)},
        )


def test_a_run_counts_by_the_content_of_the_file(logits, tmp_path):
    def digest(name, v):
        file = written(tmp_path, name, logits=v)
        values = {"teacher.logits": str(file), "student.name": "mlp", "data.name": "digits"}
        return recipe_hash(resolve("distill", values=values, environ={}).recipe)

    first = digest("a.npz", logits)
    assert first == digest("b.npz", logits) != digest("c.npz", logits + 1)


# ---- kd's own files ------------------------------------------------------------------------------


def test_what_evaluate_saves_is_read(trained, tmp_path):
    """By file name, of both parts: as of a folder of pictures."""
    for part, count in (("train", 6), ("test", 3)):
        for name, value in (("ant", 0), ("bee", 120)):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((8, 8, 3), value + 10 * number, np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    data = {"data.path": str(tmp_path / "photos"), "data.size": 8, "data.val_fraction": 0.25}
    quick = {"train.epochs": 1, "report.html": False}
    teacher = train_teacher(
        model="mlp", data="image-folder", out=tmp_path, name="t", overrides={**quick, **data}
    )
    kept = []
    for split in ("train", "val", "test"):
        evaluate([teacher.run], split=split, save_logits_to=tmp_path / f"{split}.safetensors")
        kept.append(read_answers(tmp_path / f"{split}.safetensors"))
    files = [name for rows in kept for name in rows.by_file]
    together = written(
        tmp_path,
        "all.npz",
        logits=np.concatenate([rows.named.numpy() for rows in kept]),
        files=np.array(files),
        classes=np.array(["ant", "bee"]),
    )
    student = {"student.hidden": [4], "data.augment.crop": 0}
    found, live = (
        distill(
            student="mlp",
            method="kd",
            data="image-folder",
            out=tmp_path,
            overrides={**quick, **data, **student, **source},
        )
        for source in (
            {"teacher.logits": str(together)},
            {"teacher.checkpoint": teacher.run, "runtime.precision": "fp32"},
        )
    )
    assert found.teachers[0].test.accuracy == live.teachers[0].test.accuracy
    assert found.train_losses["kd"] == pytest.approx(live.train_losses["kd"], rel=0.05)
    with pytest.raises(KdError, match=re.escape("no answer to 9 of 9 train pictures")):
        distill(
            student="mlp",
            method="kd",
            data="image-folder",
            out=tmp_path,
            overrides={**quick, **data, "teacher.logits": str(tmp_path / "test.safetensors")},
        )


def test_what_kd_stores_is_read(trained, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    teacher = {"teacher.checkpoint": str(trained.out / "teacher"), "teacher.cache": "exact"}
    common = {**FAST, "data.path": str(digits)}
    live = distill(
        student="mlp", method="kd", data="npz", out=tmp_path, overrides={**common, **teacher}
    )
    (table,) = (tmp_path / "cache").glob("logits/*.safetensors")
    found = taught(digits, table, tmp_path)
    assert found.train_losses["kd"] == live.train_losses["kd"]
    with pytest.raises(KdError, match="stored answers to other training pictures"):
        taught(digits, table, tmp_path, **{"data.train_limit": 60})


def test_there_is_nothing_to_store(digits, logits, tmp_path):
    file = written(tmp_path, "a.npz", logits=logits[:N])
    values = {"teacher.logits": str(file), "student.name": "mlp", "data.name": "digits"}
    with pytest.raises(KdError, match="nothing to store"):
        fill_cache(resolve("distill", values=values, environ={}), out=tmp_path)


def test_each_view_has_its_own_answer(digits, logits, tmp_path):
    v = np.stack([logits[:N], 3 * logits[:N]], axis=1)  # [N, 2 views, K]
    file = written(tmp_path, "views.npz", logits=v, test_logits=logits[N:])
    two = {"data.augment.crop": 1, "data.views": 2, "train.epochs": 2}
    first, again = (taught(digits, file, tmp_path / name, **two) for name in ("a", "b"))
    assert first.train_loss == again.train_loss
    # every view with the answer of the second, and of the first: other lessons
    for name, only in (("one", logits[:N]), ("other", 3 * logits[:N])):
        alike = written(tmp_path, f"{name}.npz", logits=only, test_logits=logits[N:])
        assert taught(digits, alike, tmp_path / name, **two).train_loss != first.train_loss
    same = written(
        tmp_path, "same.npz", logits=np.stack([logits[:N]] * 2, axis=1), test_logits=logits[N:]
    )
    assert (
        taught(digits, same, tmp_path / "same", **two).train_loss
        == taught(digits, tmp_path / "one.npz", tmp_path / "one again", **two).train_loss
    )


@pytest.mark.parametrize("views", [None, 3])
def test_another_number_of_views_is_refused(views, digits, logits, tmp_path):
    file = written(tmp_path, "views.npz", logits=np.stack([logits[:N]] * 2, axis=1))
    more = {} if views is None else {"data.views": views, "data.augment.crop": 1}
    with pytest.raises(KdError, match="answers to 2 views") as caught:
        taught(digits, file, tmp_path / "runs", **more)
    assert caught.value.hint == "-s data.views=2"
    assert not (tmp_path / "runs").exists()
