"""Ranks: the processes that train one job together, each on its part of every minibatch. One
process is rank 0 of 1.

Gradients are averaged by PyTorch's DistributedDataParallel. It wraps a stage's loss, so it sees
what that stage trains and nothing else; it does not broadcast buffers, which would overwrite the
memory banks of all ranks but the first.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from kdcli.core.method import Method, Stage
from kdcli.core.types import Batch, Progress, Step
from kdcli.engine.checkpoint import digest
from kdcli.errors import KdError, RankLost

Forward = Callable[[Batch, Progress], Step]
T = TypeVar("T")

TALK_SECONDS = 0.5  # between the steps at which ranks ask each other whether to stop or to save


class Following:
    """How the first rank, while it makes something alone, has the others ask the same of networks
    of which each rank holds a part: gathering one takes all of them.

    All ranks add the same networks in the same order.
    """

    def __init__(self) -> None:
        self._networks: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()
        self._added = 0
        self.leads = False

    def add(self, network: nn.Module) -> int:
        """Takes a network in; returns its number."""
        self._added += 1
        self._networks[self._added] = network
        return self._added

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Around what the first rank makes alone."""
        before, self.leads = self.leads, True
        try:
            yield
        finally:
            self.leads = before

    def lead(self, number: int, x: Tensor, taps: tuple[str, ...]) -> None:
        """Tells the others what a network is about to be asked, where this rank asks it alone."""
        if not self.leads:
            return
        kind = x.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        asked = (number, tuple(x.shape), x.dtype, x.device.type, taps, low)
        distributed.broadcast_object_list([None, None, asked])
        distributed.broadcast(x.clone(memory_format=torch.contiguous_format), 0)

    def follow(self, asked: Any) -> None:
        """Asks a network what the first rank asks it; nobody needs the answer."""
        number, shape, dtype, kind, taps, low = asked
        x = torch.empty(shape, dtype=dtype, device=kind)
        distributed.broadcast(x, 0)
        with torch.autocast(kind, dtype=low, enabled=low is not None):
            self._networks[number](x, taps)


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among `size`; torch.distributed's default group must exist, with gloo for the
    CPU, where size is above 1.
    """

    rank: int = 0
    size: int = 1
    following: Following = field(default_factory=Following, compare=False, repr=False)

    @classmethod
    def current(cls) -> Ranks:
        """The rank that torch.distributed has for this process; alone where it is not in use."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """True for the rank that speaks and writes."""
        return self.rank == 0

    # ---- minibatches -----------------------------------------------------------------------------

    def part(self, count: int) -> slice:
        """The part of a minibatch's samples that is this rank's; parts differ by one at most.

        All of them where a rank would get fewer than two, which batch norms and relations need:
        then every rank does the same.
        """
        if count < 2 * self.size:
            return slice(0, count)
        least, rest = divmod(count, self.size)
        start = self.rank * least + min(self.rank, rest)
        return slice(start, start + least + (self.rank < rest))

    def largest_part(self, count: int) -> int:
        """The samples that a rank gets of a minibatch of `count`, the most of any."""
        return count if count < 2 * self.size else -(-count // self.size)

    def share(self, batch: Batch) -> Batch:
        """The part of a minibatch that is this rank's, as which the feed may give it already."""
        if self.size == 1 or batch.whole:
            return batch
        count = batch.y.shape[0]
        part = self.part(count)
        return replace(batch.each(lambda rows: rows[part]), whole=count)

    def weight(self, batch: Batch) -> float:
        """The factor of this rank's loss that makes the mean over ranks that over the minibatch."""
        own = batch.y.shape[0]
        return 1.0 if batch.whole in {0, own} else own * self.size / batch.whole

    def counts(self, batch: Batch) -> bool:
        """True if this rank counts its samples: what every rank did is counted once."""
        return self.first or batch.whole != batch.y.shape[0]

    # ---- talking to each other -------------------------------------------------------------------

    def gather(self, tensor: Tensor) -> Tensor:
        """[B_r,...] of every rank r in the order of ranks, which is that of the whole minibatch;
        without gradient.
        """
        if self.size == 1:
            return tensor
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = tensor.shape[0]
        distributed.all_reduce(counts)
        own = tensor.detach().new_zeros((int(counts.max()), *tensor.shape[1:]))
        own[: tensor.shape[0]] = tensor.detach()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(parts, own)
        return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)])

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.size == 1:
            return tensor
        summed = tensor.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def most(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        if self.size == 1:
            return number
        largest = torch.tensor(number)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def every(self, item: T) -> list[T]:
        """The ranks' small objects, in their order."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        distributed.all_gather_object(items, item)
        return items

    def from_first(self, make: Callable[[], T]) -> T:
        """The object that rank 0 makes, on every rank; the others wait for it, and meanwhile follow
        it where it asks a network of which each holds a part.

        Raises:
            KdError: what `make` raised on rank 0, on every rank.
        """
        if self.size == 1:
            return make()
        told: list[Any] = [None, None, None]  # what was made, an error, or what is asked meanwhile
        if self.first:
            try:
                with self.following.leading():
                    told[0] = make()
            except KdError as error:
                told[1] = error
        distributed.broadcast_object_list(told)
        while told[2] is not None:
            self.following.follow(told[2])
            told = [None, None, None]
            distributed.broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        return cast("T", told[0])

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Turns the error of waiting for a rank that ended into RankLost.

        Raises:
            RankLost: another rank ended while this one waited for it.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not (
                isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
            ):
                raise
            raise RankLost(f"rank {self.rank} waited for another one that ended") from error

    # ---- training --------------------------------------------------------------------------------

    def agree(self, *modules: nn.Module | None) -> None:
        """Makes buffers equal on all ranks by their mean: batch norms have seen different
        images.
        """
        if self.size == 1:
            return
        for buffer in (
            buffer for module in modules if module is not None for buffer in module.buffers()
        ):
            if buffer.is_floating_point():
                buffer.copy_(self.total(buffer) / self.size)

    def differing(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On rank 0, the tensors that others hold with other values, as "rank1.NAME": for a state
        from which `own` restores every rank.
        """
        if self.size == 1:
            return {}
        ours = {name: digest({name: tensor}) for name, tensor in tensors.items()}
        first = self.from_first(lambda: ours)
        other = {
            f"rank{self.rank}.{name}": tensor.detach().cpu()
            for name, tensor in tensors.items()
            if ours[name] != first.get(name)
        }
        gathered: list[dict[str, Tensor]] | None = (
            [{} for _ in range(self.size)] if self.first else None
        )
        distributed.gather_object(other, gathered)
        return {name: tensor for part in gathered or () for name, tensor in part.items()}

    def own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of this rank: that of rank 0, and over it what `differing` found."""
        mine = f"rank{self.rank}."
        return {
            **tensors,
            **{
                name.removeprefix(mine): tensor
                for name, tensor in tensors.items()
                if name.startswith(mine)
            },
        }

    def parallel(self, method: Method, stage: Stage) -> Forward:
        """A stage's loss whose backward pass averages gradients over ranks."""
        if self.size == 1:
            return stage.loss
        with warnings.catch_warnings():
            # its new name says less: buffers would be broadcast when it is made
            warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
            return cast(
                "Forward",
                DistributedDataParallel(_StageLoss(method, stage.loss), broadcast_buffers=False),
            )

    @contextmanager
    def accumulating(self, forward: Forward, *, last: bool) -> Iterator[None]:
        """Average gradients in the last minibatch of a step only."""
        if isinstance(forward, DistributedDataParallel) and not last:
            with forward.no_sync():
                yield
        else:
            yield


class Pace:
    """The steps at which ranks talk to each other: the same on all, about twice a second; every
    step for one alone.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._every = self._left = 1
        self._since = time.monotonic()

    def due(self) -> bool:
        """True at a step at which to talk; asked once a step."""
        if self._ranks.size == 1:
            return True
        self._left -= 1
        if self._left > 0:
            return False
        seconds = max(time.monotonic() - self._since, 1e-6)
        # one quick step is no promise
        wanted = int(min(self._every * TALK_SECONDS / seconds, 2.0 * self._every))
        self._every = self._left = max(self._ranks.most(wanted), 1)
        self._since = time.monotonic()
        return True


class _StageLoss(nn.Module):
    """A stage's loss as the forward pass of a module, because DistributedDataParallel wraps
    modules.
    """

    def __init__(self, method: Method, loss: Forward) -> None:
        super().__init__()
        self.method = method
        self._loss = loss

    def forward(self, batch: Batch, at: Progress) -> Step:
        """The stage's loss."""
        return self._loss(batch, at)
