"""Ranks: the processes that train one job together, each on its part of every minibatch. One process is rank 0 of 1.

Gradients are averaged by PyTorch's DistributedDataParallel. It wraps a stage's loss, so it sees what that stage trains and
nothing else; it does not broadcast buffers, which would overwrite the memory banks of all ranks but the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from kdcli.core.method import Method, Stage
from kdcli.core.types import Batch, Progress, Step

Forward = Callable[[Batch, Progress], Step]


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among `size`; torch.distributed's default group must exist where size is above 1."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """What torch.distributed says; alone where it was not initialised."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the rank that speaks and writes."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """The part of a minibatch that belongs to this rank. Parts are equal: the few samples that do not divide are left out."""
        if self.size == 1:
            return batch
        count = batch.y.shape[0] // self.size
        part = slice(self.rank * count, (self.rank + 1) * count)
        return Batch(batch.x[part], batch.y[part], batch.index[part], batch.view[part])

    def gather(self, tensor: Tensor) -> Tensor:
        """[B,...] of every rank in the order of ranks, which is that of the whole minibatch; without gradient."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        distributed.all_gather(parts, tensor.detach().contiguous())
        return torch.cat(parts)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.size == 1:
            return tensor
        summed = tensor.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def least(self, tensor: Tensor) -> Tensor:
        """The least over ranks, element by element."""
        if self.size == 1:
            return tensor
        lowest = tensor.detach().clone()
        distributed.all_reduce(lowest, distributed.ReduceOp.MIN)
        return lowest

    def agree(self, module: nn.Module) -> None:
        """Make buffers equal on all ranks by their mean: batch norms have seen different images."""
        if self.size > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.total(buffer) / self.size)

    def parallel(self, method: Method, stage: Stage) -> Forward:
        """A stage's loss whose backward pass averages gradients over ranks."""
        if self.size == 1:
            return stage.loss
        return cast("Forward", DistributedDataParallel(_StageLoss(method, stage.loss), broadcast_buffers=False))

    @contextmanager
    def accumulating(self, forward: Forward, *, last: bool) -> Iterator[None]:
        """Average gradients in the last minibatch of a step only."""
        if isinstance(forward, DistributedDataParallel) and not last:
            with forward.no_sync():
                yield
        else:
            yield


class _StageLoss(nn.Module):
    """A stage's loss as the forward pass of a module, because DistributedDataParallel wraps modules."""

    def __init__(self, method: Method, loss: Forward) -> None:
        super().__init__()
        self.method = method
        self._loss = loss

    def forward(self, batch: Batch, at: Progress) -> Step:
        """The stage's loss."""
        return self._loss(batch, at)
