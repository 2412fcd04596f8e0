"""The pairs of networks that the speed benchmarks train, with the pictures, batches and optimisers
of their tables.

Pictures are noise and labels go round: what training costs does not depend on what they show.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

BATCH = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """A teacher and a student by name, and how their table trains them.

    shape: of a picture, [C, H, W]. crop, flip: its augmentation. optim: keys of a recipe's [optim].
    steps: of the table's whole run, which is what automatic choices are made for. stored_least:
    required speed with stored logits, in textbook loops. longer: times that a benchmark's number of
    batches is taken, where networks are so small that it would be over at once.
    """

    teacher: str
    student: str
    shape: tuple[int, int, int] = (3, 32, 32)
    classes: int = 100
    crop: int = 4
    flip: bool = True
    optim: Mapping[str, Any] = field(default_factory=lambda: {"optim.lr": 0.05})
    steps: int = 240 * 782
    stored_least: float = 6.0
    longer: int = 1


PAIRS: Mapping[str, Pair] = {
    "resnet56-resnet20": Pair("resnet56", "resnet20", stored_least=4.5),
    "resnet32x4-resnet8x4": Pair("resnet32x4", "resnet8x4"),
    "wrn_40_2-wrn_16_2": Pair("wrn_40_2", "wrn_16_2"),
    # "An energy perspective", Table 7, as recipes/fashion-mnist has it: no augmentation, Adam
    "fashion-mnist": Pair(
        "fashion-mnist-large",
        "fashion-mnist-student",
        shape=(1, 28, 28),
        classes=10,
        crop=0,
        flip=False,
        optim={"optim.name": "adamw", "optim.weight_decay": 0.0},
        steps=10 * 938,
        longer=8,
    ),
}


@dataclass(frozen=True, slots=True)
class Noise:
    """Pictures [n,H,W] or [n,H,W,3] uint8 with labels [n] int64, for training and for the test;
    `path` holds them as .npz.
    """

    path: Path
    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]


def make_noise(
    path: Path, shape: tuple[int, int, int], classes: int, *, train: int, test: int
) -> Noise:
    """Random pictures, each label as often as any other.

    Args:
        path: the .npz file to write. shape: [C, H, W] of a picture. train, test: numbers of
            pictures.
    """
    rng = np.random.default_rng(0)
    channels, height, width = shape
    size = (height, width) if channels == 1 else (height, width, channels)
    x, x_test = (rng.integers(0, 256, (count, *size), dtype=np.uint8) for count in (train, test))
    y, y_test = (np.arange(count, dtype=np.int64) % classes for count in (train, test))
    names = np.array([f"class-{number:05d}" for number in range(classes)])
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test, classes=names)
    return Noise(path, x, y, x_test, y_test)


def make_teacher(pair: Pair, noise: Noise, folder: Path) -> Path:
    """The checkpoint, under `folder`, of a teacher with fresh weights: how well it teaches costs no
    time.

    Its batch norms have seen a batch, so that its answers are of ordinary size.
    """
    import torch

    from kdcli.engine.checkpoint import save_model
    from kdcli.jobs.build.header import make_header
    from kdcli.jobs.build.job import build_job
    from kdcli.recipe.resolve import resolve
    from kdcli.results.weights_header import MODEL_FILE

    values = {
        "model.name": pair.teacher,
        "method.name": "none",
        "data.name": "npz",
        "data.path": str(noise.path),
    }
    job = build_job(resolve("train-teacher", values=values).recipe, lambda _section: folder)
    network = job.method.deployable().train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches: of this one
    with torch.no_grad():
        network(next(iter(job.feed.train(1))).x)
    path = folder / f"{pair.teacher}-{pair.classes}-{len(noise.y)}" / MODEL_FILE
    save_model(path, network, make_header(job, network, None, ""))
    return path


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder for runs and stored logits that is gone afterwards; the user's own are left alone.

    Compiled code is kept where kd keeps it: it is filed by its content, and compiling takes longer
    than what is measured.
    """
    from kdcli.surroundings import cache_root

    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with patch.dict(
            os.environ, {"KD_CACHE_DIR": str(folder / "cache"), "TORCHINDUCTOR_CACHE_DIR": compiled}
        ):
            yield folder
