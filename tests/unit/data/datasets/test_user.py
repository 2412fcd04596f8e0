"""Datasets, loaders and DatasetDicts that a function of a user's own returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from kdcli.core.types import Batch, Feed
from kdcli.data.augment import Augmentation
from kdcli.data.datasets.user import Options, from_user
from kdcli.data.source import ImageArrays, ImageFolder
from kdcli.errors import BadData, KdError, UsageError
from kdcli.jobs import train_teacher
from tests.unit.data.conftest import pixels
from tests.unit.data.datasets.packings import opened, pack_saved, rows_of

Make = Callable[..., Feed]
Same = Callable[[list[Batch], list[Batch]], bool]
X = pixels("own", 20, 8, 8).numpy()
Y = np.arange(20) % 2


class Pictures(Dataset[Any]):
    """As torchvision's are: (picture, label) by number."""

    classes = ("even", "odd")

    def __init__(
        self, count: int, make: Callable[[int], Any] | None = None, *, known: bool = True
    ) -> None:
        self.count, self.make = count, make or (lambda number: Image.fromarray(X[number]))
        if known:
            self.targets = Y[:count].tolist()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return self.make(number), int(Y[number])


def scaled(number: int) -> torch.Tensor:
    return torch.from_numpy(X[number]).float()[None] / 255


def large(number: int) -> Image.Image:
    return Image.fromarray(X[number]).convert("RGB").resize((8 + number % 3, 9))


def loader(count: int) -> DataLoader[Any]:
    return DataLoader(Pictures(count, scaled), batch_size=3)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return ((scaled(number), int(Y[number])) for number in range(6))


@pytest.mark.parametrize(
    "value",
    [
        (Pictures(12), Pictures(6)),
        [Pictures(12, scaled), Pictures(6, scaled)],
        (loader(12), loader(6)),
        {"train": Pictures(12), "test": loader(6)},
        (Subset(Pictures(20), range(12)), Subset(Pictures(20), range(6))),
        (DataLoader(Pictures(12, scaled), 4), Stream()),
    ],
)
def test_datasets_and_loaders_are_read_into_memory(value: Any) -> None:
    source = from_user(value)
    assert isinstance(source, ImageArrays)
    assert (source.class_names, source.held) == (("even", "odd"), 0)
    evens, odds = X[:12:2], X[1:12:2]
    assert torch.equal(source.x_train[:, 0], torch.from_numpy(np.concatenate([evens, odds])))
    assert source.y_train.tolist() == [0] * 6 + [1] * 6
    assert source.y_test.tolist() == [0] * 3 + [1] * 3


def test_three_have_a_part_that_is_held_out_and_one_gives_a_part_away(feed: Make) -> None:
    three = from_user((Pictures(12), Pictures(4), Pictures(6)))
    made = feed(three)
    assert [made.size(part) for part in ("train", "val", "test")] == [12, 4, 6]
    with pytest.raises(BadData, match=r"no part test or val, and data\.test_fraction is not set"):
        from_user(Pictures(12))
    one = from_user(Pictures(20), options=Options(test_fraction=0.2))
    assert (len(one.y_train), one.y_test.tolist()) == (16, [0, 0, 1, 1])
    with pytest.raises(UsageError, match="has a part test"):
        from_user((Pictures(12), Pictures(6)), options=Options(test_fraction=0.2))


def test_a_loader_that_shuffles_gives_every_process_the_same() -> None:
    def value() -> Any:
        return tuple(DataLoader(Pictures(n, scaled), 4, shuffle=True) for n in (12, 6))

    assert from_user(value()).fingerprint == from_user(value()).fingerprint


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("why", ["sizes", "memory"])
def test_pillow_images_of_many_sizes_or_too_many_are_asked_for_one_by_one(
    feed: Make, same: Same, known: bool, why: str
) -> None:
    make, bound = (large, 8.0) if why == "sizes" else (None, 1e-9)
    pair = Pictures(12, make, known=known), Pictures(6, make, known=known)
    source = from_user(pair, options=Options(size=8, max_gb=bound))
    assert isinstance(source, ImageFolder)
    assert "asked for as they are needed" in source.notes[0]
    cut = Augmentation(resized_crop=True)
    alone, helped = feed(source, cut, batch_size=4), feed(source, cut, batch_size=4, workers=2)
    assert same(list(alone.train(1)), list(helped.train(1)))
    assert source.fingerprint == from_user(pair, options=Options(size=8, max_gb=bound)).fingerprint
    other = Pictures(12, lambda number: large(0)), Pictures(6, large)
    assert from_user(other, options=Options(size=8)).fingerprint != source.fingerprint


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((Pictures(12, lambda n: scaled(n) * 3 - 1), Pictures(6)), "pixels from -"),
        ((Pictures(12, lambda n: torch.zeros(1, 8 + n, 8)), Pictures(6)), "a sample is uint8"),
        ((Pictures(12, lambda n: 1 // 0), Pictures(6)), "train of .* failed: ZeroDivisionError"),
        ((Pictures(12, lambda n: torch.zeros(1, 8, 8, dtype=torch.int32)), Pictures(6)), "is int32"),
        ((Pictures(0), Pictures(6)), "train of .* is empty"),
        ((TensorDataset(torch.zeros(4, 1, 8, 8)), Pictures(6)), "no picture with a label"),
        ((TensorDataset(torch.zeros(4, 1, 8, 8), torch.zeros(4)), Pictures(6)), "labels are float32"),
        ((TensorDataset(torch.zeros(4, 1, 8, 8), -torch.ones(4).long()), Pictures(6)), "a label is -1"),
        ((TensorDataset(torch.zeros(4, 1, 8, 8), 999 * torch.ones(4).long()), Pictures(6)), "a label is 999"),
        ((loader(12), 7), "returned tuple"),
        ({"train": 3}, "has no x_train"),
        (7, "returned int"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_a_sentence(value: Any, said: str) -> None:
    with pytest.raises(KdError, match=said) as caught:
        from_user(value)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_loaders_of_more_than_the_bound_are_refused() -> None:
    with pytest.raises(UsageError, match=r"more than data\.max_gb = 1e-09"):
        from_user((loader(12), loader(6)), options=Options(max_gb=1e-9))


def test_a_run_takes_the_keys_of_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = """
        import numpy as np
        from torch.utils.data import TensorDataset
        import torch

        def one():
            x = torch.arange(40 * 64).reshape(40, 1, 8, 8).remainder(255) / 255
            return TensorDataset(x, torch.arange(40) % 2)
    """
    lines = [line.removeprefix("        ") for line in text.splitlines()]
    (tmp_path / "own.py").write_text("\n".join(lines), encoding="utf-8")
    overrides = {
        "data.test_fraction": 0.25,
        "data.val_fraction": 0.1,
        "train.select": "best",
        "train.epochs": 1,
        "report.html": False,
    }
    result = train_teacher(model="mlp", data="own.py:one", overrides=overrides)
    assert result is not None
    assert (result.test.n, result.test.selected) == (10, "best")


@pytest.mark.slow
def test_a_dataset_of_hugging_face_is_asked_by_number(
    folder: Path, feed: Make, same: Same, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets", reason="makes and reads a DatasetDict")
    saved = pack_saved(folder)
    whole = datasets.load_from_disk(saved["path"])
    source = from_user(whole, options=Options(size=8))
    assert isinstance(source, ImageFolder)
    expected = feed(opened("image-folder", folder), batch_size=4)
    ours = feed(source, batch_size=4, workers=2)
    mean = torch.cat([batch.x for batch in expected.train(1)])
    assert torch.equal(torch.cat([batch.x for batch in ours.train(1)]), mean)
    assert same(list(ours.split("test")), list(expected.split("test")))
    assert source.class_names == ("cat", "dog")
    paths = [str(folder / path) for path, _, _ in rows_of(folder)]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    columns = {"image": paths, "label": ["b", "a"] * 10}
    one = datasets.Dataset.from_dict(columns, features=kinds)
    drawn = from_user(one.shuffle(seed=1), options=Options(size=8, test_fraction=0.2))
    assert (drawn.class_names, drawn.y_test.tolist()) == (("a", "b"), [0, 0, 1, 1])
    with pytest.raises(BadData, match=r"column 'label' of train is .*, no image"):
        from_user(whole, options=Options(image="label"))
    with pytest.raises(BadData, match="has no column 'x'"):
        from_user(whole, options=Options(label="x"))
    several = datasets.Features({**kinds, "label": datasets.Sequence(datasets.Value("int64"))})
    many = datasets.Dataset.from_dict({**columns, "label": [[0, 1]] * 20}, features=several)
    with pytest.raises(BadData, match=r"row 0 of train of column 'label' holds '\[0, 1\]', which"):
        from_user(many)
