"""Distillation as the field's repositories write it: the loop that kd's speed is measured against.

A Dataset of PIL pictures with torchvision's transforms behind a DataLoader with workers, float32,
channels first, no compilation, the teacher asked in the loop, and loss and accuracies read with
`.item()` at every step. It is favoured where that costs nothing to do: workers live as long as the
loop (the field starts them again every epoch) and cuDNN may choose its algorithms.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.figures import Segment, Timed
from benchmarks.pairs import BATCH, Noise, Pair
from benchmarks.textbook_step import distillation_loss, make_optimiser
from kdcli.engine.hardware import choose_device
from kdcli.engine.memory import keep_memory
from kdcli.jobs.build.networks import build_network, load_network

WORKERS = 8  # the default of the field's training scripts
TRIED_WORKERS = (0, 2, 4)
TRIAL_STEPS = 6
# what its own adapting thresholds come to once large tensors have been freed
GLIBC_KEEPS = (
    2**26,
    2**25,
)


class PictureSet(Dataset[tuple[Tensor, int]]):
    """Arrays as torchvision's CIFAR and MNIST classes give them: a PIL picture at a time, then the
    transform.
    """

    def __init__(
        self, x: NDArray[np.uint8], y: NDArray[np.int64], transform: Callable[[Image.Image], Tensor]
    ) -> None:
        self.x = x
        self.y = y.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.x[index])), self.y[index]


def make_transform(pair: Pair, *, train: bool) -> Any:
    """Torchvision's transforms for a pair's pictures."""
    changes: list[Any] = []
    if train and pair.crop:
        changes.append(transforms.RandomCrop(pair.shape[1], padding=pair.crop))
    if train and pair.flip:
        changes.append(transforms.RandomHorizontalFlip())
    half = (0.5,) * pair.shape[0]
    return transforms.Compose([*changes, transforms.ToTensor(), transforms.Normalize(half, half)])


def make_loader(
    pair: Pair, noise: Noise, workers: int, *, train: bool, batch_size: int = BATCH
) -> DataLoader[tuple[Tensor, int]]:
    """The training pictures, shuffled, or the test's, in order."""
    x, y = (noise.x, noise.y) if train else (noise.x_test, noise.y_test)
    with _as_the_field_does():
        return DataLoader(
            PictureSet(x, y, make_transform(pair, train=train)),
            batch_size=batch_size,
            shuffle=train,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def accuracies(logits: Tensor, y: Tensor) -> tuple[float, float]:
    """Percent of a batch whose label is the first, and among the first five (all, where there are
    fewer classes).
    """
    _, found = logits.topk(min(5, logits.shape[1]), dim=1)
    correct = found.eq(y.view(-1, 1))
    return tuple((correct[:, :k].any(dim=1).float().mean() * 100).item() for k in (1, 5))  # type: ignore[return-value]


class AverageMeter:
    """A running mean of floats, weighted by batch."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, value: float, count: int) -> None:
        self.total += value * count
        self.count += count

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)


@dataclass(frozen=True, slots=True)
class Epoch:
    """What a pass over the training pictures took and gave."""

    images: int
    seconds: float
    loss: float
    top1: float


class Textbook:
    """Distils one student.

    Args:
        student, teacher: networks of kd's zoo, on any device.
        loader: of training pictures.
    """

    def __init__(
        self,
        pair: Pair,
        student: nn.Module,
        teacher: nn.Module,
        loader: DataLoader[tuple[Tensor, int]],
        device: torch.device,
    ) -> None:
        self.student = student.to(device)
        self.teacher = teacher.to(device)
        self.loader = loader
        self.device = device
        self.optimiser = make_optimiser(pair, self.student)

    def epoch(self, steps: int | None = None) -> Epoch:
        """Train on all pictures, timed from the request for the first batch to the last step.

        Args:
            steps: train on so many batches only; the rest are loaded and thrown away, untimed, so
                that no worker is busy afterwards.
        """
        losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
        self.student.train()
        self.teacher.eval()
        with _as_the_field_does():
            synchronise(self.device)
            start = end = time.perf_counter()
            for number, (images, labels) in enumerate(self.loader, 1):
                if steps is None or number <= steps:
                    self._step(
                        images.to(self.device, non_blocking=True),
                        labels.to(self.device, non_blocking=True),
                        losses,
                        top1,
                        top5,
                    )
                    if number in {steps, len(self.loader)}:
                        synchronise(self.device)
                    end = time.perf_counter()
        return Epoch(losses.count, end - start, losses.mean, top1.mean)

    def _step(
        self, x: Tensor, y: Tensor, losses: AverageMeter, top1: AverageMeter, top5: AverageMeter
    ) -> None:
        logits = self.student(x).logits
        with torch.no_grad():
            teacher_logits = self.teacher(x).logits
        loss = distillation_loss(logits, teacher_logits, y)
        first, fifth = accuracies(logits, y)
        losses.update(loss.item(), len(y))
        top1.update(first, len(y))
        top5.update(fifth, len(y))
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def validate(self, loader: DataLoader[tuple[Tensor, int]]) -> float:
        """Accuracy on a test set, percent, with loss and both accuracies read at every batch."""
        losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
        self.student.eval()
        with _as_the_field_does(), torch.no_grad():
            for images, labels in loader:
                x, y = (
                    images.to(self.device, non_blocking=True),
                    labels.to(self.device, non_blocking=True),
                )
                logits = self.student(x).logits
                first, fifth = accuracies(logits, y)
                losses.update(functional.cross_entropy(logits, y).item(), len(y))
                top1.update(first, len(y))
                top5.update(fifth, len(y))
        return top1.mean


class TextbookRuns:
    """The textbook loop with the field's default number of workers and with its best other one,
    which a short trial finds.

    speeds: images/s of the trial, by number of workers.
    """

    def __init__(self, pair: Pair, noise: Noise, teacher: Path) -> None:
        self.pair = pair
        self.noise = noise
        self.device = torch.device(choose_device("auto").value)
        self.teacher = load_network(teacher)[0].requires_grad_(requires_grad=False)
        loops = {workers: self._loop(workers) for workers in (WORKERS, *TRIED_WORKERS)}
        self.speeds = {
            workers: _segment(loop, steps=TRIAL_STEPS).speed for workers, loop in loops.items()
        }
        self.best = max(TRIED_WORKERS, key=lambda workers: self.speeds[workers])
        self.default_loop, self.best_loop = loops[WORKERS], loops[self.best]

    def _loop(self, workers: int) -> Textbook:
        """A loop whose workers are there and whose first steps are done."""
        pair = self.pair
        student = build_network(pair.student, num_classes=pair.classes, input_shape=pair.shape)
        loop = Textbook(
            pair,
            student,
            self.teacher,
            make_loader(pair, self.noise, workers, train=True),
            self.device,
        )
        loop.epoch(steps=2)
        return loop

    def segments(self) -> dict[str, Segment]:
        """An epoch of each; their first steps are done already."""
        return {
            "textbook default": lambda: _segment(self.default_loop),
            "textbook best": lambda: _segment(self.best_loop),
        }


def _segment(loop: Textbook, steps: int | None = None) -> Timed:
    epoch = loop.epoch(steps)
    return Timed(epoch.images, epoch.seconds)


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _as_the_field_does() -> Iterator[None]:
    """CuDNN tries its algorithms; more workers than cores are nothing to be warned of; glibc keeps
    as much memory as it does unasked.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    keep_memory(*GLIBC_KEEPS)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="This DataLoader will create", category=UserWarning
            )
            yield
    finally:
        torch.backends.cudnn.benchmark = before
        keep_memory()
