"""What a network has answered to the pictures that each run of a sweep asks it about again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from kdcli.core.types import Output


class _Row(NamedTuple):
    """Where an answer is: in which of the outputs that are kept, and at which place there."""

    output: Output
    place: int


class KnownAnswers:
    """Answers by the pixels of each picture and the shape, precision and number of threads in which
    it was asked about: whoever asks again gets the same bits (see `kdcli.core.types.filled_up`).

    Args:
        room: bytes that they may take. Where they need more, all are forgotten and no more are
            kept: to look for what is not there costs time, too.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._found: dict[bytes, _Row] = {}

    def answer(self, ask: Callable[[Tensor], Output], x: Tensor, taps: tuple[str, ...]) -> Output:
        """Answers to images x [B,C,H,W].

        Args:
            ask: answers those at places [M] among them, asked in a batch of B, by an output of B
                rows of which the first M count.
        """
        if self._room < 0:
            return ask(torch.arange(len(x), device=x.device))
        keys = _keys(x, taps)
        absent = [place for place, key in enumerate(keys) if key not in self._found]
        rows = {key: self._found[key] for key in keys if key in self._found}
        if absent:
            output = ask(torch.tensor(absent, device=x.device))
            new = {keys[place]: _Row(output, row) for row, place in enumerate(absent)}
            rows |= new
            self._keep(output, new)
        return _joined([rows[key] for key in keys])

    def _keep(self, output: Output, rows: Mapping[bytes, _Row]) -> None:
        size = sum(part.nbytes for part in (output.logits, *output.taps.values()))
        if size > self._room:
            self._found, self._room = {}, -1
        else:
            self._found.update(rows)
            self._room -= size


def _joined(rows: list[_Row]) -> Output:
    """Copies: what is kept belongs to nobody who may write to it."""
    parts = []
    for _, group in groupby(rows, key=lambda row: id(row.output)):
        same = list(group)
        places = torch.tensor([row.place for row in same], device=same[0].output.logits.device)
        output = same[0].output
        parts.append(
            Output(output.logits[places], {tap: at[places] for tap, at in output.taps.items()})
        )
    if len(parts) == 1:
        return parts[0]
    return Output(
        torch.cat([part.logits for part in parts]),
        {tap: torch.cat([part.taps[tap] for part in parts]) for tap in parts[0].taps},
    )


def _keys(x: Tensor, taps: tuple[str, ...]) -> list[bytes]:
    kind = x.device.type
    mixed = torch.is_autocast_enabled(kind)
    circumstances = (
        tuple(x.shape),
        x.stride(),
        x.dtype,
        x.device,
        taps,
        torch.get_num_threads(),
        mixed and torch.get_autocast_dtype(kind),
    )
    shared = hashlib.blake2b(repr(circumstances).encode(), digest_size=16)
    pixels = x.detach().flatten(1).contiguous().cpu().view(torch.uint8).numpy()
    keys = []
    for row in pixels:
        one = shared.copy()
        one.update(row.data)
        keys.append(one.digest())
    return keys
