from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from kdcli.core import random
from kdcli.core.types import Batch, Feed
from kdcli.data.augment import Augmentation
from kdcli.data.open_feed import make_feed
from kdcli.data.source import ImageArrays, Source, channel_statistics

Make = Callable[..., Feed]


def pixels(purpose: str, *shape: int) -> Tensor:
    """Random uint8 pictures that are the same in every run."""
    count = torch.Size(shape).numel()
    return (
        random.integers(random.key(0, purpose), torch.arange(count), 256)
        .to(torch.uint8)
        .view(shape)
    )


@pytest.fixture
def pictures() -> ImageArrays:
    """83 training pictures [3,6,9] of five classes, 16 or 17 each, and 10 to test on."""
    x, y = pixels("train", 83, 3, 6, 9), torch.arange(83) % 5
    mean, std = channel_statistics(x)
    return ImageArrays(
        x, y, pixels("test", 10, 3, 6, 9), torch.arange(10) % 5, tuple("abcde"), mean, std
    )


@pytest.fixture
def feed() -> Make:
    def make(source: Source, augment: Augmentation | None = None, **changes: Any) -> Feed:
        settings = {
            "batch_size": 8,
            "eval_batch_size": 4,
            "val_fraction": 0.0,
            "train_limit": None,
            "seed": 0,
            "device": "cpu",
            "workers": 0,
        }
        return make_feed(
            source, name="test", augment=augment or Augmentation(), **(settings | changes)
        )

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train/ and test/ with classes cat and dog, 6 and 4 pictures of 6x6 pixels each, as PNG."""
    for part, count in (("train", 6), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                picture = pixels(f"{part} {label} {number}", 6, 6, 3).numpy()
                Image.fromarray(picture).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def same(ours: list[Batch], others: list[Batch]) -> bool:
    """Whether two lists of batches are equal to the last bit."""
    fields = ("x", "y", "index", "view")
    return len(ours) == len(others) and all(
        torch.equal(getattr(one, field), getattr(other, field))
        for one, other in zip(ours, others, strict=True)
        for field in fields
    )


@pytest.fixture(name="same")
def same_fixture() -> Callable[[list[Batch], list[Batch]], bool]:
    return same
