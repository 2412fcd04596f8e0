"""A feed whose images lie on the device as a whole: a batch is an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from kdcli.core.types import DataInfo, SplitName
from kdcli.data.feed import Part, Plan, SourceFeed
from kdcli.data.source import ImageArrays


class ResidentFeed(SourceFeed):
    """Pictures that lie on the device as a whole: a batch is an index."""

    resident = True

    def __init__(
        self, source: ImageArrays, info: DataInfo, rows: dict[SplitName, Tensor], plan: Plan
    ) -> None:
        super().__init__(source, info, rows, plan)
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
        training: bool,  # noqa: ARG002
    ) -> Iterator[tuple[Tensor, Part]]:
        for part in parts:
            yield self._pixels[name][part.index], part


def _rows(x: Tensor, positions: Tensor) -> Tensor:
    return x if len(positions) == len(x) else x[positions]  # a whole set is not copied
