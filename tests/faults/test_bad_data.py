"""Data that cannot be used: one sentence that names the culprit, and a hint; never a traceback,
never code from a file.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdcli.core.options import Options as NoOptions
from kdcli.data.augment import Augmentation
from kdcli.data.datasets import cifar, folder, mnist, npz, user
from kdcli.data.open_feed import make_feed
from kdcli.data.source import ImageFolder
from kdcli.errors import BadData, KdError, NotFound

PIXELS = np.zeros((6, 4, 4), np.uint8)
GOOD: dict[str, Any] = {
    "x_train": PIXELS,
    "y_train": np.arange(6) % 3,
    "x_test": PIXELS[:3],
    "y_test": np.arange(3),
}


def one_sentence(error: KdError) -> None:
    """What every message must be: one line, no Python words, and something to do about it."""
    assert "\n" not in error.message
    assert "Traceback" not in error.message
    assert not error.message.endswith(".")
    assert error.hint


def without(key: str) -> dict[str, Any]:
    return {name: array for name, array in GOOD.items() if name != key}


FLAWS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": (without("y_test"), "has no y_test"),
    "nothing": ({}, "has no x_train, y_train, x_test, y_test"),
    "empty": (GOOD | {"x_test": PIXELS[:0], "y_test": np.arange(0)}, "x_test is empty"),
    "scalar": (GOOD | {"x_train": np.uint8(3)}, "x_train is empty"),
    "floats": (GOOD | {"x_train": PIXELS / 255.0}, r"x_train is float64 \[6, 4, 4\], not uint8"),
    "wide": (GOOD | {"x_train": PIXELS.astype(np.int64)}, "x_train is int64"),
    "shape": (
        GOOD | {"x_train": np.zeros((6, 4, 4, 2), np.uint8)},
        r"x_train has the shape \[6, 4, 4, 2\]",
    ),
    "unlike": (
        GOOD | {"x_test": np.zeros((3, 5, 4), np.uint8)},
        "x_train has samples of shape 1x4x4, x_test of 1x5x4",
    ),
    "length": (GOOD | {"y_train": np.arange(5) % 3}, "x_train has 6 samples, y_train 5 labels"),
    "float labels": (GOOD | {"y_train": np.arange(6) / 2}, r"y_train is float64 \[6\]"),
    "one-hot labels": (GOOD | {"y_train": np.eye(6, 3, dtype=int)}, r"y_train is int64 \[6, 3\]"),
    "negative label": (
        GOOD | {"y_train": np.array([0, 1, 2, -2, 0, 1])},
        r"y_train\[3\] is -2, outside the classes 0 to 2",
    ),
    "unknown label": (
        GOOD | {"y_test": np.array([0, 1, 3])},
        r"y_test\[2\] is 3, outside the classes 0 to 2",
    ),
    "label beyond names": (
        GOOD | {"classes": np.array(["a", "b"])},
        r"y_train\[2\] is 2, outside the classes 0 to 1",
    ),
    "twins": (GOOD | {"classes": np.array(["a", "b", "b"])}, "3 names, 2 of them different"),
    "superclass": (GOOD | {"superclass": np.array([0, 1])}, r"superclass is int64 \[2\]"),
    "std": (
        GOOD | {"mean": np.array([0.5]), "std": np.array([0.0])},
        "std is 0",
    ),
    "negative std": (GOOD | {"mean": np.array([0.5]), "std": np.array([-1.0])}, "std is -1"),
    "mean that is none": (GOOD | {"mean": np.array([np.nan]), "std": np.ones(1)}, "mean is nan"),
    "infinite std": (GOOD | {"mean": np.zeros(1), "std": np.array([np.inf])}, "std is inf"),
    "std of text": (GOOD | {"mean": np.zeros(1), "std": np.array(["a"])}, "std is <U1"),
    "complex std": (GOOD | {"mean": np.zeros(1), "std": np.array([1j])}, "std is complex128"),
    "mean alone": (GOOD | {"mean": np.zeros(1)}, "has mean alone"),
    "std of channels that are not there": (
        GOOD | {"mean": np.zeros(3), "std": np.ones(3)},
        "mean has 3 values and std 3, and images 1 channels",
    ),
    "complex": (GOOD | {"x_train": PIXELS.astype(complex)}, "x_train is complex128"),
    "too large": (
        {
            "x_train": np.array([[1.0, 2.0], [1e300, 0.0]]),
            "y_train": [0, 1],
            "x_test": np.ones((1, 2)),
            "y_test": [0],
        },
        "x_train has NaN or infinity in 1 samples, first in number 1",
    ),
    "NaN": (
        {
            "x_train": np.array([[1.0, 2.0], [np.nan, 0.0]]),
            "y_train": [0, 1],
            "x_test": np.ones((1, 2)),
            "y_test": [0],
        },
        "x_train has NaN or infinity in 1 samples, first in number 1",
    ),
}


@pytest.mark.parametrize(("arrays", "says"), FLAWS.values(), ids=FLAWS.keys())
def test_flawed_arrays(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(BadData, match=says) as caught:
        npz.load("npz", options=npz.Options(path=str(path)), root=tmp_path)
    assert str(path) in caught.value.message
    one_sentence(caught.value)


def no_zip(path: Path) -> None:
    path.write_text("this is no zip file")


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, PIXELS)


def cut_off(path: Path) -> None:
    np.savez_compressed(path, **GOOD)
    path.write_bytes(path.read_bytes()[:-40])


def flipped_bytes(path: Path) -> None:
    np.savez_compressed(path, **GOOD)
    content = bytearray(path.read_bytes())
    content[60:80] = b"\xff" * 20
    path.write_bytes(content)


def objects(path: Path) -> None:
    np.savez(path, **(GOOD | {"x_train": np.array([PIXELS, None], dtype=object)}))


@pytest.mark.parametrize("damage", [no_zip, nothing, single_array, cut_off, flipped_bytes, objects])
def test_damaged_npz_files(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "mine.npz"
    damage(path)
    with pytest.raises(BadData, match=r"not an \.npz file") as caught:
        npz.load("npz", options=npz.Options(path=str(path)), root=tmp_path)
    one_sentence(caught.value)


def test_an_npz_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        npz.load("npz", options=npz.Options(path=str(tmp_path / "none.npz")), root=tmp_path)


def test_what_a_users_function_returned_is_checked_too() -> None:
    with pytest.raises(BadData, match="the dataset's function: x_test is empty"):
        user.from_user((PIXELS, np.arange(6), [], []))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"x_test": torch.zeros(3, 1, 4, 4, dtype=torch.int32)}, r"x_test is int32 \[3, 1, 4, 4\]"),
        ({"x_train": torch.zeros(6, 1, 4, 4, dtype=torch.complex64)}, "x_train is complex64"),
        ({"x_train": torch.zeros(6, 1, 4, 4)}, "x_test is uint8"),
        ({"y_train": torch.zeros(6)}, r"y_train is float32 \[6\]"),
        ({"y_test": torch.zeros(2, dtype=torch.int64)}, r"y_test is int64 \[2\]"),
        ({"std": (-1.0,)}, "std is -1"),
        ({"mean": (float("nan"),)}, "mean is nan"),
        ({"mean": (0.5, 0.5)}, "mean has 2 values and std 1, and images 1 channels"),
    ],
)
def test_arrays_that_are_made_by_hand_are_checked_too(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(BadData, match=says) as caught:
        replace(user.from_user(GOOD), **wrong)  # type: ignore[type-var]
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("x", "how"),
    [
        (PIXELS / 255.0 + 0.5, r'of 0 to 1: (x_train * 255.0).round().astype("uint8")'),
        (PIXELS + 200.0, 'of 0 to 255: x_train.astype("uint8")'),
        (PIXELS.astype(np.uint16) + 300, r'of 16 bits: (x_train.astype("uint16") >> 8)'),
        (PIXELS.astype(bool), r"of 0 to 1: (x_train * 255.0)"),
    ],
)
def test_pixels_of_another_type_are_refused_with_the_way_to_bytes(x: np.ndarray, how: str) -> None:
    with pytest.raises(BadData, match="not uint8") as caught:
        user.from_user(GOOD | {"x_train": x})
    assert how in (caught.value.hint or "")


# ---- image folders -------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(2):
                Image.fromarray(np.full((9, 9, 3), 40 * number, np.uint8)).save(
                    tmp_path / part / name / f"{number}.png"
                )
    return tmp_path


def read(path: Path, *, resident: bool = False, workers: int = 0) -> None:
    source = folder.load(
        "image-folder", options=folder.Options(path=str(path), size=8, resident=resident), root=path
    )
    assert isinstance(source, ImageFolder)
    settings: dict[str, Any] = {
        "val_fraction": 0.0,
        "train_limit": None,
        "augment": Augmentation(),
        "seed": 0,
        "device": "cpu",
    }
    list(
        make_feed(
            source, name="mine", batch_size=2, eval_batch_size=2, workers=workers, **settings
        ).train(1)
    )


@pytest.mark.parametrize(
    "content", [b"", b"this is no image", b"\x89PNG\r\n\x1a\n and then it was cut off"]
)
@pytest.mark.parametrize("how", [{}, {"workers": 2}, {"resident": True}])
def test_an_undecodable_image_is_named(pictures: Path, content: bytes, how: dict[str, Any]) -> None:
    culprit = pictures / "train" / "dog" / "1.png"
    culprit.write_bytes(content)
    with pytest.raises(BadData, match="is not an image, or is damaged") as caught:
        read(pictures, **how)
    assert str(culprit) in caught.value.message
    one_sentence(caught.value)


def test_an_image_that_was_cut_off_is_named(pictures: Path) -> None:
    culprit = pictures / "train" / "cat" / "0.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(culprit)
    culprit.write_bytes(culprit.read_bytes()[:5000])
    with pytest.raises(BadData, match=str(culprit)):
        read(pictures)


def test_a_file_that_vanished_is_named(pictures: Path) -> None:
    culprit = pictures / "train" / "cat" / "0.png"
    culprit.unlink()
    culprit.symlink_to(pictures / "gone.png")
    with pytest.raises(BadData, match=str(culprit)) as caught:
        read(pictures)
    one_sentence(caught.value)


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_class_folder_is_named(pictures: Path, part: str) -> None:
    for file in (pictures / part / "dog").iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(
        BadData, match=f"class 'dog' has 2 pictures in .* and none in {part}/"
    ) as caught:
        read(pictures)
    one_sentence(caught.value)


def test_train_and_test_must_have_the_same_classes(pictures: Path) -> None:
    (pictures / "test" / "cat").rename(pictures / "test" / "cats")
    with pytest.raises(
        BadData, match="class 'cat' has 2 pictures in train/ and none in test/"
    ) as caught:
        read(pictures)
    one_sentence(caught.value)


def test_folders_that_are_missing_or_flat(pictures: Path) -> None:
    with pytest.raises(NotFound, match="no such folder"):
        read(pictures / "elsewhere")
    (pictures / "test").rename(pictures / "tset")
    with pytest.raises(NotFound, match="has no folder test/ or val/") as caught:
        read(pictures)
    one_sentence(caught.value)
    (pictures / "tset").rename(pictures / "test")
    (pictures / "train" / "dog").rename(pictures / "dog")
    (pictures / "test" / "dog").rename(pictures / "dogs")
    with pytest.raises(BadData, match="holds 1 class folders"):
        read(pictures)


# ---- MNIST and CIFAR -----------------------------------------------------------------------------


def write_idx(path: Path, magic: int, shape: tuple[int, ...], content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.array([magic, *shape], ">u4").tobytes() + content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        np.array([0x803, 9, 28, 28], ">u4").tobytes() + b"cut off",
        np.array([0x801, 4, 0, 0], ">u4").tobytes(),
    ],
    ids=["empty", "text", "cut off", "other dimensions"],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_idx_files_are_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    culprit = raw / f"train-images-idx3-ubyte{suffix}"
    culprit.write_bytes(content)  # which is no gzip either
    with pytest.raises(BadData, match=str(culprit)) as caught:
        mnist.load("mnist", options=NoOptions(), root=tmp_path)
    one_sentence(caught.value)


def test_images_without_labels(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw / "train-images-idx3-ubyte", 0x803, (2, 28, 28), bytes(2 * 28 * 28))
    write_idx(raw / "train-labels-idx1-ubyte", 0x801, (1,), bytes(1))
    with pytest.raises(BadData, match="holds 2 train images but 1 labels"):
        mnist.load("mnist", options=NoOptions(), root=tmp_path)


class Hostile:
    """A pickle that runs code when loaded: it would make the file that it is given."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"open({str(self.marker)!r}, 'w').close()",))


def cifar_folder(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "it ran"
    path = cifar_folder(tmp_path, pickle.dumps({"data": Hostile(marker)}, protocol))
    with pytest.raises(BadData, match=f"{path} is damaged.*it asks for .*eval") as caught:
        cifar.load("cifar10", options=NoOptions(), root=tmp_path)
    assert not marker.exists()
    one_sentence(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        pickle.dumps({"data": PIXELS})[:-30],
        pickle.dumps([1, 2]),
        pickle.dumps({"labels": [0]}),
        pickle.dumps({"data": PIXELS[:, 0, :3]}),
    ],
)
def test_a_damaged_cifar_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = cifar_folder(tmp_path, content)
    for number in range(2, 6):
        (path.parent / f"data_batch_{number}").write_bytes(content)
    with pytest.raises(BadData, match=str(path.parent)) as caught:
        cifar.load("cifar10", options=NoOptions(), root=tmp_path)
    one_sentence(caught.value)


def test_superclasses_that_contradict_each_other(tmp_path: Path) -> None:
    data = np.zeros((4, 3072), np.uint8)
    top = tmp_path / "cifar-100-python"
    top.mkdir()
    for name in ("train", "test"):
        (top / name).write_bytes(
            pickle.dumps(
                {"data": data, "fine_labels": [0, 1, 0, 1], "coarse_labels": [0, 1, 1, 1]}, 2
            )
        )
    (top / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a", "b"]}, 2))
    with pytest.raises(BadData, match="different superclasses"):
        cifar.load("cifar100", options=NoOptions(), root=tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
def test_a_worker_that_dies_is_explained(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    from kdcli.data import streamed

    monkeypatch.setattr(streamed, "decode", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(KdError, match="a process that decodes images died") as caught:
        read(pictures, workers=1)
    one_sentence(caught.value)


def test_labels_of_a_batch_never_leave_the_classes() -> None:
    source = user.from_user(GOOD)
    settings: dict[str, Any] = {
        "val_fraction": 0.0,
        "train_limit": None,
        "augment": Augmentation(),
        "seed": 0,
        "device": "cpu",
        "workers": 0,
    }
    labels = torch.cat(
        [
            batch.y
            for batch in make_feed(
                source, name="mine", batch_size=2, eval_batch_size=2, **settings
            ).train(1)
        ]
    )
    assert labels.bincount().tolist() == [2, 2, 2]
