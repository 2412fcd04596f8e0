"""Which class is taken for which."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcli.analysis.inputs import check_logits
from kdcli.errors import Incompatible


def confusion(logits: Tensor, targets: Tensor, num_classes: int) -> tuple[tuple[int, ...], ...]:
    """Counts [true][predicted] for logits [n,K] and targets [n]; rows of classes without samples
    are zero.

    Raises:
        Incompatible: num_classes is not K, or the shapes do not fit.
        BadData: see `check_logits`.
    """
    check_logits(logits, targets)
    if logits.shape[1] != num_classes:
        raise Incompatible(
            f"the network predicts {logits.shape[1]} classes, the data has {num_classes}"
        )
    cells = torch.bincount(targets * num_classes + logits.argmax(dim=1), minlength=num_classes**2)
    return tuple(tuple(row) for row in cells.view(num_classes, num_classes).tolist())
