"""A feed that decodes image files as they are needed, in worker processes where there are several.

Workers hold no random state: the main process tells them which pictures and what happens to each,
so their number changes nothing. They return uint8 pictures of one size; crop, flip and
normalisation of a batch happen on the device, by the same code that serves data held in memory.
Where the device is to decode, workers read the files of training and the device does the rest.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdcli.core.types import DataInfo, Sees, SplitName
from kdcli.data.augment import Augmentation
from kdcli.data.decode import changed, decode, decode_on, finish, read
from kdcli.data.feed import Part, Pictures, Plan, SourceFeed
from kdcli.data.source import ImageFolder
from kdcli.errors import KdError

# position in a split, and what happens to it before networks see it, by their places in `_seen`:
# those that are to be made; None for nothing
Item = tuple[int, dict[int, int | None]]
_AS_IT_IS = Augmentation()
_UNASKED = 8  # minibatches of which nobody asked for a network's pictures, then they wait for that


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
        seen: Sequence[Sees],
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
            (decode(self.folder, self.paths[position]), changes) for position, changes in items
        )

    def _finished(self, pictures: Iterable[tuple[Tensor, dict[int, int | None]]]) -> list[Tensor]:
        """Decoded pictures, each with its changes, as those networks see them, [B,C,H,W] each."""
        augment, size = self.augment, self.seen[0].pixels.size
        # crop and flip follow on the device, for all pictures of a batch at once, unless each is
        # changed by operations of its own
        made = [
            [
                finish(self.seen[place].pixels, _AS_IT_IS, picture, 0)
                if change is None
                else changed(self.seen[place].pixels, augment, picture, change, size)
                if augment.paints
                else finish(self.seen[place].pixels, augment, picture, change)
                for place, change in changes.items()
            ]
            for picture, changes in pictures
        ]
        return [torch.stack(same) for same in zip(*made, strict=True)]

    def on(self, device: torch.device, made: Any, items: Sequence[Item]) -> dict[int, Tensor]:
        """Finished pictures on a device, from what a worker has made, by the networks' places."""
        if isinstance(made, KdError):
            raise made
        _, changes = items[0]
        return dict(zip(changes, self._placed(device, made, items), strict=True))

    def _placed(self, device: torch.device, made: Any, items: Sequence[Item]) -> list[Tensor]:  # noqa: ARG002  a reader needs the items
        return [pictures.to(device, non_blocking=True) for pictures in made]


class _Reader(_Decoder):
    """The work of a loader process where the device decodes: a list of files as they are."""

    pinned = False

    def _made(self, items: Sequence[Item]) -> list[Tensor]:
        return [read(self.folder, self.paths[position]) for position, _ in items]

    def _placed(self, device: torch.device, made: Any, items: Sequence[Item]) -> list[Tensor]:
        paths = [self.paths[position] for position, _ in items]
        pictures = decode_on(device, self.folder, paths, made)
        return self._finished(zip(pictures, (changes for _, changes in items), strict=True))


class _Agenda:
    """The batches that workers are to make next. A DataLoader asks for them anew each time it is
    iterated, and reads no further ahead than its workers are to be busy.
    """

    def __init__(self) -> None:
        self.batches: Sequence[tuple[Part, Sequence[Tensor | None]]] = ()
        self.wanted: Callable[[], Iterable[int]] = tuple
        self.given: deque[list[Item]] = deque()

    def __iter__(self) -> Iterator[list[Item]]:
        self.given.clear()
        for part, changes in self.batches:
            items = _items(part, changes, self.wanted())
            self.given.append(items)
            yield items

    def __len__(self) -> int:
        return len(self.batches)


def _as_made(made: Any) -> Any:
    return made


def _ignore_interrupt(_worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the main one finishes its step and needs the
    # workers for it
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _items(part: Part, changes: Sequence[Tensor | None], wanted: Iterable[int]) -> list[Item]:
    """What a worker is told of a batch whose changes [B] are known by network."""
    index = part.index.tolist()
    columns = {
        place: [None] * len(index) if (change := changes[place]) is None else change.tolist()
        for place in wanted
    }
    return [
        (position, {place: column[row] for place, column in columns.items()})
        for row, position in enumerate(index)
    ]


class _Asked:
    """Which networks' pictures the workers make beside the student's: those that somebody asks for.
    A teacher whose answers are stored does not, and then its pictures are made when it does again.
    """

    def __init__(self, networks: int) -> None:
        self._unasked = [0] * networks  # minibatches since somebody asked

    def wanted(self) -> list[int]:
        return [place for place, count in enumerate(self._unasked) if count < _UNASKED]

    def handed_out(self) -> None:
        self._unasked = [count + 1 for count in self._unasked]

    def asked(self, place: int) -> None:
        self._unasked[place] = 0


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

    def _show(self, others: Sequence[Sees]) -> None:
        super()._show(others)
        self._trained: DataLoader[Any] | None = None  # its workers make what is shown
        self._asked = _Asked(len(self._seen))

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
    ) -> Iterator[tuple[Sequence[Pictures], Part]]:
        parts = list(parts)
        changes = [self._changes(part, training=training) for part in parts]
        loader = self._working(name, parts, changes, training=training)
        work = cast("_Decoder", loader.dataset)
        try:
            given = cast("_Agenda", loader.batch_sampler).given
            for made, part, each in zip(loader, parts, changes, strict=True):
                if training:
                    self._asked.handed_out()
                pictures = work.on(self.plan.device, made, given.popleft())
                yield (
                    [
                        partial(self._shown, work, pictures, part, each, place, training)
                        for place in range(len(self._seen))
                    ],
                    part,
                )
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

    def _shown(
        self,
        work: _Decoder,
        pictures: dict[int, Tensor],
        part: Part,
        changes: Sequence[Tensor | None],
        place: int,
        training: bool,  # noqa: FBT001  bound by a partial
    ) -> Tensor:
        """A batch's pictures as the network at a place of `_seen` sees them, made by a worker, or
        else now.
        """
        augment, change = self.plan.augment, changes[place]
        if training:
            self._asked.asked(place)
        if place not in pictures:
            items = _items(part, changes, (place,))
            pictures |= work.on(self.plan.device, work.__getitems__(items), items)
        if not training or change is None or augment.resized_crop or augment.paints:
            return pictures[place]
        return augment.apply(pictures[place], change, self.info.pixels.size)

    def _working(
        self,
        name: SplitName,
        parts: Sequence[Part],
        changes: Sequence[Sequence[Tensor | None]],
        *,
        training: bool,
    ) -> DataLoader[Any]:
        """The loader for a split, told what to make."""
        if training:
            self._trained = loader = self._trained or self._training_loader()
        else:
            plain = _Decoder(self._folder, self._paths[name], Augmentation(), self._seen)
            loader = self._loader(plain, persistent=False)
        agenda = cast("_Agenda", loader.batch_sampler)
        agenda.batches = list(zip(parts, changes, strict=True))
        every = range(len(self._seen))
        agenda.wanted = self._asked.wanted if training else lambda: every
        return loader
