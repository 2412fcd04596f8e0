"""A feed that decodes image files as they are needed: in worker processes, or in threads of this
one, as decoders leave Python's lock.

Workers hold no random state: the main process tells them which pictures and what happens to each,
so their number changes nothing. They return uint8 pictures of one size; crop, flip and
normalisation of a batch happen on the device, by the same code that serves data held in memory.
Where the device is to decode, workers read the files of training and the device does the rest.
Where decoded pictures are kept (kdcli.data.pixel_cache), they are taken from there.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdcli.core.types import DataInfo, Sees, SplitName
from kdcli.data.augment import Augmentation
from kdcli.data.decode import changed, decode, decode_on, finish, painted, read
from kdcli.data.feed import Part, Pictures, Plan, SourceFeed
from kdcli.data.packed import Packed
from kdcli.data.pixel_cache import Kept, Wanted, kept_pixels
from kdcli.data.source import ImageFolder
from kdcli.errors import Incompatible, KdError
from kdcli.results.preprocessing import Preprocessing

# position in a split, and what happens to it before networks see it, by their places in `_seen`:
# those that are to be made; None for nothing
Item = tuple[int, dict[int, int | None]]
_AS_IT_IS = Augmentation()
_AHEAD = 2  # minibatches that threads make before they are needed
_MOST_THREADS = 8  # that decode: beyond, they wait for Python's lock
_UNASKED = 8  # minibatches of which nobody asked for a network's pictures, then they wait for that


class _Decoder(Dataset[Any]):
    """The work of a loader process: a list of items in, a tensor for each network out.

    pinned: in memory from which a GPU copies while it computes. kept: the pictures of the cache as
    each network sees them before they are changed; whole ones under None.
    """

    pinned = True

    def __init__(
        self,
        folder: ImageFolder,
        paths: Sequence[str],
        augment: Augmentation,
        seen: Sequence[Sees],
        *,
        shrink: int | None = None,
        kept: _Store | None = None,
    ) -> None:
        self.folder = folder
        self.paths = paths
        self.augment = augment
        self.seen = seen
        self.shrink = shrink
        self.kept = kept

    def __getitems__(self, items: Sequence[Item]) -> Any:
        try:
            return self._made(items)
        except KdError as error:
            return (
                error  # raised again in the main process: a DataLoader would wrap it in a traceback
            )

    def begun(self, items: Sequence[Item], pool: ThreadPoolExecutor) -> Callable[[], Any]:
        """Begins the same work in threads; gives what waits for its end."""
        if self.gathers:
            whole: Future[Any] = pool.submit(self.__getitems__, items)
            return whole.result
        each: list[Future[list[Tensor]]] = [pool.submit(self._one, *item) for item in items]

        def ended() -> Any:
            try:
                return _stacked(future.result() for future in each)
            except KdError as error:
                return error
            finally:
                for future in each:
                    future.cancel()

        return ended

    @property
    def gathers(self) -> bool:
        """Tells whether batches are taken out of the cache as they are."""
        return self.kept is not None and not self.augment.resized_crop and not self.augment.paints

    def _made(self, items: Sequence[Item]) -> Any:
        if not self.gathers:
            return _stacked(self._one(*item) for item in items)
        assert self.kept is not None
        places = [self.kept.places[position] for position, _ in items]
        return [self.kept.fitted(self.seen[place]).batch(places) for place in items[0][1]]

    def _one(self, position: int, changes: dict[int, int | None]) -> list[Tensor]:
        """One picture as those networks see it, [C,H,W] each."""
        if self.kept is None:
            whole = decode(self.folder, self.paths[position], self.shrink)
            return [self._changed(whole, place, change) for place, change in changes.items()]
        kept, row = self.kept, self.kept.places[position]
        if kept.whole is not None:
            whole = kept.whole.picture(row)
            return [self._changed(whole, place, change) for place, change in changes.items()]
        size = self.seen[0].pixels.size
        fitted = {place: kept.fitted(self.seen[place]).picture(row) for place in changes}
        return [
            fitted[place] if change is None else painted(self.augment, fitted[place], change, size)
            for place, change in changes.items()
        ]

    def _changed(self, picture: Tensor, place: int, change: int | None) -> Tensor:
        how = self.seen[place].pixels
        if change is None:
            return finish(how, _AS_IT_IS, picture, 0)
        # crop and flip follow on the device, for all pictures of a batch at once, unless each is
        # changed by operations of its own
        if self.augment.paints:
            return changed(how, self.augment, picture, change, self.seen[0].pixels.size)
        return finish(how, self.augment, picture, change)

    def on(self, device: torch.device, made: Any, items: Sequence[Item]) -> dict[int, Tensor]:
        """Finished pictures on a device, from what a worker has made, by the networks' places."""
        if isinstance(made, KdError):
            raise made
        _, changes = items[0]
        return dict(zip(changes, self._placed(device, made, items), strict=True))

    def _placed(self, device: torch.device, made: Any, items: Sequence[Item]) -> list[Tensor]:  # noqa: ARG002  a reader needs the items
        return [pictures.to(device, non_blocking=True) for pictures in made]


def _stacked(pictures: Iterable[list[Tensor]]) -> list[Tensor]:
    """Pictures [C,H,W] of each network as a batch [B,C,H,W] each, the colours of a pixel side by
    side.
    """
    return [
        torch.stack([one.permute(1, 2, 0) for one in same]).permute(0, 3, 1, 2)
        for same in zip(*pictures, strict=True)
    ]


class _Reader(_Decoder):
    """The work of a loader process where the device decodes: a list of files as they are."""

    pinned = False

    def _made(self, items: Sequence[Item]) -> list[Tensor]:
        return [read(self.folder, self.paths[position]) for position, _ in items]

    def _placed(self, device: torch.device, made: Any, items: Sequence[Item]) -> list[Tensor]:
        paths = [self.paths[position] for position, _ in items]
        pictures = decode_on(device, self.folder, paths, made)
        return _stacked(
            [self._changed(picture, place, change) for place, change in changes.items()]
            for picture, (_, changes) in zip(pictures, items, strict=True)
        )


class _Agenda:
    """The batches that workers are to make next. A DataLoader asks for them anew each time it is
    iterated, and reads no further ahead than its workers are to be busy.
    """

    def __init__(self) -> None:
        self.batches: Sequence[tuple[Part, Sequence[Tensor | None]]] = ()
        self.wanted: Callable[[], Iterable[int]] = tuple
        self.given: deque[list[Item]] = deque()

    def __iter__(self) -> Iterator[list[Item]]:
        # of this iteration alone: within an epoch somebody may ask for other views
        self.given = deque()
        return self._items(self.given)

    def _items(self, given: deque[list[Item]]) -> Iterator[list[Item]]:
        for part, changes in self.batches:
            items = _items(part, changes, self.wanted())
            given.append(items)
            yield items

    def __len__(self) -> int:
        return len(self.batches)


class _Store:
    """Pictures of the cache for the samples of a split.

    places: of each of its samples among the pictures. whole: the pictures whole, where a part of
    each is to be cut out; else they are there as every network sees them.
    """

    def __init__(
        self, places: Sequence[int], whole: Kept | None, fitted: dict[Sees, Kept] | None = None
    ) -> None:
        self.places = places
        self.whole = whole
        self._fitted = fitted or {}

    def fitted(self, sees: Sees) -> Kept:
        """The pictures as a network sees them."""
        return self._fitted[sees]


class _Loader(Protocol):
    """What makes the batches of an agenda."""

    dataset: Any
    batch_sampler: Any

    def __iter__(self) -> Iterator[Any]: ...


class _Threads:
    """Makes the batches of an agenda in threads of this process, a few before they are needed."""

    def __init__(self, work: _Decoder, pool: ThreadPoolExecutor) -> None:
        self.dataset = work
        self.batch_sampler = _Agenda()
        self._pool = pool

    def __iter__(self) -> Iterator[Any]:
        return self._made(iter(self.batch_sampler))

    def _made(self, agenda: Iterator[list[Item]]) -> Iterator[Any]:
        begun: deque[Callable[[], Any]] = deque()
        for items in agenda:
            begun.append(self.dataset.begun(items, self._pool))
            if len(begun) > _AHEAD:
                yield begun.popleft()()
        while begun:
            yield begun.popleft()()


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
    """Image files behind a DataLoader, or behind threads where there are no workers. Training keeps
    its workers from epoch to epoch; other splits start theirs when read.
    """

    def __init__(
        self, source: ImageFolder, info: DataInfo, rows: dict[SplitName, Tensor], plan: Plan
    ) -> None:
        self._folder = source
        self._kept: dict[tuple[bool, Preprocessing | None], tuple[Kept, str]] = {}
        # its threads end with it
        self._pool = ThreadPoolExecutor(min(torch.get_num_threads(), _MOST_THREADS))
        self._notes = info.notes
        super().__init__(source, info, rows, plan)
        paths: dict[SplitName, tuple[str, ...]] = {
            "train": source.train,
            "val": source.train,
            "test": source.test,
        }
        self._paths = {
            name: [paths[name][row] for row in positions.tolist()]
            for name, positions in rows.items()
        }

    def _show(self, others: Sequence[Sees]) -> None:
        super()._show(others)
        self._trained: _Loader | None = None  # its workers make what is shown
        self._asked = _Asked(len(self._seen))
        self._check_ways()
        if self._folder.cache_gb is not None:
            self._keep()

    def _check_ways(self) -> None:
        """Refuses ways of decoding that do not go together.

        Raises:
            Incompatible: what they are, and what to leave out.
        """
        folder = self._folder
        for key, given in (("shrink", folder.shrink), ("cache_pixels", folder.cache_gb)):
            if given is not None and self.plan.decode == "device":
                raise Incompatible(
                    f"runtime.decode is device, and data.{key} is for pictures that the processor "
                    "decodes",
                    hint=f"leave one of them out, runtime.decode or data.{key}",
                )
        for sees in self._seen:
            if folder.shrink is not None and folder.shrink < min(sees.pixels.sides):
                raise Incompatible(
                    f"data.shrink is {folder.shrink}, and a network sees what is made of "
                    f"{min(sees.pixels.sides)} pixels: pictures would be enlarged again for it",
                    hint=f"set data.shrink to {min(sees.pixels.sides)} at least",
                )

    # ---- the cache -------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Sees to it that decoded pictures are kept, for training and for what is measured on."""
        held = self._folder.train[len(self._folder.train) - self._folder.held :]
        alike = self._alike
        kinds: list[Preprocessing | None] = [sees.pixels for sees in self._seen]
        measured = self._folder.test if alike else (*held, *self._folder.test)
        for how in [None] if self.plan.augment.resized_crop else kinds:
            self._add(training=True, how=how, paths=self._folder.train, shrink=self._folder.shrink)
        for how in kinds:
            self._add(training=False, how=how, paths=measured, shrink=None)
        said = dict.fromkeys(said for _, said in self._kept.values())
        self.info = replace(self.info, notes=(*self._notes, *said))

    @property
    def _alike(self) -> bool:
        """Tells whether pictures are decoded alike for training and for measuring."""
        return not self.plan.augment.resized_crop and self._folder.shrink is None

    def _add(
        self, *, training: bool, how: Preprocessing | None, paths: Sequence[str], shrink: int | None
    ) -> None:
        assert self._folder.cache_gb is not None
        if (training, how) not in self._kept:
            part: Literal["training", "measuring"] = "training" if training else "measuring"
            wanted = Wanted(self._folder, part, paths, how, shrink)
            self._kept[training, how] = kept_pixels(
                wanted, self._folder.cache_gb, self.plan.decoded
            )

    def _store(self, name: SplitName, *, training: bool) -> _Store | None:
        """The kept pictures of a split; None where they are not kept."""
        positions, _ = self.positions(name)
        if self._folder.cache_gb is None:
            return None
        if training or (name != "test" and self._alike):
            places, kind = positions, True
        elif name == "test":
            held = 0 if self._alike else self._folder.held
            places, kind = positions + held, False
        elif name == "val" and self._folder.held:
            places, kind = positions - (len(self._folder.train) - self._folder.held), False
        else:
            return None
        if training and self.plan.augment.resized_crop:
            whole, _ = self._kept[True, None]
            return _Store(places.tolist(), whole)
        fitted = {sees: self._kept[kind, sees.pixels][0] for sees in self._seen}
        return _Store(places.tolist(), None, fitted)

    # ---- loaders ---------------------------------------------------------------------------------

    def _training_loader(self) -> _Loader:
        kind = _Reader if self.plan.decode == "device" else _Decoder
        work = kind(
            self._folder,
            self._paths["train"],
            self.plan.augment,
            self._seen,
            shrink=self._folder.shrink,
            kept=self._store("train", training=True),
        )
        return self._loader(work, persistent=self.plan.workers > 0)

    def _loader(self, work: _Decoder, *, persistent: bool) -> _Loader:
        # a dataset of a user's own may not bear threads
        in_threads = isinstance(self._folder.packed, Packed) and not isinstance(work, _Reader)
        if work.gathers or (self.plan.workers == 0 and in_threads):
            return _Threads(work, self._pool)
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
            batches = iter(loader)
            given = cast("_Agenda", loader.batch_sampler).given
            for made, part, each in zip(batches, parts, changes, strict=True):
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
            del loader, work, batches
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
    ) -> _Loader:
        """The loader for a split, told what to make."""
        if training:
            self._trained = loader = self._trained or self._training_loader()
        else:
            plain = _Decoder(
                self._folder,
                self._paths[name],
                Augmentation(),
                self._seen,
                kept=self._store(name, training=False),
            )
            loader = self._loader(plain, persistent=False)
        agenda = cast("_Agenda", loader.batch_sampler)
        agenda.batches = list(zip(parts, changes, strict=True))
        every = range(len(self._seen))
        agenda.wanted = self._asked.wanted if training else lambda: every
        return loader
