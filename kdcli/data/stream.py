"""A feed that decodes image files as they are needed, in worker processes where there are several.

Workers hold no random state: the main process tells them which pictures and what happens to each, so their number changes nothing.
They return uint8 pictures of one size; crop, flip and normalisation of a batch happen on the device, by the same code that
serves data held in memory.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdcli.core.types import DataInfo, SplitName
from kdcli.data.augment import Augmentation
from kdcli.data.base import Folder
from kdcli.data.decode import decode, fit
from kdcli.data.feed import Part, Plan, SourceFeed
from kdcli.errors import KdError

Item = tuple[int, int]  # position in a split, what happens to it


class _Decoder(Dataset[Tensor | KdError]):
    """What a worker does: a list of items in, one tensor out."""

    def __init__(self, folder: Folder, paths: Sequence[str], augment: Augmentation) -> None:
        self.folder = folder
        self.paths = paths
        self.augment = augment

    def __getitems__(self, items: Sequence[Item]) -> Tensor | KdError:
        try:
            return torch.stack([self._one(*item) for item in items])
        except KdError as error:
            return error  # raised again in the main process: a DataLoader would wrap it in a traceback

    def _one(self, position: int, change: int) -> Tensor:
        image = decode(self.folder, self.paths[position])
        return self.augment.cut(image, change, self.folder.size) if self.augment.resized_crop else fit(self.folder, image)


class _Agenda:
    """The batches that workers are to make next. A DataLoader asks for them anew each time it is iterated."""

    def __init__(self) -> None:
        self.batches: list[list[Item]] = []

    def __iter__(self) -> Iterator[list[Item]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _as_made(made: Any) -> Any:
    return made


def _ignore_interrupt(_worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the main one finishes its step and needs the workers for it
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StreamedFeed(SourceFeed):
    """Image files behind a DataLoader. Training keeps its workers from epoch to epoch; other splits start theirs when read."""

    def __init__(self, source: Folder, info: DataInfo, rows: dict[SplitName, Tensor], plan: Plan) -> None:
        super().__init__(source, info, rows, plan)
        paths: dict[SplitName, tuple[str, ...]] = {"train": source.train, "val": source.train, "test": source.test}
        self._folder = source
        self._paths = {name: [paths[name][row] for row in positions.tolist()] for name, positions in rows.items()}
        self._trainer = self._loader("train", plan.augment, persistent=plan.workers > 0)

    def _loader(self, name: SplitName, augment: Augmentation, *, persistent: bool) -> DataLoader[Tensor | KdError]:
        return DataLoader(
            _Decoder(self._folder, self._paths[name], augment),
            batch_sampler=_Agenda(),
            num_workers=self.plan.workers,
            collate_fn=_as_made,
            pin_memory=self.plan.device.type == "cuda",
            worker_init_fn=_ignore_interrupt,
            persistent_workers=persistent,
        )

    def _images(self, name: SplitName, parts: Iterable[Part], *, training: bool) -> Iterator[tuple[Tensor, Part]]:
        parts = list(parts)
        try:
            for made, part in zip(self._working(name, parts, training=training), parts, strict=True):
                if isinstance(made, KdError):
                    raise made
                yield made.to(self.plan.device, non_blocking=True), part
        except (KdError, RuntimeError) as error:
            # let go of the workers now: a traceback would keep them, and they end badly when they are collected as part of a cycle
            self._trainer = self._loader("train", self.plan.augment, persistent=self.plan.workers > 0)
            if "DataLoader worker" not in str(error):
                raise
            raise KdError("a process that decodes images died", hint="lower runtime.workers: the machine may lack memory") from error

    def _working(self, name: SplitName, parts: Sequence[Part], *, training: bool) -> DataLoader[Tensor | KdError]:
        """The loader for a split, told what to make."""
        loader = self._trainer if training else self._loader(name, Augmentation(), persistent=False)
        agenda = cast("_Agenda", loader.batch_sampler)
        agenda.batches = [list(zip(part.index.tolist(), part.change.tolist(), strict=True)) for part in parts]
        return loader
