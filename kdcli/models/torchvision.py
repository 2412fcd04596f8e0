"""Any classifier of torchvision by its name there: torchvision/resnet18, torchvision/mobilenet_v2,
torchvision/vit_b_16, ...

The architecture is torchvision's, unchanged, stem and all: it is made for photographs, and on small
pictures its maps soon are single pixels. Weights are downloaded only where `weights` asks for them;
the head that they come with stays where the data have as many classes, else it gives way to a fresh
one. Every network has the tap "pooled"; ResNet and its kin, VGG,
DenseNet, ShuffleNetV2, MobileNetV2 and V3, EfficientNet, RegNet and ConvNeXt have their stages too.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision import models

from kdcli.core.network import Network, tell_sight
from kdcli.core.options import Options as ModelOptions
from kdcli.core.types import Output, Tap
from kdcli.errors import Incompatible, NotFound
from kdcli.models._checks import check_taps
from kdcli.models._headed import Headed, head_path
from kdcli.models._meta import dry_run, stride_of
from kdcli.models._torchvision_stages import Plan, plan_for
from kdcli.results.preprocessing import Sight

VARIANTS: dict[str, dict[str, Any]] = {
    "torchvision/*": {
        "summary": (
            "any classifier of torchvision by its name there, such as torchvision/resnet18; for "
            "pictures with 3 channels"
        ),
        "arguments": {},
        "input_shape": [3, 224, 224],
        "smaller": {
            "torchvision/resnet34": "torchvision/resnet18",
            "torchvision/resnet50": "torchvision/resnet18",
            "torchvision/resnet101": "torchvision/resnet18",
            "torchvision/resnet152": "torchvision/resnet18",
            "torchvision/wide_resnet50_2": "torchvision/resnet18",
            "torchvision/wide_resnet101_2": "torchvision/resnet18",
            "torchvision/resnext50_32x4d": "torchvision/resnet18",
            "torchvision/resnext101_32x8d": "torchvision/resnet18",
            "torchvision/resnext101_64x4d": "torchvision/resnet18",
            "torchvision/vgg13": "torchvision/vgg11",
            "torchvision/vgg16": "torchvision/vgg11",
            "torchvision/vgg19": "torchvision/vgg11",
            "torchvision/vgg13_bn": "torchvision/vgg11_bn",
            "torchvision/vgg16_bn": "torchvision/vgg11_bn",
            "torchvision/vgg19_bn": "torchvision/vgg11_bn",
            "torchvision/densenet161": "torchvision/densenet121",
            "torchvision/densenet169": "torchvision/densenet121",
            "torchvision/densenet201": "torchvision/densenet121",
            "torchvision/efficientnet_b0": "torchvision/mobilenet_v2",
            "torchvision/efficientnet_b1": "torchvision/mobilenet_v2",
            "torchvision/efficientnet_b2": "torchvision/mobilenet_v2",
            "torchvision/efficientnet_b3": "torchvision/mobilenet_v2",
            "torchvision/efficientnet_b4": "torchvision/mobilenet_v2",
            "torchvision/efficientnet_v2_s": "torchvision/mobilenet_v2",
            "torchvision/efficientnet_v2_m": "torchvision/efficientnet_v2_s",
            "torchvision/efficientnet_v2_l": "torchvision/efficientnet_v2_s",
            "torchvision/mobilenet_v3_large": "torchvision/mobilenet_v3_small",
            "torchvision/shufflenet_v2_x2_0": "torchvision/shufflenet_v2_x1_0",
            "torchvision/shufflenet_v2_x1_5": "torchvision/shufflenet_v2_x1_0",
            "torchvision/shufflenet_v2_x1_0": "torchvision/shufflenet_v2_x0_5",
            "torchvision/convnext_small": "torchvision/convnext_tiny",
            "torchvision/convnext_base": "torchvision/convnext_tiny",
            "torchvision/convnext_large": "torchvision/convnext_tiny",
            "torchvision/vit_l_16": "torchvision/vit_b_16",
            "torchvision/vit_l_32": "torchvision/vit_b_32",
            "torchvision/swin_b": "torchvision/swin_t",
            "torchvision/swin_s": "torchvision/swin_t",
        },
    },
}

_PREFIX = "torchvision/"
_NO_LINEAR_HEAD = ("squeezenet1_0", "squeezenet1_1")


class Options(ModelOptions):
    """What may be chosen of a torchvision network."""

    weights: str | None = Field(
        None,
        description=(
            "Pretrained weights to download: DEFAULT or a name such as IMAGENET1K_V1; none "
            "unless given."
        ),
    )


def members() -> dict[str, str]:
    """What "torchvision/*" stands for: each classifier by name, and what is published of its
    weights. Builds none of them.
    """
    known = (name for name in models.list_models(module=models) if name not in _NO_LINEAR_HEAD)
    return {_PREFIX + name: _published(name) for name in known}


def _published(name: str) -> str:
    weights = models.get_model_weights(name)
    accuracy = max(each.meta["_metrics"]["ImageNet-1K"]["acc@1"] for each in weights)
    return f"torchvision's {name}; its weights have up to {accuracy:.1f} % on ImageNet"


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> Network:
    """A torchvision classifier, with fresh weights unless `weights` is among the arguments.

    Raises:
        NotFound: no such classifier or weights, or the weights cannot be fetched.
        Incompatible: it takes no such pictures, or it has no linear head.
    """
    _check_input(name, input_shape)
    weights = _weights(name, arguments.get("weights"))
    published = num_classes if weights is None else len(weights.meta["categories"])
    net = _construct(name, weights, published, input_shape)
    path = head_path(net)
    if path is None:
        raise Incompatible(
            f"{name} ends in a convolution: kd needs a linear layer there",
            hint="choose another, such as torchvision/resnet18",
        )
    if published != num_classes:
        last = net.get_submodule(path)
        assert isinstance(last, nn.Linear)
        net.set_submodule(
            path, nn.Linear(last.in_features, num_classes, bias=last.bias is not None)
        )
    plan = plan_for(net)
    network = Headed(name, net, path) if plan is None else Staged(name, net, path, plan)
    _declare(network, input_shape)
    if published != num_classes:
        network.new_head = f"{published} classes"
    if weights is not None:
        tell_sight(network, _sight(weights))
    return network


class Staged(Headed):
    """A torchvision network whose stages are known. Without stage taps it runs torchvision's own
    forward.
    """

    def __init__(self, name: str, net: nn.Module, path: str, plan: Plan) -> None:
        super().__init__(name, net, path)
        self.plan = plan

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        if not taps:
            return super().forward(x)
        check_taps(self.name, taps, self.taps)
        pooled, kept = self.plan.walk(self.net, x, taps)
        if "pooled" in taps:
            kept["pooled"] = pooled
        return Output(self.classify(pooled), kept)

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        check_taps(self.name, (upto,), self.taps)
        return (self.net,) if upto == "pooled" else self.plan.modules(self.net, upto)

    def norm_at(self, tap: str) -> nn.BatchNorm2d | None:
        check_taps(self.name, (tap,), self.taps)
        path = self.plan.norms.get(tap)
        return None if path is None else self.net.get_submodule(path)  # type: ignore[return-value]


def _check_known(name: str) -> None:
    architecture = name.removeprefix(_PREFIX)
    known = models.list_models(module=models)
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=1)
        hint = (
            f"did you mean {_PREFIX}{near[0]}?"
            if near
            else f"for example {_PREFIX}resnet18 or {_PREFIX}mobilenet_v2"
        )
        raise NotFound(f"torchvision has no classifier {architecture!r}", hint=hint)


def _check_input(name: str, input_shape: tuple[int, int, int]) -> None:
    _check_known(name)
    if input_shape[0] != 3:
        plural = "s" * (input_shape[0] != 1)
        raise Incompatible(
            f"{name} takes pictures with 3 channels, these have {input_shape[0]} channel{plural}",
            hint="networks such as resnet20 and cnn-large take any number of channels",
        )


def categories(name: str, weights: str) -> tuple[str, ...]:
    """The names of the classes that published weights predict; nothing is downloaded.

    Raises:
        NotFound: no such classifier or weights.
    """
    _check_known(name)
    return tuple(_weights(name, weights).meta["categories"])


def sight(name: str, weights: str) -> Sight:
    """The pixels that published weights were trained on: what their transform in torchvision does.

    Raises:
        NotFound: no such classifier or weights.
    """
    _check_known(name)
    return _sight(_weights(name, weights))


def _sight(weights: Any) -> Sight:
    preset = weights.transforms()  # of pictures, which Pillow resizes
    (size,), (resize,) = preset.crop_size, preset.resize_size
    return Sight(
        3,
        (size, size),
        resize,
        preset.interpolation.value,
        "pillow",
        tuple(preset.mean),
        tuple(preset.std),
    )


def _weights(name: str, wanted: str | None) -> Any:
    """The weights asked for, not downloaded yet."""
    if wanted is None:
        return None
    offered = models.get_model_weights(name.removeprefix(_PREFIX))
    if wanted not in offered.__members__:
        raise NotFound(
            f"{name} has no weights {wanted!r}", hint=f"it has {', '.join(offered.__members__)}"
        )
    return offered[wanted]


def _construct(
    name: str, weights: Any, num_classes: int, input_shape: tuple[int, int, int]
) -> nn.Module:
    architecture = name.removeprefix(_PREFIX)
    _, height, width = input_shape
    extra: dict[str, Any] = {}
    if architecture.startswith("vit_"):
        extra = {"image_size": height}
    elif architecture.startswith("maxvit"):
        extra = {"input_size": (height, width)}
    elif architecture in ("googlenet", "inception_v3"):
        # no auxiliary heads: they answer during training only, and a Network answers alike in both
        # modes
        extra = (
            {"aux_logits": False}
            if weights is not None
            else {"aux_logits": False, "init_weights": True}
        )
    try:
        # RegNet reads its widths from tensors: under torch.device("meta"), which `kd models` builds
        # with, they have no values
        with torch.device("cpu") if architecture.startswith("regnet") else nullcontext():
            net: nn.Module = models.get_model(
                architecture, weights=weights, progress=False, num_classes=num_classes, **extra
            )
    except OSError as error:
        hint = "weights are kept in torch's hub folder: fetch them once where there is a network"
        raise NotFound(f"the weights of {name} cannot be fetched: {error}", hint=hint) from error
    except (AssertionError, ValueError, RuntimeError) as error:
        raise Incompatible(
            f"{name} cannot be built for pictures of {height}x{width}: {error}"
        ) from error
    return net


def _declare(network: Headed, input_shape: tuple[int, int, int]) -> None:
    """Checks by a dry run that the network takes such pictures, and sets the channels and strides
    of its stages.
    """
    _, height, width = input_shape
    names = tuple(network.plan.parts) if isinstance(network, Staged) else ()
    pooled = network.taps["pooled"]
    # until the true ones are known
    network.taps = {
        **dict.fromkeys(names, pooled),
        "pooled": pooled,
    }
    try:
        found = dry_run(network, input_shape, names).taps
    except (AssertionError, ValueError, RuntimeError) as error:
        raise Incompatible(
            f"{network.name} cannot take pictures of {height}x{width}: {error}"
        ) from error
    stages = {
        tap: Tap(found[tap].shape[1], stride_of(height, found[tap].shape[2])) for tap in names
    }
    network.taps = {**stages, "pooled": pooled}
