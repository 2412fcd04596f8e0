"""Pictures without labels: what is trained on, what counts, what is said and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from kdcli import losses
from kdcli.cli.output.gap_screen import gap_lines
from kdcli.data.datasets.folder import Options, load
from kdcli.errors import KdError
from kdcli.jobs import analyze_gap, distill, evaluate, load_network, train_teacher
from kdcli.jobs.build.datasets import open_source
from kdcli.jobs.build.teachers_class_names import teachers_class_names
from kdcli.recipe.schema import DataSection, DistillRecipe, GatesSection, branch
from kdcli.report.findings.run import on_unlabelled
from kdcli.runs.read import Run

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
    assert set(found.train_losses) == {"kd"}
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


# ---- what is measured has none -------------------------------------------------------------------

NAMES = [str(number) for number in range(10)]


@pytest.fixture(scope="module")
def bare(trained, tmp_path_factory):
    """A run without any label, anywhere."""
    folder = tmp_path_factory.mktemp("bare")
    digits(folder / "there.npz", lambda y: y)
    with np.load(folder / "there.npz") as arrays:
        known = {name: arrays[name] for name in arrays}
    arrays = {**known, "y_train": no(known["y_train"]), "y_test": no(known["y_test"])}
    np.savez(folder / "bare.npz", **arrays, classes=NAMES)
    more = {"data.val_fraction": 0.2, "gates.min_agreement": 0.01, "train.epochs": 2}
    more |= {"train.select": "best", "train.keep_best": True, "report.html": True}
    return folder, taught(trained, folder / "bare.npz", folder / "runs", **more)


def test_a_run_without_any_label_speaks_of_agreement(bare):
    _, run = bare
    test = run.test
    assert test.labelled is None
    assert {test.accuracy, test.nll, test.ece, test.top5, test.perplexity} == {None}
    assert test.agreement == run.agreement > 0
    assert 0 <= run.val.agreement <= 1
    assert run.gap is not None
    assert [gate.name for gate in run.gates if gate.passed] == ["min_agreement"]
    page = (Path(run.run) / "report.html").read_text()
    card = (Path(run.run) / "MODEL_CARD.md").read_text()
    for text in (page, card):
        assert "have no labels, so that accuracy" in text
        assert "nan" not in text.lower().replace("finance", "")
    records = (Path(run.run) / "summary.json", Path(run.run) / "metrics.jsonl")
    assert all('"ce"' not in record.read_text() for record in records)


def test_the_best_epoch_is_that_of_most_agreement(bare):
    _, run = bare
    epochs = Run.load(run.run).epochs
    assert [epoch.val.accuracy for epoch in epochs] == [None, None]
    shares = [epoch.val.agreement for epoch in epochs]
    assert [epoch.best for epoch in epochs] == [True, shares[1] > shares[0]]
    assert run.val.agreement == max(shares)


def test_without_labels_the_same_is_measured_again(bare):
    """The teacher is asked about the student's data, not about those that it was trained on."""
    _, run = bare
    asked = GatesSection(min_agreement=0.99)
    found = evaluate([run.run], gates=asked)
    assert found.evaluations[0].measures == run.test
    assert (found.gates[0].value, found.gates[0].passed) == (run.agreement, False)
    report = analyze_gap(run.teachers[0].checkpoint, [run.run])
    assert report.pairs[0].agreement == run.agreement
    assert report.explanation is None
    assert "have no labels" in report.warnings[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"gates.min_accuracy": 0.5}, "min_accuracy is a threshold on accuracy"),
        ({"gates.within": 2}, "within is a threshold on accuracy"),
        ({"gates.max_ece": 0.5}, "threshold on calibration, and the test images have no labels"),
        ({"train.calibrate": "on", "data.val_fraction": 0.2}, "held-out images have none"),
    ],
)
def test_what_only_labels_tell_is_refused_before_training(more, said, bare, trained, tmp_path):
    with pytest.raises(KdError, match=said):
        taught(trained, bare[0] / "bare.npz", tmp_path / "runs", **more)
    assert not (tmp_path / "runs").exists()


def test_some_without_a_label_cannot_be_tested_on_beside_others(trained, tmp_path):
    path = digits(tmp_path / "mixed.npz", lambda y: y)
    with np.load(path) as arrays:
        known = {name: arrays[name] for name in arrays}
    known["y_test"][0] = -1
    np.savez(path, **known)
    with pytest.raises(KdError, match="outside the classes"):
        taught(trained, path, tmp_path)


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


def test_a_part_without_class_folders_has_no_labels(photos):
    pictures(photos / "train" / "ant", 2)
    pictures(photos / "train" / "bee", 2)
    (photos / "test").rename(photos / "other")
    pictures(photos / "test", 3)
    options = Options(path=str(photos), size=16)
    found = load("image-folder", options=options, root=photos)
    assert (found.y_train.tolist(), found.y_test.tolist()) == ([0, 0, 1, 1], [-1] * 3)


def test_a_folder_of_pictures_alone_is_split(photos):
    more = {"size": 16, "test_fraction": 0.3}
    with pytest.raises(KdError, match="nothing names the classes"):
        load(
            "image-folder", options=Options(path=str(photos / "more/of them"), **more), root=photos
        )
    pictures(photos / "flat", 10)
    options = Options(path=str(photos / "flat"), class_names=("ant", "bee"), **more)
    found = load("image-folder", options=options, root=photos)
    assert (len(found.y_train), len(found.y_test), found.class_names) == (7, 3, ("ant", "bee"))
    assert {*found.y_train.tolist(), *found.y_test.tolist()} == {-1}


def test_classes_that_nothing_else_names_are_the_teachers(photos, tmp_path):
    for number, name in enumerate(("ant", "bee")):
        pictures(photos / "train" / name, 3, 100 * number)
    small = {**FAST, "data.size": 16, "report.latency": False}
    teacher = train_teacher(
        model="mlp",
        data="image-folder",
        out=tmp_path,
        overrides={
            **{key.replace("student", "model"): value for key, value in small.items()},
            "data.path": str(photos),
        },
    )
    pictures(photos / "flat", 10)
    bare = {"data.path": str(photos / "flat"), "data.test_fraction": 0.3}
    run = distill(
        teacher=teacher.run,
        student="mlp",
        method="kd",
        data="image-folder",
        out=tmp_path,
        overrides={**small, **bare},
    )
    assert load_network(run.run).class_names == ("ant", "bee")
    assert evaluate([run.run]).evaluations[0].measures == run.test
    found = evaluate([teacher.run], data="image-folder", overrides={**bare, "data.size": 16})
    assert found.evaluations[0].measures.labelled is None
    gap = analyze_gap(teacher.run, [run.run])
    assert not any("per-class" in line for line in gap_lines(gap, 100))


@pytest.mark.parametrize(
    ("teacher", "first"),
    [
        ({"name": "torchvision/resnet18", "weights": "DEFAULT"}, ["tench"]),
        ({"name": "torchvision/resnet18", "weights": "DEFAULT", "classes": {"a": ("tench",)}}, []),
        ({"logits": "answers.npz"}, []),
    ],
)
def test_a_teacher_says_what_it_calls_its_classes_before_it_is_loaded(teacher, first):
    recipe = DistillRecipe(student={"name": "mlp"}, teacher=[teacher])
    names = teachers_class_names(recipe, lambda _: pytest.fail("no recipe"))
    assert list(names[:1]) == first


def test_it_is_said_whose_names_they_are(photos):
    section = branch(DataSection, "image-folder")
    pictures(photos / "flat", 4)
    data = section(name="image-folder", path=str(photos / "flat"), test_fraction=0.3, size=16)
    found = open_source(data, lambda: ("ant", "bee"))
    assert found.notes[-1] == "no picture has a label: classes are the network's, ant and bee"
    with pytest.raises(KdError, match="nothing names the classes"):
        open_source(data, tuple)


def test_a_class_called_as_a_part_stays_a_class(tmp_path):
    for name in ("car", "train"):
        pictures(tmp_path / name, 3)
    options = Options(path=str(tmp_path), size=16, test_fraction=0.4)
    found = load("image-folder", options=options, root=tmp_path)
    assert found.class_names == ("car", "train")


def test_a_class_that_is_not_named_is_refused(photos):
    pictures(photos / "train" / "ant", 2)
    options = Options(path=str(photos), size=16, class_names=("ant", "wasp"))
    with pytest.raises(KdError, match="has the class 'bee', and data"):
        load("image-folder", options=options, root=photos)


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
