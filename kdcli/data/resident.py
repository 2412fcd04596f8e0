"""A feed whose images lie on the device as a whole: a batch is an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from kdcli.core.lazily import Lazily
from kdcli.core.types import DataInfo, SplitName
from kdcli.data.feed import Part, Pictures, Plan, SourceFeed
from kdcli.data.source import ImageArrays
from kdcli.results.preprocessing import Preprocessing


class ResidentFeed(SourceFeed):
    """Pictures that lie on the device as a whole: a batch is an index."""

    resident = True

    def __init__(
        self, source: ImageArrays, info: DataInfo, rows: dict[SplitName, Tensor], plan: Plan
    ) -> None:
        super().__init__(source, info, rows, plan)
        self._stored = source.preprocessing.geometry()
        parts: dict[SplitName, Tensor] = {
            "train": source.x_train,
            "val": source.x_train,
            "test": source.x_test,
        }
        self._pixels = {
            name: _rows(parts[name], positions).to(plan.device) for name, positions in rows.items()
        }

    def _images(
        self,
        name: SplitName,
        parts: Iterable[Part],
        *,
        training: bool,
    ) -> Iterator[tuple[Sequence[Pictures], Part]]:
        for part in parts:
            images = self._pixels[name][part.index]
            changes = self._changes(part, training=training)
            augment = self.plan.augment
            if training and (augment.resized_crop or augment.paints):
                pictures = [
                    partial(self._one_by_one, images, each, seen.pixels)
                    for each, seen in zip(changes, self._seen, strict=True)
                ]
            else:
                # what several see is made once
                moved = Lazily({id(each): partial(self._moved, images, each) for each in changes})
                pictures = [
                    partial(self._all_at_once, moved, each, seen.pixels)
                    for each, seen in zip(changes, self._seen, strict=True)
                ]
            yield pictures, part

    def _moved(self, images: Tensor, change: Tensor | None) -> Tensor:
        return images if change is None else self.plan.augment.apply(images, change)

    def _all_at_once(
        self, moved: Mapping[int, Tensor], change: Tensor | None, seen: Preprocessing
    ) -> Tensor:
        return self._as_seen(moved[id(change)], seen)

    def _one_by_one(self, images: Tensor, changes: Tensor | None, seen: Preprocessing) -> Tensor:
        """The stored pictures, each with its change, as a network sees them."""
        if changes is None:
            return self._as_seen(images, seen)
        from kdcli.data.decode import changed

        size = (images.shape[2], images.shape[3])
        return torch.stack(
            [
                changed(seen, self.plan.augment, image, change, size)
                for image, change in zip(images, changes.tolist(), strict=True)
            ]
        )

    def _as_seen(self, images: Tensor, seen: Preprocessing) -> Tensor:
        """The stored pictures, changed, as a network sees them."""
        if seen.geometry()[1:] == self._stored[1:] and seen.size == tuple(images.shape[2:]):
            return images
        # torchvision takes over a second to import, and most runs see what is stored
        from kdcli.data.decode import fit

        return fit(images, seen)


def _rows(x: Tensor, positions: Tensor) -> Tensor:
    return x if len(positions) == len(x) else x[positions]  # a whole set is not copied
