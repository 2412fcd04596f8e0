"""A network of transformers or timm as a folder that its own library loads: config.json,
model.safetensors, and what the library reads of pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdcli.core.network import Network
from kdcli.errors import Incompatible
from kdcli.files import write_json
from kdcli.models import hf, timm
from kdcli.models._headed import Headed
from kdcli.models._hf_folder import RESAMPLERS
from kdcli.results.preprocessing import Preprocessing

_NUMBERS = {name: number for number, name in RESAMPLERS.items()}


def write_library_folder(
    path: Path, network: Network, class_names: tuple[str, ...], how: Preprocessing
) -> None:
    """Writes the folder.

    Raises:
        Incompatible: the network is neither library's, or its library cannot hold it.
    """
    library = _library_of(network)
    assert isinstance(network, Headed)
    assert network.blueprint is not None
    arguments = network.blueprint.arguments
    name, classes = network.blueprint.architecture, network.head.out_features
    shape = how.input_shape
    path.mkdir()
    if library == "hf":
        net = hf.whole(name, classes, arguments["config"], class_names)
        _fill(net, network, hf.INSIDE)
        hf.save(net, path)
        if shape[0] == 3:
            write_json(path / "preprocessor_config.json", _processor(how))
        return
    net = timm.whole(name, classes, shape, arguments.get("arguments", {}))
    _fill(net, network, "")
    timm.save(net, path, arguments.get("arguments", {}), class_names, _seen(how))


def read_library_folder(path: Path) -> Callable[[Tensor], Tensor]:
    """The network of a folder, as its library loads it: pictures to logits."""
    config = json.loads((path / "config.json").read_text())
    return hf.loaded(path) if "model_type" in config else timm.loaded(path)


def check_library(network: Network) -> None:
    """Refuses a network that is no library's.

    Raises:
        Incompatible: names formats that it can be said in.
    """
    _library_of(network)


def _library_of(network: Network) -> str:
    name = "" if network.blueprint is None else network.blueprint.architecture
    library = name.partition("/")[0]
    if library == "hf" and not isinstance(network, Headed):
        raise Incompatible(
            f"{name} reads texts, and --format hf is of networks of pictures",
            hint="--format onnx of a network with classes; in Python: kdcli.jobs.load_network",
        )
    if library not in {"hf", "timm"} or not isinstance(network, Headed):
        raise Incompatible(
            f"{name or 'this network'} is no network of transformers or timm: --format hf writes "
            "what these load",
            hint="--format onnx, pytorch, pt2 or torchscript",
        )
    return library


def _fill(net: nn.Module, network: Headed, prefix: str) -> None:
    """Puts a network's weights into its library's own, where its head was."""
    tensors = {key.removeprefix(prefix): tensor for key, tensor in network.net.state_dict().items()}
    tensors |= {key.removeprefix(prefix): tensor for key, tensor in network.library_heads().items()}
    net.load_state_dict(tensors)


def _processor(how: Preprocessing) -> dict[str, Any]:
    """An image processor of transformers that resizes, cuts the middle out and normalises."""
    height, width = how.size
    size = (
        {"height": how.resize[0], "width": how.resize[1]}
        if isinstance(how.resize, tuple)
        else {"shortest_edge": how.resize}
    )
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": _NUMBERS[how.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(how.mean),
        "image_std": list(how.std),
    }


def _seen(how: Preprocessing) -> dict[str, Any]:
    """The same as timm says it."""
    return {
        "input_size": list(how.input_shape),
        "interpolation": how.interpolation,
        "crop_pct": min(how.size) / min(how.sides),
        "crop_mode": "center",
        "mean": list(how.mean),
        "std": list(how.std),
    }
