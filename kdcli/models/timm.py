"""Any classifier of timm by its name there: timm/vit_tiny_patch16_224, timm/mobilenetv4_conv_small,
timm/convnext_atto, ...

The architecture is timm's, unchanged, for pictures of any number of channels; a transformer with a
fixed grid is built for the size of the data. Weights are random, or from a file of timm's own
tensors (`weights = "x.safetensors"`), or published ones from the cache that timm itself uses
(`weights = "DEFAULT"`, or a tag such as "a1_in1k"); nothing is downloaded without --download. The
head of the file stays where the data have as many classes, else it gives way to a fresh one.

Taps are those of timm's feature info: "stage1", "stage2", ... and "pooled", "stem" before them
where the network has a map of half the picture's size first. A row of equal blocks, as in a ViT,
has four stages, each a quarter of it, and "block1", "block2", ... where these give tokens; its
tokens are laid out as a map, class token apart. A network that says nothing of its features has
"pooled".
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from kdcli.core.network import Network, tell_sight
from kdcli.core.options import Options as ModelOptions
from kdcli.errors import Incompatible, NotFound, UsageError
from kdcli.files import is_file
from kdcli.models._foreign_weights import fill, read_tensors, shapes_of
from kdcli.models._headed import Headed
from kdcli.models._hf_folder import cached
from kdcli.models._hub import fetching
from kdcli.models._tapped import blocks, can_tap, fitted, layout_of, quarters, survey
from kdcli.results.preprocessing import Sight

VARIANTS: dict[str, dict[str, Any]] = {
    "timm/*": {
        "summary": (
            "any classifier of timm by its name there, such as timm/vit_tiny_patch16_224; takes "
            "kdcli[timm]"
        ),
        "arguments": {},
        "input_shape": [3, 224, 224],
        "smaller": {
            "timm/vit_small_patch16_224": "timm/vit_tiny_patch16_224",
            "timm/vit_base_patch16_224": "timm/vit_small_patch16_224",
            "timm/deit_small_patch16_224": "timm/deit_tiny_patch16_224",
            "timm/deit_base_patch16_224": "timm/deit_small_patch16_224",
            "timm/swin_small_patch4_window7_224": "timm/swin_tiny_patch4_window7_224",
            "timm/swin_base_patch4_window7_224": "timm/swin_tiny_patch4_window7_224",
            "timm/convnext_tiny": "timm/convnext_atto",
            "timm/convnext_small": "timm/convnext_tiny",
            "timm/convnext_base": "timm/convnext_tiny",
            "timm/resnet34": "timm/resnet18",
            "timm/resnet50": "timm/resnet18",
            "timm/resnet101": "timm/resnet18",
            "timm/mobilenetv3_large_100": "timm/mobilenetv3_small_100",
            "timm/mobilenetv4_conv_large": "timm/mobilenetv4_conv_small",
            "timm/mobilenetv4_conv_medium": "timm/mobilenetv4_conv_small",
            "timm/efficientnet_b0": "timm/mobilenetv3_small_100",
            "timm/efficientnet_b1": "timm/efficientnet_b0",
            "timm/efficientnet_b2": "timm/efficientnet_b0",
        },
    },
}

_PREFIX = "timm/"
DEFAULT = "DEFAULT"  # the weights that timm takes unless told
_WEIGHTS = "model.safetensors"
_MOST_STAGES = 6  # more features than that are blocks in a row
_QUARTERS = 4


class Options(ModelOptions):
    """What may be chosen of a network of timm."""

    weights: str | None = Field(
        None,
        description=(
            "A .safetensors file with timm's tensors of this network, or published weights in "
            "timm's cache: DEFAULT or a tag such as a1_in1k; random weights unless given."
        ),
    )
    arguments: dict[str, bool | int | float | str | list[int]] = Field(
        default={},
        description=(
            "What else timm's constructor takes, such as { depth = 6 } or { drop_path_rate = 0.1 }."
        ),
    )


def members() -> dict[str, str]:
    """What "timm/*" stands for: each network by name, and how many sets of weights are published
    for it. Builds none of them.
    """
    timm = _timm("timm/*")
    published = Counter(name.partition(".")[0] for name in timm.list_pretrained())
    return {
        _PREFIX + name: f"timm's {name}; weights published: {published[name] or 'none'}"
        for name in timm.list_models()
    }


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> Network:
    """A network of timm, with fresh weights unless `weights` is among the arguments.

    Raises:
        UsageError: timm is not installed, or it does not know an argument. NotFound: no such
            network, or no such file. Incompatible: it takes no such pictures, the file does not fit
            it, or it has no linear head.
    """
    timm = _timm(name)
    weights = arguments.get("weights")
    tensors = None if weights is None else read_tensors(_file_of(timm, name, weights))
    given = arguments.get("arguments", {})
    net = _construct(timm, name, num_classes, input_shape, given)
    path, second = _paths_of_heads(name, net)
    published = num_classes
    if tensors is not None:
        published = _outputs(tensors, path, num_classes)
        if published != num_classes:
            net.reset_classifier(published)
        fill(net, tensors, name, str(weights))
        if published != num_classes:
            net.reset_classifier(num_classes)
    network = _tapped(Headed(name, net, path, second), net, input_shape)
    if published != num_classes:
        network.new_head = f"{published} classes"
    if weights is not None:
        tell_sight(network, sight(name, weights))
    return network


def sight(name: str, weights: str) -> Sight:
    """The pixels that timm's own transform gives this network, by its published configuration: a
    file of weights does not say what it was trained on. Their channels by the file.

    Raises:
        UsageError: timm is not installed. NotFound: no such network, or no such file.
        BadCheckpoint: it is no whole safetensors file. Incompatible: the network is shown pictures
            in a frame.
    """
    timm = _timm(name)
    _check_known(timm, name)
    tag = "" if _is_file(weights) or weights == DEFAULT else f".{weights}"
    file = _file_of(timm, name, weights)
    config = timm.data.resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg(f"{name.removeprefix(_PREFIX)}{tag}").to_dict()
    )
    _, *size = config["input_size"]
    channels = _channels(timm, name, file)
    # as timm.data.transforms_factory: each side, over the share of it that is cut out
    before = [math.floor(side / config["crop_pct"]) for side in size]
    resize: int | tuple[int, int] = (before[0], before[1])
    if config["crop_mode"] == "center" and before[0] == before[1]:
        resize = before[0]
    elif config["crop_mode"] == "border":
        raise Incompatible(
            f"{name} is shown whole pictures in a frame, which kd does not make",
            hint="choose another, such as timm/resnet18 or timm/vit_tiny_patch16_224",
        )
    return Sight(
        channels,
        (size[0], size[1]),
        resize,
        config["interpolation"],
        "pillow",
        *((tuple(config[part]) for part in ("mean", "std")) if channels == 3 else (None, None)),
    )


def _is_file(weights: str) -> bool:
    return weights.endswith(".safetensors") or is_file(Path(weights))


def _repository(timm: Any, name: str, weights: str) -> str:
    """Where published weights of a network are on the hub.

    Raises:
        NotFound: it has none of that tag.
    """
    _check_known(timm, name)
    architecture = name.removeprefix(_PREFIX)
    tags = [
        tag
        for each in timm.list_pretrained(f"{architecture}.*")
        for known, _, tag in (each.partition("."),)
        if known == architecture
    ]
    chosen = architecture if weights == DEFAULT else f"{architecture}.{weights}"
    config = timm.get_pretrained_cfg(chosen) if weights in {DEFAULT, *tags} else None
    # a file of another name than model.safetensors is a pickle, or other networks' beside it
    if config is None or not config.hf_hub_id or config.hf_hub_filename or config.custom_load:
        has = f"DEFAULT, {', '.join(sorted(tags))}" if tags else "none"
        raise NotFound(
            f"{name} has no weights {weights!r} that timm publishes as safetensors",
            hint=f"it has {has}; or the path of a .safetensors file",
        )
    return str(config.hf_hub_id)


def _file_of(timm: Any, name: str, weights: str) -> Path:
    """The file that `weights` stands for: itself, or published ones in timm's cache.

    Raises:
        NotFound: it has none of that tag, or they are not in the cache.
    """
    if _is_file(weights):
        return Path(weights)
    repository = _repository(timm, name, weights)
    if (found := cached(repository, _WEIGHTS)) is None:
        raise NotFound(
            f"the weights {weights} of {name} ({repository}) are not in timm's cache",
            hint="--download fetches them",
        )
    return found


def is_here(name: str, weights: str | None) -> bool:
    """Tells whether the weights are here, without asking the network.

    Raises:
        UsageError, NotFound: as `build`, but for weights that are not in the cache.
    """
    if weights is None or _is_file(weights):
        return True
    return cached(_repository(_timm(name), name, weights), _WEIGHTS) is not None


def download(name: str, weights: str | None = None) -> Path:
    """Fetches published weights into the cache of timm; the default ones unless a tag is given.

    Raises:
        UsageError: timm is not installed. NotFound: it has none of that tag, or there is no way to
            them.
    """
    repository = _repository(_timm(name), name, weights or DEFAULT)
    from huggingface_hub import hf_hub_download

    with fetching(repository, "weights may be the path of a .safetensors file that is here"):
        return Path(hf_hub_download(repository, _WEIGHTS))


def _channels(timm: Any, name: str, weights: Path) -> int:
    """The channels of the pictures that a file's network takes."""
    first = timm.get_pretrained_cfg_value(name.removeprefix(_PREFIX), "first_conv")
    shape = shapes_of(weights).get(f"{first if isinstance(first, str) else first[0]}.weight")
    return shape[1] if shape else 3


def categories(name: str, weights: str) -> tuple[str, ...]:
    """The names of the classes that the weights of a file predict: ImageNet's where there are a
    thousand, else their numbers, since the file names none.

    Raises:
        UsageError, NotFound, Incompatible: as `build`.
    """
    timm = _timm(name)
    with torch.device("meta"):
        net = _construct(timm, name, 1000, (3, 224, 224), {})
    count = _outputs(read_tensors(_file_of(timm, name, weights)), _paths_of_heads(name, net)[0], 0)
    if count == 1000:
        names: list[str] = timm.data.ImageNetInfo("imagenet-1k").label_descriptions()
        return tuple(names)
    return tuple(map(str, range(count)))


def whole(
    name: str, num_classes: int, input_shape: tuple[int, int, int], given: Mapping[str, Any]
) -> nn.Module:
    """A network of timm with its head, and random weights.

    Args:
        given: what else its constructor takes.
    """
    net: nn.Module = _construct(_timm(name), name, num_classes, input_shape, given)
    return net


def save(
    net: Any,
    folder: Path,
    given: Mapping[str, Any],
    class_names: Sequence[str],
    seen: Mapping[str, Any],
) -> None:
    """Writes config.json and model.safetensors, as timm's models on Hugging Face have them.

    Args:
        given: as in `whole`. seen: what it is shown, in the words of timm's pretrained_cfg.
    """
    _timm("timm")
    from timm.models import save_for_hf

    channels, *size = seen["input_size"]
    arguments = {**given, **({} if channels == 3 else {"in_chans": channels})}
    if net.pretrained_cfg.get("fixed_input_size"):
        arguments["img_size"] = size
    save_for_hf(
        net,
        str(folder),
        model_config={"pretrained_cfg": dict(seen), "label_names": list(class_names)},
        model_args=arguments,
        safe_serialization=True,
    )


def loaded(folder: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """A folder as timm loads it: pictures to logits."""
    net: nn.Module = _timm("timm").create_model(f"local-dir:{folder}", pretrained=True)
    return net.eval()


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise UsageError(
            f"{name} takes the package timm, which is not installed",
            hint="pip install 'kdcli[timm]'",
        ) from error
    return timm


def _check_known(timm: Any, name: str) -> None:
    architecture = name.removeprefix(_PREFIX)
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=1)
        raise NotFound(
            f"timm has no network {architecture!r}",
            hint=f"did you mean {_PREFIX}{near[0]}?" if near else "kd models 'timm/*' lists all",
        )


def _construct(
    timm: Any,
    name: str,
    num_classes: int,
    input_shape: tuple[int, int, int],
    given: Mapping[str, Any],
) -> Any:
    architecture = name.removeprefix(_PREFIX)
    _check_known(timm, name)
    channels, height, width = input_shape
    if reserved := sorted({"num_classes", "in_chans", "pretrained", "img_size"} & given.keys()):
        raise UsageError(
            f"{name}: arguments has {reserved[0]!r}, which follows from the data",
            hint="leave it out",
        )
    extra = dict(given)
    if timm.get_pretrained_cfg_value(architecture, "fixed_input_size"):
        extra["img_size"] = (height, width)
    try:
        net: Any = timm.create_model(
            architecture, pretrained=False, num_classes=num_classes, in_chans=channels, **extra
        )
    except TypeError as error:
        raise UsageError(
            f"timm does not build {architecture} with these arguments: {error}",
            hint="its constructor in timm names what it takes",
        ) from error
    except (AssertionError, ValueError, RuntimeError) as error:
        raise Incompatible(
            f"{name} cannot be built for pictures of {height}x{width}: {error}"
        ) from error
    return net


def _paths_of_heads(name: str, net: Any) -> tuple[str, str]:
    """Where the last linear layer is; and the second one of a network with two heads, else ""."""
    given = net.get_classifier()
    heads = given if isinstance(given, tuple) else (given,)
    if len(heads) == 1 and getattr(given, "distillation", False):  # RepViT's kind holds both
        heads = (given.head, given.head_dist)
    elif len(heads) == 1 and hasattr(given, "head_dist"):
        heads = (given.head,)
    # some have a norm before the linear layer, in one module
    last = [
        [part for part in head.modules() if isinstance(part, nn.Linear)]
        for head in heads
        if head is not None
    ]
    if not 0 < len(last) < 3 or not all(len(found) == 1 for found in last):
        raise Incompatible(
            f"{name} does not end in one linear layer, or the mean of two: kd needs one there",
            hint="choose another, such as timm/resnet18 or timm/vit_tiny_patch16_224",
        )
    paths = {id(module): path for path, module in net.named_modules()}
    first, *second = (paths[id(found[0])] for found in last)
    return first, second[0] if second else ""


def _outputs(tensors: Mapping[str, torch.Tensor], path: str, num_classes: int) -> int:
    """The number of classes that a file's head predicts."""
    head = tensors.get(f"{path}.weight")
    return num_classes if head is None else head.shape[0]


def _tapped(headed: Headed, net: nn.Module, input_shape: tuple[int, int, int]) -> Headed:
    """The network with timm's features as taps, where the modules that it names give them."""
    last = str(getattr(net, "output_fmt", "")) == "NHWC"
    seen = survey(headed, input_shape, channels_last=last)
    features = list(getattr(net, "feature_info", ()) or ())
    if not all(
        (place := seen.get(each["module"])) is not None
        and can_tap(place)
        and place.layout is not None
        and place.layout.height
        and place.layout.channels == each["num_chs"]
        for each in features
    ):
        return headed
    paths = _stages(features)
    if all(layout_of(seen[each["module"]]).kind == "tokens" for each in features):
        paths |= blocks([each["module"] for each in features])
    return fitted(headed, paths, seen, input_shape, pre=True)


def _stages(features: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Tap -> path of the module, from timm's feature info."""
    paths = [each["module"] for each in features]
    if len(paths) > _MOST_STAGES or (
        len(paths) > _QUARTERS and len({each["reduction"] for each in features}) == 1
    ):
        return quarters(paths)
    if len(paths) > _QUARTERS and features[0]["reduction"] <= 2:
        stem, *paths = paths
        return {"stem": stem, **{f"stage{number}": path for number, path in enumerate(paths, 1)}}
    return {f"stage{number}": path for number, path in enumerate(paths, 1)}
