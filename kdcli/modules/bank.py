"""The memory of contrastive distillation: a bank with a vector for each training sample, and
samples of other classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcli.core import random
from kdcli.losses._inputs import full_precision, precise


class MemoryBank(nn.Module):
    """A vector for each sample, and the constant Z that scores against the bank are divided by.

    Both are buffers, so they are saved and resumed. Like a batch norm's statistics they move in
    train mode only.
    Source: Wu et al. 2018, Unsupervised feature learning via non-parametric instance
    discrimination, sections 3.1 and 3.2; RepDistiller@5237c1fd crd/memory.py. Differs: Z, the mean
    over all ranks' first minibatch, is set without waiting for the device; where a minibatch holds
    a sample twice, its last vector is kept.

    Args:
        samples: rows. width: D.
    """

    memory: Tensor
    normaliser: Tensor

    def __init__(self, samples: int, width: int) -> None:
        super().__init__()
        bound = (3 / width) ** 0.5  # then the rows have norm 1 on average
        self.register_buffer("memory", torch.empty(samples, width).uniform_(-bound, bound))
        self.register_buffer("normaliser", torch.zeros(()))  # 0 until the first minibatch

    def ratios(
        self, vectors: Tensor, index: Tensor, temperature: float, gather: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """exp(<row, vector> / temperature) / Z.

        Args:
            vectors: [N,D]. index: [N,J] rows of the bank, none of them twice in a line.
            temperature: above 0. gather: over ranks.

        Returns:
            [N,J]; the gradient reaches the vectors alone.
        """
        vectors = precise(vectors)
        with full_precision(vectors):
            # all rows, then the few that count: cheaper than [N,J,D]. A copy, because rows move
            # before gradients are taken
            products = vectors @ self.memory.clone().T
        scores = (products.gather(1, index) / temperature).exp()
        first = gather(scores.detach().mean().view(1)).mean() * len(self.memory)
        z = torch.where(self.normaliser == 0, first, self.normaliser)
        if self.training:
            self.normaliser.copy_(z)
        return scores / z

    @torch.no_grad()
    def update(self, index: Tensor, vectors: Tensor, momentum: float) -> None:
        """Moves rows toward vectors: row = normalise(momentum row + (1 - momentum) vector). index
        [N], vectors [N,D].
        """
        if not self.training:
            return
        positions = torch.arange(len(index), device=index.device)
        same = index.unsqueeze(1) == index
        # equal values for equal rows: the order of writing does not matter
        last = (same * positions).amax(1)
        moved = momentum * self.memory[index] + (1 - momentum) * precise(vectors)[last]
        self.memory[index] = functional.normalize(moved, dim=1)


class ClassSampler(nn.Module):
    """Draws samples of the same class and of other classes, on the device, as a function of a key
    and of the sample.

    Source: RepDistiller@5237c1fd dataset/cifar100.py, which draws in the loader. Differs: the
    samples of other classes are always drawn without replacement; the samples of one minibatch read
    theirs from one shuffled list, each beginning at a place of its own. A sample's negatives are a
    simple random draw, those of two samples of a minibatch are not independent.

    Args:
        targets: [num_train] int64, the class of each training sample.
    """

    targets: Tensor
    by_class: Tensor
    starts: Tensor
    counts: Tensor

    def __init__(self, targets: Tensor) -> None:
        super().__init__()
        counts = torch.bincount(targets)
        self.largest = int(counts.max())
        for name, value in (
            ("targets", targets.clone()),
            ("by_class", torch.argsort(targets, stable=True)),
            ("starts", counts.cumsum(0) - counts),
            ("counts", counts),
        ):
            self.register_buffer(name, value, persistent=False)  # follows from the data

    @property
    def others(self) -> int:
        """Samples of other classes that a sample of the largest class has."""
        return len(self.targets) - self.largest

    def sample_same(self, index: Tensor, stream: int) -> Tensor:
        """For each sample one of its class, itself included. index [N], returns [N]. stream: a key
        of kdcli.core.random.
        """
        classes = self.targets[index]
        return self.by_class[
            self.starts[classes] + random.integers(stream, index, self.counts[classes])
        ]

    def sample_others(self, index: Tensor, count: int, stream: int) -> Tensor:
        """For each sample `count` different ones of other classes. index [N], count at most
        `others`, returns [N,count].
        """
        total = len(self.targets)
        shuffled = torch.argsort(random.bits(stream, self.by_class))
        # as long as needed even if all of the sample's class lie in it
        length = min(total, count + self.largest)
        begin = random.integers(random.key(stream, "begin"), index, total)
        window = shuffled[(begin.unsqueeze(1) + torch.arange(length, device=index.device)) % total]
        other = self.targets[window] != self.targets[index].unsqueeze(1)
        place = other.cumsum(1)
        wanted = other & (place <= count)
        # what is not wanted goes to one slot more, which is cut off
        slot = (place - 1).masked_fill(~wanted, count)
        return window.new_empty(len(index), count + 1).scatter_(1, slot, window)[:, :count]
