"""LearntTemperature: a softmax temperature that is trained against the student."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcli.losses._inputs import full_precision


class LearntTemperature(nn.Module):
    """One temperature for all images, or one for each, that grows with the loss instead of falling
    with it.

        tau = least + (most - least) sigmoid(x)

    x is a parameter, or what two linear layers with a ReLU between them make of the probabilities
    that student and teacher give to an image. It starts at 1 for every image. tau stays within its
    bounds wherever x goes.

    Source: Li et al. 2023, Curriculum temperature for knowledge distillation; CTKD@8ca3ce81
    helper/loops.py for the bounds, logit-standardization-KD@6083e2de CTKD/models/temp_global.py for
    the parameter. Differs: the code for single images was not released; the paper's two layers are
    here, and the last begins with weights of 0. They read the probabilities without sending a
    gradient back to the student.

    Args:
        least, most: bounds of tau, 0 < least < most.
        classes: K, and width: hidden units, for one temperature an image; neither for one in all.
    """

    def __init__(
        self, least: float, most: float, *, classes: int = 0, width: int | None = None
    ) -> None:
        super().__init__()
        self.bounds = least, most
        if width is None:
            self.x = nn.Parameter(torch.ones(()))
            return
        self.hidden, self.last = nn.Linear(2 * classes, width), nn.Linear(width, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.ones_(self.last.bias)

    def forward(self, z: Tensor, v: Tensor, reversal: float) -> Tensor:
        """The temperature [] or [B] for logits [B,K] of student and teacher.

        Its gradient is multiplied by -reversal: who lowers a loss of it raises that loss.
        """
        x = self._read(z.detach().float(), v.detach().float())
        # the value is x itself
        x = x.detach() - reversal * (x - x.detach())
        least, most = self.bounds
        # rounding could leave the bounds by a bit
        return (least + (most - least) * x.sigmoid()).clamp(least, most)

    def _read(self, z: Tensor, v: Tensor) -> Tensor:
        if hasattr(self, "x"):
            return self.x
        with full_precision(z):
            both = torch.cat([z.softmax(-1), v.softmax(-1)], -1)
            return self.last(self.hidden(both).relu()).squeeze(-1)  # type: ignore[no-any-return]
