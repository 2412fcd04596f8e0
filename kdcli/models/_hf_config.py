"""The config of a network of transformers: what of a file's content it is built from, and what a
checkpoint carries.
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.errors import Incompatible, KdError, UsageError

_MOST_BYTES = 2**16  # of a config in the header of a checkpoint
_LABELS = ("id2label", "label2id", "num_labels")
# of a stranger's config: what chooses code or files, or another number than float32
_LEFT_OUT = {
    "auto_map",
    "attn_implementation",
    "experts_implementation",
    "quantization_config",
    "fusion_config",
    "distributed_config",
    "transformers_weights",
    "name_or_path",
    "torch_dtype",
    "dtype",
    "return_dict",
    "use_pretrained_backbone",
    "output_hidden_states",
    "output_attentions",
}


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a network of transformers is to do. auto: the class that builds it. table: transformers'
    names of the classes that can, by type of model. called, hint: for messages.
    """

    auto: str
    table: str
    called: str
    hint: str


PICTURES = Purpose(
    "AutoModelForImageClassification",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "image classifier",
    "kd takes what AutoModelForImageClassification does; timm's are timm/NAME",
)
CAUSAL = Purpose(
    "AutoModelForCausalLM",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "causal language model",
    "kd takes what AutoModelForCausalLM does",
)
SEQUENCE = Purpose(
    "AutoModelForSequenceClassification",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "network for texts with classes",
    "kd takes what AutoModelForSequenceClassification does",
)


def library(name: str) -> Any:
    """The package transformers.

    Raises:
        UsageError: it is not installed; `name` is the network that needs it.
    """
    try:
        import transformers
    except ImportError as error:
        raise UsageError(
            f"{name} takes the package transformers, which is not installed",
            hint="pip install 'kdcli[hf]'",
        ) from error
    return transformers


def classifiers(transformers: Any, purpose: Purpose = PICTURES) -> dict[str, Any]:
    """The types of model that classify pictures, or do something else, and transformers' names of
    their classes.
    """
    names = getattr(transformers.models.auto.modeling_auto, purpose.table)
    return {kind: cls for kind, cls in names.items() if kind != "timm_wrapper"}


def config_of(
    transformers: Any,
    name: str,
    content: Mapping[str, Any],
    changes: Mapping[str, Any],
    purpose: Purpose = PICTURES,
) -> Any:
    """A config of transformers with what its own class knows of a file's content.

    Args:
        changes: what of that the user has changed. purpose: what it is for.

    Raises:
        UsageError: a change is of a key that there is not. Incompatible: it is for something else,
            or a value cannot be.
    """
    kind, known = content.get("model_type"), classifiers(transformers, purpose)
    if kind not in known:
        if "auto_map" in content:
            raise Incompatible(
                f"{name} is built by code of its own folder, which kd does not run",
                hint="read it, and write a factory that loads it: file.py:factory",
            )
        raise Incompatible(
            f"{name} is of the type {str(kind)[:60]!r}, which is no {purpose.called} that "
            f"transformers {transformers.__version__} knows",
            hint=purpose.hint,
        )
    try:
        with quiet(transformers):
            plain = transformers.CONFIG_MAPPING[kind]().to_dict()
            keys = [key for key in plain if not key.startswith("_") and key not in _LEFT_OUT]
            _check_known(name, changes, kind, keys)
            wanted = {key: _pruned(content[key]) for key in keys if key in content}
            for label in _LABELS:
                wanted.pop(label, None)
            config = transformers.CONFIG_MAPPING[kind].from_dict(wanted)
    except KdError:
        raise
    except Exception as error:  # whatever a config's class says to values that cannot be
        raise Incompatible(
            f"{name} has a config that transformers does not take: {first_line(error)}",
            hint="config.json must be as save_pretrained wrote it",
        ) from error
    names = known[kind]
    options = (names,) if isinstance(names, str) else tuple(names)
    asked = content.get("architectures")
    config.architectures = [
        next((each for each in options if isinstance(asked, list) and each in asked), options[0])
    ]
    return config


def _check_known(name: str, changes: Mapping[str, Any], kind: object, keys: Sequence[str]) -> None:
    if unknown := sorted(changes.keys() - set(keys)):
        near = difflib.get_close_matches(unknown[0], keys, n=1)
        raise UsageError(
            f"{name}: arguments has {unknown[0]!r}, which the config of a {kind} has not",
            hint=f"did you mean {near[0]!r}?" if near else "config.json lists what there is",
        )


def _pruned(value: Any) -> Any:
    """A part of a config without what chooses code, in its parts too."""
    if isinstance(value, dict):
        return {
            key: _pruned(item)
            for key, item in value.items()
            if not key.startswith("_") and key not in _LEFT_OUT
        }
    return value


def _parts(config: Any) -> Iterator[Any]:
    """The config, and that of its part for pictures."""
    yield config
    if (vision := getattr(config, "vision_config", None)) is not None:
        yield vision


def fit_to(config: Any, input_shape: tuple[int, int, int]) -> None:
    """Makes a config one for pictures of that shape."""
    channels, height, width = input_shape
    for part in _parts(config):
        if hasattr(part, "num_channels"):
            part.num_channels = channels
        if isinstance(getattr(part, "image_size", None), int | list | tuple):
            part.image_size = height if height == width else (height, width)


def carried(name: str, config: Any) -> dict[str, Any]:
    """What a checkpoint says of a config: all but the classes, which it says itself.

    Raises:
        Incompatible: that is more than a header holds.
    """
    said = {
        key: value
        for key, value in config.to_dict().items()
        if key not in _LABELS and not key.startswith("_") and key not in _LEFT_OUT
    }
    said["transformers_version"] = library(name).__version__
    for part in said.values():
        if isinstance(part, dict):
            for label in _LABELS:
                part.pop(label, None)
    text = json.dumps(said, sort_keys=True, default=str)
    if len(text) > _MOST_BYTES:
        raise Incompatible(f"{name} has a config of {len(text)} bytes: no checkpoint can hold it")
    found: dict[str, Any] = json.loads(text)
    return found


def first_line(error: Exception) -> str:
    """An error of somebody's in one line."""
    first_line, _, _ = str(error).strip().partition("\n")
    return f"{type(error).__name__}: {first_line[:200]}"


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """The library talks of what it loads, with bars and tables."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
