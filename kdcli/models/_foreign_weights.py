"""Weights of somebody else's library, from a .safetensors file into a network of that library."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from kdcli.errors import Incompatible, NotFound
from kdcli.files import given_by_the_user, is_file, safetensors_header

_SHOWN = 3


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors, by name; the tensors are not read.

    Raises:
        NotFound: no such file. BadCheckpoint: it is no whole safetensors file.
    """
    if not is_file(path):
        raise NotFound(f"no such file: {path}", hint="weights is the path of a .safetensors file")
    with given_by_the_user():
        _, shapes = safetensors_header(path)
    return shapes


def read_tensors(*paths: Path) -> dict[str, Tensor]:
    """The tensors of a file, or of several.

    Raises:
        NotFound, BadCheckpoint: as `shapes_of`.
    """
    found: dict[str, Tensor] = {}
    for path in paths:
        shapes_of(path)
        found |= load_file(path)
    return found


def fill(net: nn.Module, tensors: Mapping[str, Tensor], name: str, source: str) -> None:
    """Puts the tensors into the network.

    Raises:
        Incompatible: some are missing, left over or of another shape; names the first.
    """
    own = net.state_dict()
    missing = [key for key in own if key not in tensors]
    extra = [key for key in tensors if key not in own]
    shaped = [key for key in own if key in tensors and own[key].shape != tensors[key].shape]
    check_whole(missing, extra, shaped, name, source)
    net.load_state_dict(dict(tensors))


def check_whole(
    missing: Collection[str],
    extra: Collection[str],
    shaped: Collection[str],
    name: str,
    source: str,
) -> None:
    """Refuses weights that are not those of a network.

    Args:
        missing, extra, shaped: tensors that the file lacks, that the network lacks, and that have
            another shape.

    Raises:
        Incompatible: there are such; names the first.
    """
    problems = [
        f"{len(keys)} {what} ({', '.join(sorted(keys)[:_SHOWN])}{', ...' * (len(keys) > _SHOWN)})"
        for what, keys in (
            ("are missing", missing),
            ("are left over", extra),
            ("have another shape", shaped),
        )
        if keys
    ]
    if problems:
        raise Incompatible(
            f"{source} does not fit {name}: of its tensors {', '.join(problems)}",
            hint="the file must be of that very network, with its arguments",
        )
