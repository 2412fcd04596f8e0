"""Folders of transformers' image classifiers, read as plain data: config.json, the image
processor's JSON, and where the weights lie. Nothing of transformers is imported, nothing of the
folder runs, and nothing is fetched.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from kdcli.errors import BadCheckpoint, Incompatible, KdError, NotFound
from kdcli.files import given_by_the_user, is_file, is_folder, parse_json, read_bytes
from kdcli.results.preprocessing import Interpolation, Sight
from kdcli.surroundings import at_home
from kdcli.typed import strict

PREFIX = "hf/"
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
OWN_WEIGHTS = "DEFAULT"  # those of the folder
# what a download fetches: data alone, no code and no pickle
FETCHED = (CONFIG, PROCESSOR, "tokenizer.json", WEIGHTS, INDEX, "model-*-of-*.safetensors")
_MOST_BYTES = 16 * 2**20  # of a JSON; the names of ImageNet-22k take two
_MOST_CLASSES = 1_000_000
_LARGEST = 16_384  # pixels of a side
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
# as Pillow numbers them
RESAMPLERS: dict[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}
_FULL = 255.0

T = TypeVar("T")


def folder_of(name: str) -> Path:
    """The folder that hf/NAME stands for: itself, or that of a hub id in the cache of
    huggingface_hub, which transformers fills.

    Raises:
        NotFound: there is none.
    """
    given = name.removeprefix(PREFIX)
    if given and is_folder(folder := at_home(given)):
        return folder
    if given.startswith((".", "/", "~")) or not _ID.fullmatch(given):
        raise NotFound(
            f"no such folder: {given or '.'}",
            hint="hf/./FOLDER is what save_pretrained of transformers wrote, hf/ORG/NAME a hub id",
        )
    if (config := cached(given, CONFIG)) is None:
        raise NotFound(
            f"{given} is no folder here, and transformers has no network of that name in its cache",
            hint=f"kd models {name} --download fetches it",
        )
    return config.parent


def is_hub_id(name: str) -> bool:
    """Tells whether hf/NAME can be a hub id."""
    given = name.removeprefix(PREFIX)
    return not given.startswith((".", "/", "~")) and _ID.fullmatch(given) is not None


def cached(repository: str, file: str) -> Path | None:
    """A file of a hub repository in the cache; nothing is fetched."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
        NotFound: it has none. BadCheckpoint: it cannot be read. Incompatible: it is timm's, or
            names no type of model.
    """
    path = folder / CONFIG
    if not is_file(path):
        raise NotFound(
            f"{folder} holds no {CONFIG}: it is no folder of a network of transformers",
            hint="save_pretrained of transformers writes one",
        )
    found = _json(path)
    if isinstance(found.get("model_type"), str):
        return found
    if isinstance(timms := found.get("architecture"), str):
        raise Incompatible(
            f"{folder} holds a network of timm, not of transformers",
            hint=f"timm/{timms} with weights = {str(folder / WEIGHTS)!r}",
        )
    raise Incompatible(
        f"{path} names no model_type: it is no network of transformers",
        hint="save_pretrained of transformers writes one",
    )


def class_names(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The classes of a config, in order; their numbers where it has no names for them.

    Raises:
        BadCheckpoint: its table of classes is none.
    """
    problem = f"{path} does not name its classes from 0 on (id2label)"
    if config.get("id2label") is None:
        count = _field(int, config, "num_labels", path) or 2  # transformers' own default
        if not 0 < count <= _MOST_CLASSES:
            raise BadCheckpoint(problem)
        return tuple(map(str, range(count)))
    table = _field(dict[str, str], config, "id2label", path) or {}
    numbers = [str(number) for number in range(len(table))]
    if not table or len(table) > _MOST_CLASSES or table.keys() != set(numbers):
        raise BadCheckpoint(problem)
    names = tuple(table[number] for number in numbers)
    unnamed = all(name == f"LABEL_{number}" for number, name in enumerate(names))
    return tuple(numbers) if unnamed else names


def files_of(folder: Path, weights: str) -> tuple[Path, ...]:
    """The files of a network's weights: those of its folder, or the one of that path.

    Raises:
        NotFound, BadCheckpoint: as `weight_files`.
    """
    return weight_files(folder) if weights == OWN_WEIGHTS else (Path(weights),)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that hold a network's weights.

    Raises:
        NotFound: it has none; says where there are others. BadCheckpoint: their index is none.
    """
    if is_file(folder / WEIGHTS):
        return (folder / WEIGHTS,)
    if is_file(folder / INDEX):
        path = folder / INDEX
        table = _field(dict[str, str], _json(path), "weight_map", path) or {}
        names = sorted(set(table.values()))
        if not names or any("/" in name or "\\" in name for name in names):
            raise BadCheckpoint(f"{path} does not say which files hold the weights")
        return tuple(folder / name for name in names)
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise NotFound(
            f"{folder} has its weights as a pickle alone ({pickles[0]}), which could run anything "
            "when it is read",
            hint="save_pretrained(FOLDER) of transformers writes model.safetensors",
        )
    raise NotFound(f"{folder} holds no {WEIGHTS}", hint="leave weights out for random ones")


def read_pixels(folder: Path) -> Sight:
    """What a folder's image processor makes of a picture; nothing where it has none.

    Raises:
        BadCheckpoint: its file cannot be read. Incompatible: it does what kd cannot do.
    """
    path = folder / PROCESSOR
    if not is_file(path):
        return Sight()
    said = _json(path)
    if said.get("do_flip_channel_order"):
        raise Incompatible(
            f"{path} asks for blue, green, red (do_flip_channel_order), and kd shows red, green, "
            "blue",
            hint="another network, or a factory of your own that swaps them: file.py:factory",
        )
    size, resize = _sizes(said, path)
    mean, std = _statistics(said, path)
    number = _field(int, said, "resample", path)
    interpolation = None if number is None else RESAMPLERS.get(number)
    return Sight(None, size, resize, interpolation, "pillow", mean, std)


def size_in(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """The size of pictures that a config names."""
    vision = config.get("vision_config")
    given = config.get("image_size") or (isinstance(vision, dict) and vision.get("image_size"))
    sides: list[Any] = given if isinstance(given, list) else [given, given]
    if len(sides) == 2 and all(type(side) is int and 0 < side <= 16_384 for side in sides):
        return sides[0], sides[1]
    return None


# ---- the image processor -------------------------------------------------------------------------


def _sizes(
    said: Mapping[str, Any], path: Path
) -> tuple[tuple[int, int] | None, int | tuple[int, int] | None]:
    """The size that is cut out, and what a picture is resized to before."""
    resized = _side(said, "size", path) if said.get("do_resize", True) else None
    cut = _side(said, "crop_size", path) if said.get("do_center_crop") else None
    if isinstance(cut, int):
        cut = (cut, cut)
    share = _field(float, said, "crop_pct", path)
    if share is not None and isinstance(resized, int) and 0 < share <= 1:
        # ConvNeXt: the middle part of pictures below 384 pixels, all of larger ones
        square = (resized, resized)
        return square, int(resized / share) if resized < 384 else square
    if cut is None and isinstance(resized, int):
        return (resized, resized), resized
    if cut is None and isinstance(resized, tuple):
        return resized, resized
    return cut, resized


def _side(said: Mapping[str, Any], key: str, path: Path) -> int | tuple[int, int] | None:
    """A shorter side, or height and width; both words stand under one key."""
    given = said.get(key)
    if given is None:
        return None
    if isinstance(given, int):
        return _pixels(given, key, path)
    table = _field(dict[str, Any], said, key, path) or {}
    if "shortest_edge" in table:
        return _pixels(table["shortest_edge"], key, path)
    if {"height", "width"} <= table.keys():
        return _pixels(table["height"], key, path), _pixels(table["width"], key, path)
    return None


def _pixels(given: Any, key: str, path: Path) -> int:
    if type(given) is not int or not 0 < given <= _LARGEST:
        raise BadCheckpoint(f"{path}: {key} is no number of pixels")
    return given


def _statistics(
    said: Mapping[str, Any], path: Path
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation of pixels in [0, 1], by all that is done to them."""
    mean, std = (_field(tuple[float, ...], said, f"image_{key}", path) for key in ("mean", "std"))
    if not said.get("do_normalize", True):
        mean = std = None
    channels = len(mean or std or (0,) * 3)
    mean, std = mean or (0.0,) * channels, std or (1.0,) * channels
    if len(mean) != len(std) or not all(value > 0 for value in std):
        raise BadCheckpoint(f"{path}: image_mean and image_std are no numbers of its channels")
    factor = _field(float, said, "rescale_factor", path) or 1 / _FULL
    scale = factor * _FULL if said.get("do_rescale", True) else _FULL
    shift = 1.0 if said.get("rescale_offset") else 0.0
    if said.get("include_top"):  # EfficientNet's: divides by the standard deviation once more
        std = tuple(value * value for value in std)
    if not scale > 0:
        raise BadCheckpoint(f"{path}: rescale_factor is not above 0")
    # (scale x - shift - mean) / std, as (x - m) / s
    return (
        tuple((value + shift) / scale for value in mean),
        tuple(value / scale for value in std),
    )


# ---- JSON ----------------------------------------------------------------------------------------


def _json(path: Path) -> dict[str, Any]:
    try:
        with given_by_the_user():
            return strict(dict[str, Any], parse_json(read_bytes(path, _MOST_BYTES)))
    except ValueError as error:
        raise BadCheckpoint(f"{path} cannot be read as JSON: {error}") from error
    except KdError as error:
        error.hint = None  # it speaks of files that kd writes
        raise


def _field(kind: type[T], table: Mapping[str, Any], key: str, path: Path) -> T | None:
    """A value of a table from outside; None where it is not there."""
    if table.get(key) is None:
        return None
    try:
        return strict(kind, table[key])
    except ValueError as error:
        raise BadCheckpoint(f"{path}: {key} {error}") from error
