"""A batch norm of vectors that takes a minibatch of one."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class VectorNorm(nn.BatchNorm1d):
    """A batch norm that falls back on its running statistics where there is one vector, which has
    no variance. In float32 at least.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B,D] to [B,D]."""
        x = x if x.dtype.itemsize > 2 else x.float()
        if self.training and len(x) == 1:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)
