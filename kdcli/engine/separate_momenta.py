"""Distillation-oriented trainer: SGD that keeps the momentum of labels and that of the distillation
apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from kdcli.engine.distributed import Ranks


class SeparateMomenta(torch.optim.Optimizer):
    """SGD whose two gradients, of the loss on labels and of the rest, have a buffer each.

        u = (momentum - dot) u + g_labels + weight_decay p
        w = (momentum + dot) w + g_rest
        p = p - lr (u + w)

    A parameter that one of the two alone reaches has `momentum` and its weight decay in that one's
    buffer. Paper: B. Zhao, Q. Cui, R. Song, J. Liang, DOT: a distillation-oriented trainer, ICCV
    2023, arXiv:2307.08436; mdistiller@a08d46f1 mdistiller/engine/dot.py takes the same steps.

    Gradients are not those that autograd leaves in parameters: `collect` takes them.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float,
        dot: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "dot": dot, "weight_decay": weight_decay}
        )
        self._parameters = [p for group in self.param_groups for p in group["params"]]
        # of each parameter, of labels and of the rest; None where nothing reached it
        self._gradients: list[list[Tensor | None]] = [[None] * len(self._parameters) for _ in "ab"]

    def collect(self, labels: Tensor | None, rest: Tensor | None) -> None:
        """Adds the gradients of both parts of a loss; None for a part that there is not."""
        parts = [part for part in (labels, rest) if part is not None]
        for number, part in enumerate((labels, rest)):
            if part is None:
                continue
            found = torch.autograd.grad(
                part, self._parameters, retain_graph=part is not parts[-1], allow_unused=True
            )
            held = self._gradients[number]
            for place, gradient in enumerate(found):
                if gradient is not None:
                    before = held[place]
                    held[place] = gradient if before is None else before + gradient

    def agree(self, ranks: Ranks) -> None:
        """The mean of what all ranks have collected, on each."""
        if ranks.size > 1:
            self._gradients = [
                [None if one is None else ranks.total(one) / ranks.size for one in held]
                for held in self._gradients
            ]

    def clip(self, norm: float) -> None:
        """Scales both gradients down alike, so that their sum has that norm at most."""
        sums = [a if b is None else b if a is None else a + b for a, b in self._pairs()]
        total = torch.nn.utils.get_total_norm([one for one in sums if one is not None])
        factor = (norm / (total + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        self._gradients = [
            [None if one is None else one * factor for one in held] for held in self._gradients
        ]

    def _pairs(self) -> Sequence[tuple[Tensor | None, Tensor | None]]:
        return list(zip(*self._gradients, strict=True))

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # it has no use for a closure
        """Takes a step by what was collected, and forgets it."""
        of_parameter = dict(zip(self._parameters, self._pairs(), strict=True))
        for group in self.param_groups:
            for parameter in group["params"]:
                self._step(parameter, of_parameter[parameter], group)
        self._gradients = [[None] * len(self._parameters) for _ in "ab"]

    def _step(
        self,
        parameter: Tensor,
        gradients: tuple[Tensor | None, Tensor | None],
        group: dict[str, float],
    ) -> None:
        both = None not in gradients
        decays = group["weight_decay"]
        for name, gradient, sign in zip(("labels", "rest"), gradients, (-1, 1), strict=True):
            if gradient is None:
                continue
            if decays:  # once, in the first buffer that there is
                gradient, decays = gradient.add(parameter, alpha=decays), 0.0  # noqa: PLW2901
            momentum = group["momentum"] + (sign * group["dot"] if both else 0.0)
            state = self.state[parameter]
            if name in state:
                state[name].mul_(momentum).add_(gradient)
            else:
                state[name] = torch.empty_like(parameter).copy_(gradient)
        for name, gradient in zip(("labels", "rest"), gradients, strict=True):
            if gradient is not None:
                parameter.add_(self.state[parameter][name], alpha=-group["lr"])
