"""Averages of a network's weights: a moving one, and one that begins late."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from kdcli.engine.distributed import Ranks
from kdcli.engine.settings import TrainSettings
from kdcli.results.measures import Measures


class MovingAverage(AveragedModel):
    """torch's AveragedModel with an exponential average: the same values and the same state,
    buffers those of the network.

    Differs: torch copies the number of updates to the device in each of them, which has the host
    wait for a GPU.

    Args:
        decay: what is kept of the average in each update, 0 to 1. The first takes the network's
            weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Takes the network's weights into the average."""
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(model.parameters())
        if int(self.n_averaged) == 0:  # on the CPU, wherever the weights are
            torch._foreach_copy_(ours, theirs)
        else:
            torch._foreach_lerp_(ours, theirs, 1 - self._decay)
        if buffers := list(self.module.buffers()):
            torch._foreach_copy_(buffers, list(model.buffers()))
        self.n_averaged += 1


class LateAverage(AveragedModel):
    """The mean of a network's weights over all steps since held-out data got no better; until then
    the weights themselves.

    That is NT-ASGD (S. Merity, N. S. Keskar, R. Socher, Regularizing and optimizing LSTM language
    models, arXiv:1708.02182, algorithm 1), whose steps are those of SGD: averaging begins after an
    epoch whose held-out loss is above the least of all but the last `patience` epochs before it.

    Args:
        patience: n of the paper.
    """

    losses: Tensor
    least: Tensor
    begun: Tensor

    def __init__(self, network: nn.Module, patience: int) -> None:
        super().__init__(network)
        # buffers, so that a state holds them: the last losses, oldest first, and the least before
        self.register_buffer("losses", torch.full((patience,), torch.inf, dtype=torch.float64))
        self.register_buffer("least", torch.tensor(torch.inf, dtype=torch.float64))
        self.register_buffer("begun", torch.tensor(data=False))

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Takes the network's weights into the average."""
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(model.parameters())
        counted = int(self.n_averaged)
        torch._foreach_lerp_(ours, theirs, 1 / (counted + 1))
        if buffers := list(self.module.buffers()):
            torch._foreach_copy_(buffers, list(model.buffers()))
        if bool(self.begun):
            self.n_averaged += 1

    def judge(self, loss: float) -> None:
        """Looks at the held-out loss after an epoch."""
        if loss > float(self.least):
            self.begun.fill_(value=True)
        # what falls out of the last ones counts from the next epoch on
        oldest = self.losses[0].clone()
        self.losses.copy_(torch.cat([self.losses[1:], self.losses.new_tensor([loss])]))
        self.least.copy_(torch.minimum(self.least, oldest))


Average = MovingAverage | LateAverage


def make_average(network: nn.Module, settings: TrainSettings) -> Average | None:
    """The average that the settings ask for; None for none."""
    if settings.ema is not None:
        return MovingAverage(network, settings.ema)
    if settings.average_after is not None:
        return LateAverage(network, settings.average_after)
    return None


def judge(average: Average | None, val: Measures | None, ranks: Ranks) -> None:
    """Has an average that waits for the held-out loss look at it: on all ranks at what the first
    has measured.
    """
    if isinstance(average, LateAverage):
        loss = ranks.from_first(lambda: None if val is None else val.nll)
        if loss is not None:
            average.judge(loss)
