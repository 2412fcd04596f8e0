"""A teacher whose logits are looked up in a table; its network is asked where there are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from kdcli.core.lazily import Lazily
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Output, Sees
from kdcli.engine.teachers.logit_table import LogitTable

_LOOK_AGAIN = 256  # lookups until a table that was not full is looked at again


class CachedTeacher(Teacher):
    """A teacher whose answers to training batches are looked up, and computed once where they are
    not there.

    All answers pass through the rows of the table, so they do not depend on whether one was stored
    before. For training batches
    only: an index of another split is another image.

    A lookup in the file makes a device wait for the host. Once the table is full, a copy of it on
    the device serves instead.

    Args:
        asked: who answers where the table does not.
        table: its answers.
        room: bytes that a copy on the batches' device may take; none unless given.
        agree: the largest of the ranks' numbers, where `asked` must be asked by all or by none.
    """

    def __init__(
        self,
        asked: Teacher,
        table: LogitTable,
        *,
        room: Callable[[], int] = lambda: 0,
        agree: Callable[[int], int] = int,
    ) -> None:
        self.asked = asked
        self.table = table
        self._room = room
        self._agree = agree
        self._copy: Tensor | None = None
        self._lookups = 0

    @property
    def network(self) -> Network:  # type: ignore[override]  # the teacher's own
        return self.asked.network

    @property
    def live(self) -> Teacher:
        return self.asked.live

    def expect(self, batches: Sequence[Batch]) -> None:
        """Computes what is missing of several minibatches at once, if anything was looked up
        before.
        """
        if self._lookups and self._copy is None and len(batches) > 1:
            self(_joined(batches))

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> Output:
        if taps:
            return self.asked(batch, taps)
        if self._copy is None and self._lookups % _LOOK_AGAIN == 0:
            self._copy = self._copied(batch.x.device)
        self._lookups += 1
        if self._copy is not None:
            words = self._copy.index_select(0, self.table.rows(batch.index, self._view(batch)))
            return Output(self.table.shape.unpack(words), {})
        logits, found = self.table.read(batch.index, self._view(batch))
        absent = (~found).nonzero().flatten()
        if self._agree(len(absent)):
            # who lacks nothing asks beside those that do
            places = absent if len(absent) else torch.zeros(1, dtype=torch.int64)
            part = _part(batch, places.to(batch.index.device))
            answers = self.asked(part).logits
            if len(absent):
                logits[absent] = self.table.write(part.index, self._view(part), answers)
        return Output(logits.to(batch.x.device), {})

    def _view(self, batch: Batch) -> Tensor:
        """[B]: the only view there is of images that the teacher sees as they are."""
        return batch.view if self.table.shape.views > 1 else torch.zeros_like(batch.view)

    def _copied(self, device: torch.device) -> Tensor | None:
        shape = self.table.shape
        unfit = 2 * shape.rows * shape.words > self._room() or self.table.filled < shape.rows
        if self._agree(int(unfit)):
            return None
        return self.table.copy(device)


def _joined(batches: Sequence[Batch]) -> Batch:
    x, y, index, view = (
        torch.cat([getattr(batch, name) for batch in batches])
        for name in ("x", "y", "index", "view")
    )

    def pictures(seen: Sees) -> Tensor:
        return torch.cat([batch.others[seen] for batch in batches])

    others = {seen: partial(pictures, seen) for seen in batches[0].others}
    return Batch(x, y, index, view, others=Lazily(others))


def _part(batch: Batch, places: Tensor) -> Batch:
    return batch if len(places) == len(batch.y) else batch.each(lambda rows: rows[places])
