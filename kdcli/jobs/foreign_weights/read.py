"""The tensors in a file that another program wrote. No code of a file runs: what is more than
tensors and plain values is refused.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kdcli import formatting
from kdcli.errors import BadCheckpoint, CorruptFile, KdError, NotFound, UsageError
from kdcli.files import safetensors_metadata

# where programs keep the weights among other things; of two that are there the first is taken, as
# timm does
TABLES = ("state_dict_ema", "model_ema", "state_dict", "model", "net", "network", "student")
# what wraps a network puts before the names of its tensors
PREFIXES = ("student.", "module.", "_orig_mod.", "model.", "net.")
_DEEPEST = 3  # tables in tables


@dataclass(frozen=True, slots=True)
class ForeignTensors:
    """The tensors of a file by name, as they stand in it. table: where in the file they were, "" at
    its top; others: the tables of tensors beside it.
    """

    tensors: Mapping[str, Tensor]
    table: str = ""
    others: tuple[str, ...] = ()


def read_foreign(path: Path, table: str | None = None) -> ForeignTensors:
    """Reads a .safetensors file, or what torch.save wrote.

    Args:
        table: where the weights are, with dots between the names of tables in tables; found by the
            names that are usual unless given.

    Raises:
        NotFound: no such file, or no such table in it. BadCheckpoint: it cannot be read, is more
            than tensors, or holds none. UsageError: it is a checkpoint of kd already.
    """
    if not path.is_file():
        kind = "is a folder, not a file of weights" if path.is_dir() else "is not there"
        raise NotFound(f"{path} {kind}", hint="give the .pth, .pt, .bin, .ckpt or .safetensors")
    content = _safetensors(path) if _is_safetensors(path) else _pickled(path)
    found = _chosen(path, content, table) if table else _usual(path, content)
    for name, tensor in found.tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise BadCheckpoint(
                f"{path} holds {name} as a sparse, quantised or complex tensor",
                hint="save the weights as they were trained",
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadCheckpoint(
                f"{path} is of no use: {name} holds NaN or infinite numbers",
                hint="save the weights of an earlier epoch",
            )
    return found


def unwrapped(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tensors as they are, and without the names of what wraps their network, one after
    another: each with the prefix that was taken off. What does not have the prefix is left out.
    """
    prefix, found = "", dict(tensors)
    yield prefix, found
    while True:
        first = next((p for p in PREFIXES if any(name.startswith(p) for name in found)), None)
        if first is None:
            return
        prefix += first
        found = {
            name.removeprefix(first): tensor
            for name, tensor in found.items()
            if name.startswith(first)
        }
        yield prefix, found


# ---- files ---------------------------------------------------------------------------------------


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        metadata = safetensors_metadata(path)
        if "kd" in metadata:
            raise UsageError(
                f"{path} is a checkpoint of kd already",
                hint=f"use it as it is: kd evaluate {path}, kd distill -t {path}",
            )
        return load_file(path)
    except CorruptFile as error:
        raise BadCheckpoint(
            error.message, hint="copy it again from where it was whole", where=error.where
        ) from error
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _pickled(path: Path) -> Any:
    try:
        # a Namespace is what argparse gives: old training scripts keep theirs beside the weights,
        # and it is data
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except KdError:
        raise
    # a damaged pickle fails in any way: EOFError, KeyError, RuntimeError, UnpicklingError, ...
    except Exception as error:
        raise _refused(path, error) from error


_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
# what torch's reader of plain pickles says of those that would make or call something
_MORE = re.compile(r"GLOBAL|call reduce|create new object|Can only|Trying to|TorchScript")
_INSTEAD = "in the program that wrote it: torch.save(model.state_dict(), FILE), and import that"


def _refused(path: Path, error: Exception) -> BadCheckpoint:
    """Says whether a file is damaged, or asks for code."""
    text = str(error)
    wanted = _GLOBAL.search(text)
    if _MORE.search(text):
        what = (
            "a TorchScript archive"
            if "TorchScript" in text
            else "a pickle of more than tensors"
            + (f" (it asks for {wanted[1]})" if wanted is not None else "")
        )
        return BadCheckpoint(
            f"{path} is {what}: kd runs no code that comes in a file", hint=_INSTEAD
        )
    return _unreadable(path, error)


def _unreadable(path: Path, error: Exception) -> BadCheckpoint:
    if isinstance(error, OSError) and error.strerror:
        return BadCheckpoint(f"{path} cannot be read: {error.strerror}")
    return BadCheckpoint(
        f"{path} is damaged, or is no file of PyTorch or safetensors",
        hint="copy it again from where it was whole",
    )


# ---- tables --------------------------------------------------------------------------------------


def _tensors(content: Any) -> dict[str, Tensor]:
    """The tensors of a table by name; none where it is no table."""
    if not isinstance(content, Mapping):
        return {}
    return {
        name: value.detach()
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _usual(path: Path, content: Any) -> ForeignTensors:
    tables = list(_tables(content))
    if not tables:
        raise BadCheckpoint(
            f"{path} holds no weights where programs keep them: {_contents(content)}",
            hint="--table NAME says where they are",
        )
    name, tensors = tables[0]
    return ForeignTensors(tensors, name, tuple(other for other, _ in tables[1:]))


def _tables(
    content: Any, name: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tables of tensors under the usual names, the one to take first. A table with a table in
    it under such a name is what a program keeps around it.
    """
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return
    inner = [
        found
        for key in TABLES
        for found in _tables(content.get(key), f"{name}.{key}" if name else key, depth + 1)
    ]
    yield from inner
    # a table of one number, such as {"accuracy": tensor(71.2)}, is no network
    own = {} if inner else _tensors(content)
    if any(tensor.ndim for tensor in own.values()):
        yield name, own


def _chosen(path: Path, content: Any, table: str) -> ForeignTensors:
    found = content
    for part in table.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise NotFound(f"{path} has no table {table!r}: {_contents(content)}")
        found = found[part]
    tensors = _tensors(found)
    if not tensors:
        raise BadCheckpoint(f"{table!r} of {path} holds no tensors")
    return ForeignTensors(tensors, table)


def _contents(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    if not content:
        return "it is empty"
    return f"it has {formatting.listed([str(name) for name in content], 6)}"
