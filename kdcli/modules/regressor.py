"""Regressor: a student's map made comparable with a teacher's by one convolution."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from kdcli.core.types import Tap
from kdcli.errors import Incompatible


class Regressor(nn.Module):
    """The connector of FitNet and AB: the student's map at a tap, in the teacher's channels and
    near its size.

        strides                    convolution (with bias), then batch norm, then ReLU
        teacher = 2 student        3x3, stride 2, padding 1
        student = 2 teacher        transposed 4x4, stride 2, padding 1
        equal                      1x1
        any other                  1x1; before it, a larger student map is average-pooled to the
        teacher's size

    Source: Romero et al. 2015, FitNets, section 2.2 (a convolutional regressor);
    RepDistiller@5237c1fd models/util.py ConvReg.
    Differs: that code reads sizes from a forward pass and refuses other ratios; here strides are
    declared. A map whose sides the strides do not divide can come out one pixel off, and a
    teacher's map that is more than twice as large stays larger: the loss brings both to one size
    (losses.fitnet and losses.ab do).

    Args:
        student: the tap that is read.
        teacher: the tap whose shape is wanted.
        relu: end with a ReLU, as for maps after an activation.
        norm: batch norm after the convolution.

    Raises:
        Incompatible: a tap that is a vector.
    """

    def __init__(self, student: Tap, teacher: Tap, *, relu: bool = True, norm: bool = True) -> None:
        super().__init__()
        if student.stride is None or teacher.stride is None:
            raise Incompatible(
                "a convolutional regressor connects two feature maps, and one of these taps "
                "is a vector"
            )
        self.strides = student.stride, teacher.stride
        self.conv = _conv(student.channels, teacher.channels, student.stride, teacher.stride)
        self.norm = nn.BatchNorm2d(teacher.channels) if norm else nn.Identity()
        self.activation = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B,C of the student,H,W] to [B,C of the teacher,H',W']."""
        return self.activation(self.norm(self.conv(self._pooled(x))))  # type: ignore[no-any-return]

    def _pooled(self, x: Tensor) -> Tensor:
        ours, theirs = self.strides
        if theirs <= ours or theirs == 2 * ours:
            return x
        height, width = (-(-side * ours // theirs) for side in x.shape[2:])
        return functional.adaptive_avg_pool2d(x, (height, width))


def _conv(channels_in: int, channels: int, ours: int, theirs: int) -> nn.Module:
    if theirs == 2 * ours:
        return nn.Conv2d(channels_in, channels, kernel_size=3, stride=2, padding=1)
    if ours == 2 * theirs:
        return nn.ConvTranspose2d(channels_in, channels, kernel_size=4, stride=2, padding=1)
    return nn.Conv2d(channels_in, channels, kernel_size=1)
