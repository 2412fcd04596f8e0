"""What is kept of a text while a network reads it, besides the logits of some of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from kdcli.analysis.text_gap import Read
from kdcli.core.tokenizer import LINE
from kdcli.core.types import Batch, DataInfo
from kdcli.data.datasets.text import END

OPENING = 240  # tokens from the beginning of the split that are kept whole


class Reading:
    """Goes along with a pass over a text.

    Args:
        info: of the data. every: of how many rows one is kept, as `collect` keeps them.
    """

    def __init__(self, info: DataInfo, every: int) -> None:
        names = info.class_names
        self._end = next((names.index(end) for end in (END, *LINE) if end in names), None)
        self._every, self._passed, self._length = every, 0, 0
        self._since = torch.zeros(0, dtype=torch.int64)
        self._places: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same minibatches."""
        for batch in batches:
            y = batch.y.view(len(batch.x), -1).cpu()  # [B,L], part by part
            places = self._in_line(y, new=batch.window == 0).flatten()
            self._places.append(places[-self._passed % self._every :: self._every].clone())
            self._passed += len(places)
            self._length = y.shape[1]
            yield batch

    def _in_line(self, y: Tensor, *, new: bool) -> Tensor:
        """Tokens before each target in its line, [B,L]; lines go on from window to window."""
        rows, length = y.shape
        if new or len(self._since) != rows:
            self._since = torch.zeros(rows, dtype=torch.int64)
        place = torch.arange(length)
        # where the line of each target began in this window, 0 where before it
        behind = torch.where(y == (-1 if self._end is None else self._end), place + 1, 0)
        reached = behind.cummax(1).values
        began = torch.cat([torch.zeros(rows, 1, dtype=torch.int64), reached[:, :-1]], dim=1)
        found = place - began + torch.where(began == 0, self._since[:, None], 0)
        last = reached[:, -1]
        self._since = torch.where(last > 0, length - last, self._since + length)
        return found

    def seen(self, logits: Tensor, targets: Tensor) -> None:
        """Told the logits and targets of each minibatch: keeps the first part's first ones."""
        missing = OPENING - sum(map(len, self._targets))
        if missing > 0:
            count = min(missing, self._length)
            self._logits.append(logits[:count].clone())
            self._targets.append(targets[:count].clone())

    @property
    def read(self) -> Read | None:
        """What was kept; None of nothing."""
        if not self._places or not self._logits:
            return None
        return Read(
            torch.cat(self._places), torch.cat(self._logits), torch.cat(self._targets), self._end
        )
