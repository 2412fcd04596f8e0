"""Random logits for the loss tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def logits() -> Callable[..., Tensor]:
    """logits(seed, rows=6, classes=5, scale=3): float64, the same on every call."""

    def make(seed: int, rows: int = 6, classes: int = 5, scale: float = 3.0) -> Tensor:
        return scale * torch.randn(
            rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )

    return make
