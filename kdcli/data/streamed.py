"""A feed that decodes image files as they are needed, in worker processes where there are several.

Workers hold no random state: the main process tells them which pictures and what happens to each,
so their number changes nothing. They return uint8 pictures of one size; crop, flip and
normalisation of a batch happen on the device, by the same code that serves data held in memory.
Where the device is to decode, workers read the files of training and the device does the rest.
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
from kdcli.data.decode import changed, decode, decode_on, finish, read
from kdcli.data.feed import Part, Plan, SourceFeed
from kdcli.data.source import ImageFolder
from kdcli.errors import KdError
from kdcli.results.preprocessing import Preprocessing

Item = tuple[int, int]  # position in a split, what happens to it


class _Decoder(Dataset[Any]):
    """The work of a loader process: a list of items in, one tensor out. pinned: in memory from
    which a GPU copies while it computes.
    """

    pinned = True

    def __init__(
        self,
        folder: ImageFolder,
        paths: Sequence[str],
        augment: Augmentation,
        seen: Sequence[Preprocessing],
    ) -> None:
        self.folder = folder
        self.paths = paths
        self.augment = augment
        self.seen = seen

    def __getitems__(self, items: Sequence[Item]) -> Any:
        try:
            return self._made(items)
        except KdError as error:
            return (
                error  # raised again in the main process: a DataLoader would wrap it in a traceback
            )

    def _made(self, items: Sequence[Item]) -> Any:
        return self._finished(
            (decode(self.folder, self.paths[position]), change) for position, change in items
        )

    def _finished(self, pictures: Iterable[tuple[Tensor, int]]) -> list[Tensor]:
        """Decoded pictures, each with its change, as every network sees them, [B,C,H,W] each."""
        augment, size = self.augment, self.seen[0].size
        # crop and flip follow on the device, for all pictures of a batch at once, unless each is
        # changed by operations of its own
        made = [
            [
                changed(seen, augment, picture, change, size)
                if augment.paints
                else finish(seen, augment, picture, change)
                for seen in self.seen
            ]
            for picture, change in pictures
        ]
        return [torch.stack(same) for same in zip(*made, strict=True)]

    def on(self, device: torch.device, made: Any, part: Part) -> list[Tensor]:  # noqa: ARG002  a reader needs the part
        """Finished pictures on a device, from what a worker has made."""
        return [pictures.to(device, non_blocking=True) for pictures in made]


class _Reader(_Decoder):
    """The work of a loader process where the device decodes: a list of files as they are."""

    pinned = False

    def _made(self, items: Sequence[Item]) -> list[Tensor]:
        return [read(self.folder, self.paths[position]) for position, _ in items]

    def on(self, device: torch.device, made: Any, part: Part) -> list[Tensor]:
        pictures = decode_on(
            device, self.folder, [self.paths[position] for position in part.index.tolist()], made
        )
        return self._finished(zip(pictures, part.change.tolist(), strict=True))


class _Agenda:
    """The batches that workers are to make next. A DataLoader asks for them anew each time it is
    iterated.
    """

    def __init__(self) -> None:
        self.batches: list[list[Item]] = []

    def __iter__(self) -> Iterator[list[Item]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _as_made(made: Any) -> Any:
    return made


def _ignore_interrupt(_worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the main one finishes its step and needs the
    # workers for it
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StreamedFeed(SourceFeed):
    """Image files behind a DataLoader. Training keeps its workers from epoch to epoch; other splits
    start theirs when read.
    """

    def __init__(
        self, source: ImageFolder, info: DataInfo, rows: dict[SplitName, Tensor], plan: Plan
    ) -> None:
        super().__init__(source, info, rows, plan)
        paths: dict[SplitName, tuple[str, ...]] = {
            "train": source.train,
            "val": source.train,
            "test": source.test,
        }
        self._folder = source
        self._paths = {
            name: [paths[name][row] for row in positions.tolist()]
            for name, positions in rows.items()
        }

    def _show(self, others: Sequence[Preprocessing]) -> None:
        super()._show(others)
        self._trained: DataLoader[Any] | None = None  # its workers make what is shown

    def _training_loader(self) -> DataLoader[Any]:
        kind = _Reader if self.plan.decode == "device" else _Decoder
        return self._loader(
            kind(self._folder, self._paths["train"], self.plan.augment, self._seen),
            persistent=self.plan.workers > 0,
        )

    def _loader(self, work: _Decoder, *, persistent: bool) -> DataLoader[Any]:
        return DataLoader(
            work,
            batch_sampler=_Agenda(),
            num_workers=self.plan.workers,
            collate_fn=_as_made,
            pin_memory=self.plan.device.type == "cuda" and work.pinned,
            worker_init_fn=_ignore_interrupt,
            persistent_workers=persistent,
        )

    def _images(
        self, name: SplitName, parts: Iterable[Part], *, training: bool
    ) -> Iterator[tuple[Sequence[Tensor], Part]]:
        parts, augment = list(parts), self.plan.augment
        loader = self._working(name, parts, training=training)
        work = cast("_Decoder", loader.dataset)
        try:
            for made, part in zip(loader, parts, strict=True):
                if isinstance(made, KdError):
                    raise made
                pictures = work.on(self.plan.device, made, part)
                if training and not (augment.resized_crop or augment.paints):
                    size = self.info.pixels.size
                    pictures = [augment.apply(images, part.change, size) for images in pictures]
                yield pictures, part
        except (KdError, RuntimeError) as error:
            # let go of the workers now: a traceback would keep them, and they end badly when they
            # are collected as part of a cycle
            del loader, work
            self._trained = None
            if "DataLoader worker" not in str(error):
                raise
            raise KdError(
                "a process that decodes images died",
                hint="lower runtime.workers: the machine may lack memory",
            ) from error

    def _working(
        self, name: SplitName, parts: Sequence[Part], *, training: bool
    ) -> DataLoader[Any]:
        """The loader for a split, told what to make."""
        if training:
            self._trained = loader = self._trained or self._training_loader()
        else:
            plain = _Decoder(self._folder, self._paths[name], Augmentation(), self._seen)
            loader = self._loader(plain, persistent=False)
        agenda = cast("_Agenda", loader.batch_sampler)
        agenda.batches = [
            list(zip(part.index.tolist(), part.change.tolist(), strict=True)) for part in parts
        ]
        return loader
