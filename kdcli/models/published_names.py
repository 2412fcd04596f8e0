"""What others call the tensors of these networks: one table for each family, so that weights that
were trained elsewhere find their places.

The CIFAR families have the names of RepDistiller (Tian, Krishnan, Isola: Contrastive representation
distillation, ICLR 2020; https://github.com/HobbitLong/RepDistiller@5237c1fd), which mdistiller
(https://github.com/megvii-research/mdistiller@e8c5bb33) has too. Where repositories that descend
from the same code disagree (the shortcut is `downsample` or `shortcut`, the head `fc`, `linear` or
`classifier`), each name is known.

timm's EfficientNets also have the names of EfficientNet-PyTorch 0.7.1
(https://github.com/lukemelas/EfficientNet-PyTorch, model.py) and of what descends from it, such as
efficientnet-lite-pytorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from kdcli.core.network import Network
from kdcli.models._headed import Headed

Names = tuple[str, ...]


def published_names(network: Network, family: str, key: str) -> Names:
    """The names that a tensor may have in a file, the usual one first, and kd's own last.

    Args:
        network: whose tensor it is.
        family: the module of kdcli.models that built it.
        key: the tensor's name in the state dict of the network.
    """
    if isinstance(network, Headed):
        if network.second and key.startswith("head."):
            return (key,)  # two layers in one
        names = _headed(network.path, key)
        return (*names, *_efficientnet_pytorch(network.net, names), key)
    table = _TABLES.get(family)
    return (key,) if table is None else (*table(network, key.split(".")), key)


def _headed(path: str, key: str) -> Names:
    """A network that somebody else wrote: its names from before its head was taken out."""
    first, _, rest = key.partition(".")
    name = {"net": rest, "head": f"{path}.{rest}"}.get(first)
    if name is None:
        return ()
    # transformers' network stands inside of one of kd's
    return (name.removeprefix("model."), name) if path.startswith("model.") else (name,)


_DEPTHWISE_PARTS = {
    "conv_dw": "_depthwise_conv",
    "bn1": "_bn1",
    "conv_pw": "_project_conv",
    "bn2": "_bn2",
}
_INVERTED_PARTS = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
_ENDS = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}


def _efficientnet_pytorch(net: Any, names: Names) -> Names:
    """The names there of a tensor of timm's EfficientNet; none of another network's."""
    if not names or not (hasattr(net, "conv_head") and isinstance(net.blocks, nn.Sequential)):
        return ()
    stages = [list(stage.children()) for stage in net.blocks.children()]
    match names[0].split("."):
        case ["blocks", stage, place, *rest]:
            number = sum(len(stages[before]) for before in range(int(stage))) + int(place)
            inverted = hasattr(stages[int(stage)][int(place)], "conv_pwl")
            parts = _INVERTED_PARTS if inverted else _DEPTHWISE_PARTS
            return _joined(f"_blocks.{number}", rest=_part(parts, rest))
        case [end, *rest] if end in _ENDS:
            return _joined(_ENDS[end], rest=rest)
    return ()


def _part(parts: Mapping[str, str], key: list[str]) -> list[str]:
    match key:
        case ["se", squeeze, *rest]:
            return [squeeze.replace("conv", "_se"), *rest]
        case [part, *rest]:
            return [parts.get(part, part), *rest]
    return key


def _joined(*options: str, rest: list[str]) -> Names:
    return tuple(".".join([option, *rest]) for option in options)


def _head(key: list[str]) -> Names:
    match key:
        case ["head", *rest]:
            return _joined("fc", "linear", "classifier", rest=rest)
    return ()


def _stem(key: list[str]) -> Names:
    """A convolution and its norm; then the head."""
    match key:
        case ["body", "stem", place, *rest]:
            return _joined(("conv1", "bn1")[int(place)], rest=rest)
    return _head(key)


def _resnet(_network: Any, key: list[str]) -> Names:
    """models/resnet.py, of three stages, and models/resnetv2.py, of four."""
    match key:
        case ["body", stage, place, *rest] if stage != "stem":
            block = _block(stage, place)
            if rest[0] == "shortcut":
                return _joined(f"{block}.downsample", f"{block}.shortcut", rest=rest[1:])
            return _joined(block, rest=rest)
    return _stem(key)


def _block(stage: str, place: str) -> str:
    # between two blocks of ours stands a ReLU
    return f"layer{stage[-1]}.{int(place) // 2}"


def _wide_resnet(network: Any, key: list[str]) -> Names:
    """models/wrn.py. The first norm of a block of three is the last of our stage before it."""
    match key:
        case ["body", "stem", *rest]:
            return _joined("conv1", rest=rest)
        case ["body", stage, place, *rest] if int(place) == len(network.body[stage]) - 1:
            following = int(stage[-1]) + 1
            return _joined("bn1" if following > 3 else f"block{following}.layer.0.bn1", rest=rest)
        case ["body", stage, place, "before", "0", *rest]:
            return _joined(f"block{stage[-1]}.layer.{place}.bn1", rest=rest)
        case ["body", stage, place, part, *rest]:
            theirs = {"bn": "bn2", "shortcut": "convShortcut"}.get(part, part)
            return _joined(f"block{stage[-1]}.layer.{place}.{theirs}", rest=rest)
    return _head(key)


def _vgg(network: Any, key: list[str]) -> Names:
    """models/vgg.py. There the pools stand outside the blocks."""
    match key:
        case ["body", stage, place, *rest]:
            number = 0 if stage == "stem" else int(stage[-1])
            pools = isinstance(network.body[stage][0], nn.MaxPool2d)
            return _joined(f"block{number}.{int(place) - pools}", rest=rest)
        case ["head", *rest]:
            return _joined("classifier", rest=rest)
    return ()


# of a stage, the first of its rows of table 2 there, and the blocks of it
_MOBILE_ROWS = {"stage1": (0, 1), "stage2": (2, 3), "stage3": (3, 4), "stage4": (5, 3)}
_MOBILE_PARTS = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6, "bn3": 7}


def _mobilenet_v2(_network: Any, key: list[str]) -> Names:
    """models/mobilenetv2.py."""
    match key:
        case ["body", "stem", place, *rest]:
            return _joined(f"conv1.{place}", rest=rest)
        case ["body", stage, place, part, *rest]:
            row, blocks = _MOBILE_ROWS[stage]
            number = int(place)
            row, number = (row, number) if number < blocks else (row + 1, number - blocks)
            return _joined(f"blocks.{row}.{number}.conv.{_MOBILE_PARTS[part]}", rest=rest)
        case ["neck", "0", place, *rest]:
            return _joined(f"conv2.{place}", rest=rest)
        case ["head", *rest]:
            return _joined("classifier.0", "classifier", rest=rest)
    return ()


def _shufflenet_v1(_network: Any, key: list[str]) -> Names:
    """models/ShuffleNetv1.py."""
    match key:
        case ["body", stage, place, *rest] if stage != "stem":
            return _joined(_block(stage, place), rest=rest)
    return _stem(key)


_SHUFFLE_PARTS: Mapping[str, tuple[str, ...]] = {
    "branch": ("conv1", "bn1", "", "conv2", "bn2", "conv3", "bn3"),
    "left": ("conv1", "bn1", "conv2", "bn2"),
    "right": ("conv3", "bn3", "", "conv4", "bn4", "conv5", "bn5"),
}


def _shufflenet_v2(_network: Any, key: list[str]) -> Names:
    """models/ShuffleNetv2.py."""
    match key:
        case ["body", stage, place, branch, part, *rest] if stage != "stem":
            theirs = _SHUFFLE_PARTS[branch][int(part)]
            return _joined(f"{_block(stage, place)}.{theirs}", rest=rest)
        case ["neck", place, *rest]:
            return _joined(("conv2", "bn2")[int(place)], rest=rest)
    return _stem(key)


_TABLES: Mapping[str, Callable[[Any, list[str]], Names]] = {
    "resnet_cifar": _resnet,
    "resnet_four_stages": _resnet,
    "wide_resnet": _wide_resnet,
    "vgg": _vgg,
    "mobilenet_v2": _mobilenet_v2,
    "shufflenet_v1": _shufflenet_v1,
    "shufflenet_v2": _shufflenet_v2,
}
