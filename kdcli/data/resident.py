"""A feed whose images lie on the device as a whole: a batch is an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from kdcli.core.types import DataInfo, SplitName
from kdcli.data.feed import Part, Plan, SourceFeed
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
    ) -> Iterator[tuple[Sequence[Tensor], Part]]:
        for part in parts:
            images = self._pixels[name][part.index]
            changes = self._changes(part, training=training)
            augment = self.plan.augment
            if training and (augment.resized_crop or augment.paints):
                yield self._one_by_one(images, changes), part
                continue
            # what several see is made once
            moved = {
                id(each): images if each is None else augment.apply(images, each)
                for each in changes
            }
            yield (
                [
                    self._as_seen(moved[id(each)], seen.pixels)
                    for each, seen in zip(changes, self._seen, strict=True)
                ],
                part,
            )

    def _one_by_one(self, images: Tensor, changes: Sequence[Tensor | None]) -> Sequence[Tensor]:
        """The stored pictures, each with its change, as every network sees them."""
        from kdcli.data.decode import changed

        size = (images.shape[2], images.shape[3])
        return [
            self._as_seen(images, seen.pixels)
            if each is None
            else torch.stack(
                [
                    changed(seen.pixels, self.plan.augment, image, change, size)
                    for image, change in zip(images, each.tolist(), strict=True)
                ]
            )
            for each, seen in zip(changes, self._seen, strict=True)
        ]

    def _as_seen(self, images: Tensor, seen: Preprocessing) -> Tensor:
        """The stored pictures, changed, as a network sees them."""
        if seen.geometry()[1:] == self._stored[1:] and seen.size == tuple(images.shape[2:]):
            return images
        # torchvision takes over a second to import, and most runs see what is stored
        from kdcli.data.decode import fit

        return fit(images, seen)


def _rows(x: Tensor, positions: Tensor) -> Tensor:
    return x if len(positions) == len(x) else x[positions]  # a whole set is not copied
