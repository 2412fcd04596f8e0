"""Pictures without labels: what is trained on, what counts, what is said and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from kdcli import losses
from kdcli.data.datasets.folder import Options, load
from kdcli.errors import KdError
from kdcli.jobs import distill, evaluate, train_teacher
from kdcli.report.findings.run import on_unlabelled

FAST = {"train.epochs": 1, "report.html": False, "student.hidden": [8], "data.augment.crop": 0}


def digits(path, y_train, **more):
    given = load_digits()
    x = (given.images / 16 * 255).astype(np.uint8)
    y = np.asarray(y_train(given.target[:300].copy()))
    np.savez(path, x_train=x[:300], y_train=y, x_test=x[1500:], y_test=given.target[1500:], **more)
    return path


def half(y):
    y[::2] = -1
    return y


def no(y):
    return np.full_like(y, -1)


def taught(trained, path, out, method="kd", **more):
    return distill(
        teacher=[] if method == "dml" else str(trained.out / "teacher"),
        student="mlp",
        method=method,
        data="npz",
        out=out,
        overrides={**FAST, "data.path": str(path), **more},
    )


def test_half_of_the_labels(trained, tmp_path):
    path = digits(tmp_path / "half.npz", half)
    found = taught(trained, path, tmp_path, **{"data.val_fraction": 0.2})
    assert (found.unlabelled, found.val.n) == (150, 30)
    assert 0 <= found.train_accuracy <= 1
    assert found.train_losses["ce"] > 0
    assert f"{100 * found.agreement:.1f}" in on_unlabelled(found)
    assert evaluate([found.run]).evaluations[0].measures.accuracy == found.test.accuracy


def test_no_label_at_all(trained, tmp_path):
    found = taught(trained, digits(tmp_path / "none.npz", no), tmp_path)
    assert (found.unlabelled, found.train_accuracy) == (300, None)
    assert found.train_losses["ce"] == 0 < found.train_losses["kd"]
    assert found.test.accuracy > 0


def test_what_is_learned_without_labels_is_what_is_learned_of_the_teacher_alone(trained, tmp_path):
    """With no weight on labels, they may as well not be there."""
    there = digits(tmp_path / "there.npz", lambda y: y)
    gone = digits(tmp_path / "gone.npz", no)
    alone = {"method.weight": 1.0, "report.explain": False}
    one, other = (taught(trained, path, tmp_path, **alone) for path in (there, gone))
    assert one.train_losses["kd"] == other.train_losses["kd"]
    assert one.test.accuracy == other.test.accuracy


@pytest.mark.parametrize(
    ("labels", "method", "more", "said"),
    [
        (half, "dkd", {}, r"dkd needs a label of every training image \(it parts"),
        (half, "crd", {}, "crd needs a label of every training image"),
        (half, "kd", {"data.sampler": "balanced"}, "no label to balance by"),
        (no, "kd", {"train.class_weights": "balanced"}, "class_weights weighs labels"),
        (no, "kd", {"data.val_fraction": 0.2}, "0 samples with a label holds out none"),
        (no, "dml", {}, "there is nothing to learn"),
    ],
)
def test_what_needs_labels_says_so_before_training(labels, method, more, said, trained, tmp_path):
    path = digits(tmp_path / "some.npz", labels)
    with pytest.raises(KdError, match=said):
        taught(trained, path, tmp_path / "runs", method, **more)
    assert not (tmp_path / "runs").exists()


def test_a_teacher_is_trained_on_labels(tmp_path):
    path = digits(tmp_path / "some.npz", half)
    with pytest.raises(KdError, match="none needs a label of every training image"):
        train_teacher(model="mlp", data="npz", overrides={"data.path": str(path)}, out=tmp_path)


@pytest.mark.parametrize("y", [[-2, 0, 1], [0, -1, -3]])
def test_other_negative_numbers_are_no_labels(y, trained, tmp_path):
    path = digits(tmp_path / "wrong.npz", lambda _: np.resize(y, 300))
    with pytest.raises(KdError, match="outside the classes"):
        taught(trained, path, tmp_path)


def test_a_row_without_a_label_weighs_nothing():
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.tensor([0, -1, 3, -1, 2, 1])
    there = y >= 0
    loss = losses.cross_entropy(z, y)
    torch.testing.assert_close(loss, losses.cross_entropy(z[there], y[there]) * 4 / 6)
    loss.backward()
    assert not z.grad[~there].any()
    full = torch.tensor([0, 1, 3, 2, 2, 1])
    assert torch.equal(losses.cross_entropy(z, full), torch.nn.functional.cross_entropy(z, full))


# ---- folders -------------------------------------------------------------------------------------


def pictures(folder, count, value=0):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((16, 16, 3), value + number, np.uint8)).save(
            folder / f"{number}.png"
        )


@pytest.fixture
def photos(tmp_path):
    """Two classes to test on, and a folder of others with a folder in it."""
    for number, name in enumerate(("ant", "bee")):
        pictures(tmp_path / "photos" / "test" / name, 2, 100 * number)
    pictures(tmp_path / "photos" / "more", 3)
    pictures(tmp_path / "photos" / "more" / "of them", 1)
    return tmp_path / "photos"


def opened(photos, unlabelled):
    options = Options(path=str(photos), unlabelled=str(unlabelled), size=16)
    return load("image-folder", options=options, root=photos)


@pytest.mark.parametrize("inside", [True, False])
def test_a_flat_folder_is_all_that_is_trained_on(inside, photos, tmp_path):
    folder = photos / "more"
    if not inside:
        folder = folder.rename(tmp_path / "elsewhere")
    found = opened(photos, folder)
    assert (found.class_names, found.y_train.tolist()) == (("ant", "bee"), [-1] * 4)
    assert all((photos / path).is_file() for path in found.train)
    assert not found.notes


def test_they_join_the_labelled_ones(photos):
    pictures(photos / "train" / "ant", 2)
    pictures(photos / "val" / "bee", 1)
    found = opened(photos, photos / "more")
    assert (found.y_train.tolist(), found.held) == ([0, 0, -1, -1, -1, -1, 1], 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone", "no such folder"),
        ("empty", "holds no pictures"),
        (".", "which holds data.path"),
        ("..", "which holds data.path"),
    ],
)
def test_a_folder_that_cannot_be_one(name, said, photos):
    (photos / "empty").mkdir()
    with pytest.raises(KdError, match=said):
        opened(photos, photos / name)
