"""The stages of torchvision's families: for each, the steps from tap to tap, by the paths of its
own modules.

A map is tapped where the resolution is about to drop, as the distillation literature does. ".pre"
is the map before the stage's last activation; the families whose stages end in a linear layer
(inverted residuals, ConvNeXt) have it equal to the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck

_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu()": functional.relu,
    "pool()": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "flatten()": lambda x: torch.flatten(x, 1),
}
# ends the path of a residual block of which only the sum is wanted, not the activation after it
_SUM = "+"


@dataclass(frozen=True, slots=True)
class Plan:
    """parts: tap -> steps from the tap before it. tail: steps from the last tap to "pooled". norms:
    ".pre" tap -> the norm that feeds it.

    A step is the path of a module, or one of the functions that torchvision's own forward calls.
    """

    parts: Mapping[str, Sequence[str]]
    tail: Sequence[str]
    norms: Mapping[str, str] = field(default_factory=dict)

    def walk(
        self, net: nn.Module, x: Tensor, taps: tuple[str, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Pooled features [B,D] of pictures x [B,3,H,W], and the taps asked for."""
        kept: dict[str, Tensor] = {}
        for tap, steps in self.parts.items():
            for step in steps:
                x = _take(net, step, x)
            if tap in taps:
                kept[tap] = x
                if tap.endswith(".pre"):
                    x = x.clone()  # torchvision's activations work in place
        for step in self.tail:
            x = _take(net, step, x)
        return x, kept

    def modules(self, net: nn.Module, upto: str) -> tuple[nn.Module, ...]:
        """The modules that a tap depends on, in order."""
        names = list(self.parts)
        used = [step for name in names[: names.index(upto) + 1] for step in self.parts[name]]
        return tuple(
            net.get_submodule(step.removesuffix(_SUM)) for step in used if step not in _FUNCTIONS
        )


def plan_for(net: nn.Module) -> Plan | None:
    """The plan of a torchvision network, or None for a family that has none here: such networks
    have "pooled" only.
    """
    return next((make(net) for family, make in _FAMILIES if isinstance(net, family)), None)


def _take(net: nn.Module, step: str, x: Tensor) -> Tensor:
    if step in _FUNCTIONS:
        return _FUNCTIONS[step](x)
    if step.endswith(_SUM):
        return _residual_sum(net.get_submodule(step.removesuffix(_SUM)), x)
    found: Tensor = net.get_submodule(step)(x)
    return found


def _residual_sum(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    """A residual block up to its last ReLU: a place that its own forward does not give out."""
    shortcut = x if block.downsample is None else block.downsample(x)
    x = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    if isinstance(block, Bottleneck):
        x = block.bn3(block.conv3(block.relu(x)))
    return x + shortcut


def _resnet(net: models.ResNet) -> Plan:
    parts: dict[str, Sequence[str]] = {"stem": ("conv1", "bn1", "relu")}
    norms: dict[str, str] = {}
    for number in range(1, 5):
        layer = net.get_submodule(f"layer{number}")
        *before, last = (f"layer{number}.{index}" for index in range(len(layer)))
        lead = ("maxpool",) if number == 1 else ()
        parts[f"stage{number}.pre"] = (*lead, *before, last + _SUM)
        parts[f"stage{number}"] = (f"{last}.relu",)
        norms[f"stage{number}.pre"] = (
            f"{last}.bn3" if isinstance(layer[-1], Bottleneck) else f"{last}.bn2"
        )
    return Plan(parts, ("avgpool", "flatten()"), norms)


def _vgg(net: models.VGG) -> Plan:
    """Five blocks between pools: the first is the stem, as in RepDistiller's VGG."""
    parts: dict[str, Sequence[str]] = {}
    norms: dict[str, str] = {}
    start = 0
    pools = [index for index, layer in enumerate(net.features) if isinstance(layer, nn.MaxPool2d)]
    for number, pool in enumerate(pools):
        steps = [f"features.{index}" for index in range(start, pool)]
        if number == 0:
            parts["stem"] = steps
        else:
            parts[f"stage{number}.pre"], parts[f"stage{number}"] = steps[:-1], steps[-1:]
            if isinstance(net.features[pool - 2], nn.BatchNorm2d):
                norms[f"stage{number}.pre"] = steps[-2]
        start = pool
    return Plan(parts, (f"features.{pools[-1]}", "avgpool", "flatten()", "classifier"), norms)


def _densenet(_: models.DenseNet) -> Plan:
    parts = {
        "stem": ("features.conv0", "features.norm0", "features.relu0"),
        "stage1": ("features.pool0", "features.denseblock1"),
    }
    for number in range(2, 5):
        parts[f"stage{number}"] = (
            f"features.transition{number - 1}",
            f"features.denseblock{number}",
        )
    return Plan(parts, ("features.norm5", "relu()", "pool()", "flatten()"))


def _shufflenet(_: models.ShuffleNetV2) -> Plan:
    parts = {
        "stem": ("conv1",),
        "stage1": ("maxpool", "stage2"),
        "stage2": ("stage3",),
        "stage3": ("stage4",),
    }
    return Plan(parts, ("conv5", "pool()", "flatten()"))


def _regnet(_: models.RegNet) -> Plan:
    blocks = {f"stage{number}": (f"trunk_output.block{number}",) for number in range(1, 5)}
    return Plan({"stem": ("stem",), **blocks}, ("avgpool", "flatten()"))


def _sequence(net: nn.Module, ends: Sequence[int], tail: Sequence[str]) -> Plan:
    """A plan for networks that are a row of `features`: the first is the stem, `ends` are the last
    ones of each stage.
    """
    count = len(net.get_submodule("features"))  # type: ignore[arg-type]
    parts: dict[str, Sequence[str]] = {"stem": ("features.0",)}
    start = 1
    for number, end in enumerate(ends, 1):
        parts[f"stage{number}.pre"] = [f"features.{index}" for index in range(start, end + 1)]
        parts[f"stage{number}"] = ()
        start = end + 1
    return Plan(parts, (*(f"features.{index}" for index in range(start, count)), *tail))


def _mobilenet_v3(net: models.MobileNetV3) -> Plan:
    large = len(net.features) > 13
    return _sequence(
        net, (3, 6, 12, 15) if large else (1, 3, 8, 11), ("avgpool", "flatten()", "classifier")
    )


_FAMILIES: Sequence[tuple[type[nn.Module], Callable[..., Plan]]] = (
    (models.ResNet, _resnet),
    (models.VGG, _vgg),
    (models.DenseNet, _densenet),
    (models.ShuffleNetV2, _shufflenet),
    (models.RegNet, _regnet),
    (
        models.MobileNetV2,
        lambda net: _sequence(net, (3, 6, 13, 17), ("pool()", "flatten()", "classifier")),
    ),
    (models.MobileNetV3, _mobilenet_v3),
    (
        models.EfficientNet,
        lambda net: _sequence(
            net, (2, 3, 5, len(net.features) - 2), ("avgpool", "flatten()", "classifier")
        ),
    ),
    (models.ConvNeXt, lambda net: _sequence(net, (1, 3, 5, 7), ("avgpool", "classifier"))),
)
