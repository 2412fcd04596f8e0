"""Network: a classifier that names its own inner places, so that no method hooks into it by string
module paths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from kdcli.core.types import Output, Tap
from kdcli.errors import Incompatible
from kdcli.results.preprocessing import Sight


class Blueprint(NamedTuple):
    """A recipe for building a network again: a name of the zoo and its constructor arguments, as
    JSON can hold them.
    """

    architecture: str
    arguments: Mapping[str, Any]


# what a network may say of the pixels that it was trained on, as its input_*: all but how many
# channels they have, which its first layer says
SAID_OF_PIXELS = tuple(field.name for field in fields(Sight) if field.name != "channels")


def tell_sight(network: Network, sight: Sight) -> None:
    """Sets a network's input_* to what is known of the pixels that it was trained on."""
    for name in SAID_OF_PIXELS:
        setattr(network, f"input_{name}", getattr(sight, name))


def parameter_count(network: nn.Module) -> int:
    """Number of parameters, trainable or frozen; running statistics do not count."""
    return sum(parameter.numel() for parameter in network.parameters())


class Network(nn.Module, ABC):
    """A classifier with declared taps.

    Tap names are shared by every family: "stem", "stage1".."stageN" (after the stage's last ReLU),
    "stageN.pre" (before it), "pooled" (the vector that feeds the head). A network of tokens also
    has "blockN", the tokens of the picture after its N-th block, as a map.

    blueprint: set by whoever built it by name; a checkpoint's header says it. None for a network
    that nobody could build again. new_head: what the head that its pretrained weights came with
    predicts, where it is not that one but a fresh one; "" elsewhere.

    distilled: how many numbers of "pooled" the class token gives, and how many, behind those, the
    distillation token: the head then answers the mean of two layers' logits, one on each. None
    where it reads one thing.
    context: tokens of a text that it reads at once; None where there is no bound.

    input_*: the pixels that its weights were trained on, as far as whoever built it knows: what it
    sees as a teacher, unless the recipe says otherwise. input_size: height and width, as which a
    picture is cut out of its middle. input_resize: the shorter side that it is resized to before,
    or height and width whatever its shape is. input_interpolation: nearest, bilinear, bicubic or
    lanczos. input_resampler: pillow or torchvision (of tensors). input_mean, input_std: of each
    channel, of pixels in [0, 1]. None: as the data's.
    """

    taps: Mapping[str, Tap]
    head: nn.Linear
    blueprint: Blueprint | None = None
    new_head: str = ""
    distilled: tuple[int, int] | None = None
    context: int | None = None
    input_size: tuple[int, int] | None = None
    input_resize: int | tuple[int, int] | None = None
    input_interpolation: str | None = None
    input_resampler: str | None = None
    input_mean: tuple[float, ...] | None = None
    input_std: tuple[float, ...] | None = None

    @abstractmethod
    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        """Logits [B,K] of images x [B,C,H,W], and the named taps.

        Raises:
            Incompatible: a tap that is not in `self.taps`.
        """

    @abstractmethod
    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        """The modules that a tap's value depends on, in order: what a hint stage trains."""

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits [B,K] of pooled vectors [B,D], in float32 at least: bfloat16 would leave two
        digits of what losses soften.
        """
        traced: object = pooled
        # a tracer asks what calls what, and knows no device; shapes are computed on one that has no
        # precision; what is exported has the precision of its weights
        if isinstance(traced, fx.Proxy) or pooled.is_meta or torch.compiler.is_exporting():
            return self.head(traced)  # type: ignore[no-any-return]
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(pooled.to(torch.promote_types(pooled.dtype, torch.float32)))  # type: ignore[no-any-return]

    def tail(self, tap: str) -> nn.Module:
        """What follows a tap, as a module from its value to logits [B,K]; of the network's own
        parts, not copies.

        Raises:
            Incompatible: this kind of network cannot be cut there.
        """
        raise Incompatible(
            f"{getattr(self, 'name', type(self).__name__)} cannot be cut after {tap!r}: what comes "
            "behind it is no row of stages",
            hint="one of kd's own convolutional networks, such as resnet20 or cnn-small",
        )

    def linear_heads(self) -> tuple[nn.Linear, ...]:
        """The layers whose weights and biases, all divided by one number, divide the logits by it;
        none where there are no such layers.
        """
        # a kind of linear layer of its own may do anything with its weights
        return (self.head,) if type(self.head) is nn.Linear else ()

    def logits_divided(self, divisor: float) -> None:
        """Told that the weights of `linear_heads` were divided by a number, after training: for a
        network that reads them elsewhere too.
        """

    def norm_at(self, tap: str) -> nn.BatchNorm2d | None:  # noqa: ARG002  families override it
        """The batch norm that feeds a ".pre" tap, or None where the family has none there."""
        return None
