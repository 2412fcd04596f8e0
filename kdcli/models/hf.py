"""Image classifiers, causal language models and classifiers of texts of transformers from a local
folder, hf/./FOLDER, or by a hub id that is in its cache, hf/ORG/NAME (kd models hf/ORG/NAME
--download fetches it). What a network is built for follows from the data; those of texts are in
kdcli/models/_hf_text.py.

The architecture is the one of the folder's config.json, as transformers builds it. Weights are
random and the network is for the pictures of the data, or they are the folder's own with
`weights = "DEFAULT"` (as a teacher always), and the pictures those that it was made for. The head
stays where the data have as many classes, else it gives way to a fresh one. Weights are read from
safetensors alone, and code that lies in a folder never runs. A checkpoint carries the config: it
needs no folder.

Taps are transformers' hidden states: "stage1", "stage2", ... where the size or the channels are
about to change, and "pooled"; "stem" before them where there are more. A row of equal blocks, as in
a ViT, has four stages, each a quarter of it; its tokens are laid out as a map, class token apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcli.core.network import Blueprint, Network, tell_sight
from kdcli.core.options import Options as ModelOptions
from kdcli.core.types import DataInfo
from kdcli.errors import Incompatible, KdError, NotFound, UsageError
from kdcli.files import is_file
from kdcli.models import _hf_folder as files
from kdcli.models import _hf_text
from kdcli.models._foreign_weights import check_whole, read_tensors
from kdcli.models._headed import Headed
from kdcli.models._hf_config import (
    carried,
    classifiers,
    config_of,
    first_line,
    fit_to,
    library,
    quiet,
)
from kdcli.models._hub import fetching
from kdcli.models._meta import dry_run, evaluating
from kdcli.models._tapped import blocks, can_tap, fitted, quarters, survey
from kdcli.results.preprocessing import Sight

VARIANTS: dict[str, dict[str, Any]] = {
    "hf/*": {
        "summary": (
            "a network of transformers from a folder, hf/./my-vit, or a hub id of its cache: for "
            "pictures, for texts with classes, or a causal language model; takes kdcli[hf]"
        ),
        "task": "any",
        "arguments": {},
        "input_shape": [3, 224, 224],
        "smaller": {},
    },
}

OWN_WEIGHTS = files.OWN_WEIGHTS
_MOST_STAGES = 5  # with more, the channels of a map no longer make a stage of their own
_USUAL_STAGES = 4


class Options(ModelOptions):
    """What may be chosen of a network of transformers."""

    weights: str | None = Field(
        None,
        description=(
            "DEFAULT for the folder's own, or a .safetensors file with transformers' tensors of "
            "this network; random weights unless given."
        ),
    )
    arguments: dict[str, bool | int | float | str | list[int]] = Field(
        default={},
        description=(
            "What to change in the folder's config.json, such as { num_hidden_layers = 6 }."
        ),
    )
    config: dict[str, Any] | None = Field(
        None,
        description="What stands in the place of the folder's config.json: checkpoints carry it.",
    )


def members() -> dict[str, str]:
    """What "hf/*" stands for: the image classifiers in transformers' cache, by hub id. Loads none
    of them.
    """
    transformers = library("hf/*")
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    found = {}
    for repository in sorted(repositories, key=lambda each: each.repo_id):
        name = files.PREFIX + repository.repo_id
        with contextlib.suppress(KdError):
            kind = files.read_config(files.folder_of(name))["model_type"]
            if kind in classifiers(transformers):
                found[name] = f"{kind} in transformers' cache"
    return found


def is_here(name: str, weights: str | None) -> bool:  # noqa: ARG001  as other libraries have it
    """Tells whether a network's folder is here, without asking the network."""
    try:
        folder = files.folder_of(name)
    except NotFound:
        return not files.is_hub_id(name)  # `build` says what is wrong
    return is_file(folder / files.CONFIG)


def download(name: str, weights: str | None = None) -> Path:  # noqa: ARG001  its own
    """Fetches a network into transformers' cache: its config, its image processor's, and its
    weights as safetensors.

    Raises:
        UsageError: huggingface_hub is not installed, or that is no hub id. NotFound: there is no
            such network, or no way to it.
    """
    library(name)
    from huggingface_hub import snapshot_download

    identity = name.removeprefix(files.PREFIX)
    with fetching(identity, "a hub id is ORG/NAME, as its page on Hugging Face says"):
        folder = Path(snapshot_download(identity, allow_patterns=list(files.FETCHED)))
    files.read_config(folder)
    files.weight_files(folder)
    return folder


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> Network:
    """A network of transformers, with fresh weights unless `weights` is among the arguments.

    Raises:
        UsageError: transformers is not installed. NotFound: no such folder or weights.
        BadCheckpoint: a file of it cannot be read. Incompatible: it is no image classifier, takes
            no such pictures, has no one linear head, or the weights are another network's.
    """
    if _hf_text.reads_text(input_shape):
        return _hf_text.build(
            name, num_classes=num_classes, input_shape=input_shape, arguments=arguments
        )
    transformers = library(name)
    weights, own = arguments.get("weights"), arguments.get("config")
    carries = own is not None and weights is None
    folder = Path() if carries else files.folder_of(name)
    content = dict(own) if own is not None else files.read_config(folder)
    changes = dict(arguments.get("arguments", {}))
    published = num_classes
    if weights is not None:
        published = len(files.class_names(content, folder / files.CONFIG))
    config = config_of(transformers, name, {**content, **changes}, changes)
    config.num_labels = published
    if weights is None:
        fit_to(config, input_shape)
    tensors = None if weights is None else read_tensors(*files.files_of(folder, weights))
    with quiet(transformers):
        model = _construct(transformers, name, config, tensors)
    network = _tapped(name, model, input_shape)
    if published != num_classes:
        network.new_head = f"{published} classes"
        network.head = nn.Linear(
            network.head.in_features, num_classes, bias=network.head.bias is not None
        )
    network.blueprint = Blueprint(name, {"config": carried(name, config)})
    if weights is not None:
        tell_sight(network, files.read_pixels(folder))
    return network


def own_names(name: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of a file by the names that transformers has for them now: published files may
    have those of an older version. As they are, where they are not those of this folder's network.
    """
    transformers = library(name)
    with contextlib.suppress(Incompatible, NotFound), quiet(transformers):
        folder = files.folder_of(name)
        content = files.read_config(folder)
        config = config_of(transformers, name, content, {})
        config.num_labels = len(files.class_names(content, folder / files.CONFIG))
        found: Mapping[str, Tensor] = _construct(
            transformers, name, config, dict(tensors)
        ).state_dict()
        return found
    return tensors


def categories(name: str, weights: str) -> tuple[str, ...]:  # noqa: ARG001  as other libraries have it
    """The names of the classes that a folder's network predicts, or their numbers; raises what
    `build` does.
    """
    folder = files.folder_of(name)
    config = files.read_config(folder)
    if (text := _hf_text.usual(config)) is not None and text[1] is not None:
        return tuple(map(str, range(text[1])))
    return files.class_names(config, folder / files.CONFIG)


def text_categories(name: str, info: DataInfo) -> tuple[str, ...]:
    """The names of the classes of a folder's network on texts: of a language model, its tokens.

    Raises:
        Incompatible: its tokens are not those of the data. Others: as `categories`.
    """
    _hf_text.check_vocabulary(name, info)
    return info.class_names if info.vocabulary is None else categories(name, OWN_WEIGHTS)


def sight(name: str, weights: str) -> Sight:  # noqa: ARG001  as other libraries have it
    """The pixels that a folder's image processor makes.

    Raises:
        NotFound, BadCheckpoint, Incompatible: as `build`.
    """
    return files.read_pixels(files.folder_of(name))


def usual_shape(name: str) -> tuple[int, int, int]:
    """The pictures that a folder's network is for: by its image processor, else by its config.

    Raises:
        NotFound, BadCheckpoint, Incompatible: as `build`.
    """
    folder = files.folder_of(name)
    config = files.read_config(folder)
    if (text := _hf_text.usual(config)) is not None:
        return text[0]
    size = files.read_pixels(folder).size or files.size_in(config) or (224, 224)
    channels = config.get("num_channels")
    return (channels if type(channels) is int and 0 < channels <= 64 else 3, *size)


# ---- for transformers itself ---------------------------------------------------------------------

INSIDE = "model."  # where transformers' own network stands in one of kd


def whole(
    name: str, num_classes: int, content: Mapping[str, Any], class_names: Sequence[str]
) -> nn.Module:
    """A network of transformers with its head and the names of its classes, and random weights.

    Args:
        content: the config, as a checkpoint carries it.
    """
    transformers = library(name)
    config = config_of(transformers, name, content, {})
    config.num_labels = num_classes
    config.id2label = dict(enumerate(class_names))
    config.label2id = {label: number for number, label in enumerate(class_names)}
    with quiet(transformers):
        return _construct(transformers, name, config, None)


def save(net: Any, folder: Path) -> None:
    """Writes config.json and model.safetensors, as transformers does."""
    with quiet(library("hf")):
        net.save_pretrained(folder)


def loaded(folder: Path) -> Callable[[Tensor], Tensor]:
    """A folder as transformers loads it: pictures to logits."""
    transformers = library("hf")
    with quiet(transformers):
        net = transformers.AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    return Logits(net.eval())


# ---- the network ---------------------------------------------------------------------------------


class Logits(nn.Module):
    """A network of transformers as a function of pictures [B,C,H,W] that gives logits [B,K]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=x).logits
        return logits


class _Told(Logits):
    """The same with all that the network tells of itself."""

    def forward(self, x: Tensor) -> Any:
        return self.model(pixel_values=x, output_hidden_states=True)


def _construct(
    transformers: Any, name: str, config: Any, tensors: dict[str, Tensor] | None
) -> nn.Module:
    auto = transformers.AutoModelForImageClassification
    try:
        with contextlib.nullcontext() if tensors is None else torch.device("meta"):
            outline: Any = auto.from_config(config, trust_remote_code=False, dtype=torch.float32)
        if tensors is None:
            fresh: nn.Module = outline
            return fresh
        # by way of transformers: published files may have names of an older version of it
        model, told = type(outline).from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    except ImportError as error:
        raise UsageError(f"{name} takes another package: {first_line(error)}") from error
    except Exception as error:  # whatever a constructor says to a config that cannot be
        raise Incompatible(f"{name} cannot be built: {first_line(error)}") from error
    check_whole(
        told["missing_keys"],
        told["unexpected_keys"],
        [each[0] for each in told["mismatched_keys"]],
        name,
        "its file of weights",
    )
    found: nn.Module = model
    return found


def _tapped(name: str, model: nn.Module, input_shape: tuple[int, int, int]) -> Headed:
    """The network, split before its head, with its hidden states as taps."""
    seen = _watched(name, model, input_shape)
    if seen.head is None:
        raise Incompatible(
            f"{name} does not end in one linear layer, or the mean of two: kd needs one there",
            hint="choose another, such as a ViT, a Swin or a ConvNeXt",
        )
    second = f"model.{seen.second}" if seen.second else ""
    headed = Headed(name, Logits(model), f"model.{seen.head}", second)
    paths = _stages(seen.states)
    places = survey(headed, input_shape)
    stages = {tap: f"model.{path}" for tap, path in paths.items()}
    usable = all(
        (place := places.get(path)) is not None
        and can_tap(place)
        and place.layout is not None
        and place.layout.height
        for path in stages.values()
    )
    return fitted(headed, stages, places, input_shape) if usable else headed


class _Watched:
    """One pass. head: the path of the linear layer whose output is the logits; None where there is
    none. second: that of a second one, where the logits are the mean of two. states: path and shape
    [1,...] of each hidden state; empty where one is no module's.
    """

    def __init__(self) -> None:
        self.head: str | None = None
        self.second = ""
        self.states: list[tuple[str, tuple[int, ...]]] = []


def _watched(name: str, model: nn.Module, input_shape: tuple[int, int, int]) -> _Watched:
    """What a network gives for one picture, and which of its modules gives it.

    Raises:
        Incompatible: it takes no such pictures.
    """
    outputs: list[tuple[str, nn.Module, Any]] = []

    def note(path: str) -> Any:
        def keep(module: nn.Module, _given: Any, output: Any) -> None:
            first = next(iter(output.values()), None) if isinstance(output, Mapping) else output
            if isinstance(first, tuple | list):
                first = first[0] if first else None
            outputs.append((path, module, first))

        return keep

    handles = [
        module.register_forward_hook(note(path)) for path, module in model.named_modules() if path
    ]
    try:
        told = _answer(model, input_shape, outputs)
    except Exception as error:
        _, height, width = input_shape
        raise Incompatible(
            f"{name} cannot take pictures of {height}x{width}: {first_line(error)}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    found = _Watched()
    found.head = _linear_of(outputs, getattr(told, "logits", None))
    if found.head is None and getattr(told, "distillation_logits", None) is not None:
        found.head = _linear_of(outputs, told.cls_logits)
        second = _linear_of(outputs, told.distillation_logits)
        found.head, found.second = (None, "") if second is None else (found.head, second)
    states = [
        (next((path for path, _, output in outputs if output is state), None), tuple(state.shape))
        for state in getattr(told, "hidden_states", None) or ()
    ]
    if all(path is not None for path, _ in states):
        found.states = [(_before_a_drop(model, str(path)), shape) for path, shape in states]
        shapes = {path: tuple(o.shape) for path, _, o in outputs if isinstance(o, Tensor)}
        found.states = [(path, shapes.get(path, shape)) for path, shape in found.states]
    return found


def _linear_of(outputs: Sequence[tuple[str, nn.Module, Any]], logits: Any) -> str | None:
    """The path of the linear layer whose output these logits are."""
    return next(
        (
            path
            for path, module, output in outputs
            if output is logits and isinstance(module, nn.Linear)
        ),
        None,
    )


def _answer(model: nn.Module, input_shape: tuple[int, int, int], outputs: list[Any]) -> Any:
    told = _Told(model)
    try:
        return dry_run(told, input_shape)
    except Exception:  # it computes with values, which meta tensors have not
        outputs.clear()
        weight = next(model.parameters())
        if weight.is_meta:
            raise
        with evaluating(told):
            return told(torch.zeros(1, *input_shape, device=weight.device))


def _before_a_drop(model: nn.Module, path: str) -> str:
    """The block before a layer that makes the map smaller, where that layer gives the hidden state
    (Swin): a stage ends where its size is about to change.
    """
    stage, found, _ = path.partition(".downsample")
    if not found:
        return path
    rows = [
        f"{stage}.{name}.{len(part) - 1}"
        for name, part in model.get_submodule(stage).named_children()
        if isinstance(part, nn.ModuleList) and len(part)
    ]
    return rows[0] if rows else path


def _stages(states: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, str]:
    """Tap -> path of the module, from the hidden states in order."""
    ends = _ends(states, lambda shape: shape[1:])
    if len(ends) > _MOST_STAGES:
        ends = _ends(states, lambda shape: shape[2:] if len(shape) == 4 else shape[1:])
    if len(ends) == 1:
        # the first is what the embedding gives
        row = [path for path, _ in states[1:] or states]
        tokens = len(states[0][1]) == 3
        return quarters(row) | (blocks(row) if tokens else {})
    names = ["stem"] if len(ends) > _USUAL_STAGES else []
    names += [f"stage{number}" for number in range(1, len(ends) + 1 - len(names))]
    return dict(zip(names, ends, strict=True))


def _ends(states: Sequence[tuple[str, tuple[int, ...]]], key: Any) -> list[str]:
    """The last path of each run of hidden states that have something in common."""
    return [
        path
        for place, (path, shape) in enumerate(states)
        if place + 1 == len(states) or key(states[place + 1][1]) != key(shape)
    ]
