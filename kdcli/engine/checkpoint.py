"""Weights and states on disk: safetensors and JSON, whole or absent, each with a checksum. No
pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kdcli.errors import CorruptFile, Incompatible, NotFound
from kdcli.files import safetensors_metadata, sha256_json, write_atomic, write_error
from kdcli.results.weights_header import CheckpointHeader

STATES_KEPT = 2  # the newest may be damaged by a failing disk: then the one before it still serves


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors."""
    running = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        running.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        running.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return running.hexdigest()


def _portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # clones, because safetensors refuses tensors that share memory; contiguous, so that the layout
    # leaves no trace
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise CorruptFile(
            f"{path} cannot be read: {error}", hint="copy it again, or train again"
        ) from error


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file atomically; tensors are contiguous and share no memory.

    Raises:
        DiskFull, NotWritable: see `kdcli.files.write_atomic`.
    """

    def save(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # it tells the system's error in its text only
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error

    write_atomic(path, save)


def save_model(path: Path, network: nn.Module, header: CheckpointHeader) -> CheckpointHeader:
    """Writes a self-describing checkpoint atomically; returns the header with its checksum filled
    in.
    """
    tensors = _portable(network.state_dict())
    complete = replace(header, tensors_sha256=digest(tensors))
    write_tensors(path, tensors, complete.to_metadata())
    return complete


def verified(path: Path) -> tuple[CheckpointHeader, dict[str, Tensor]]:
    """The header and the weights of a checkpoint, after comparing both with their checksums.

    Raises:
        CorruptFile: truncated, not ours, or a checksum does not match.
    """
    header = CheckpointHeader.from_metadata(safetensors_metadata(path), path)
    tensors = _read(path)
    if digest(tensors) != header.tensors_sha256:
        raise CorruptFile(
            f"{path} is damaged: its weights do not match their checksum",
            hint="copy it again, or train again",
        )
    return header, tensors


def load_weights(path: Path, network: nn.Module, *, but: str | None = None) -> CheckpointHeader:
    """Puts a checkpoint's weights into a network that was built from its header.

    Args:
        but: the path of a module whose weights are left as they are.

    Raises:
        CorruptFile: truncated, not ours, or the checksum does not match.
        Incompatible: the network has other parameters than the file, or of another type.
    """
    header, tensors = verified(path)
    if but is not None:
        own = {f"{but}.{name}": t for name, t in network.get_submodule(but).state_dict().items()}
        tensors = {name: t for name, t in tensors.items() if not name.startswith(f"{but}.")} | own
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    actual = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != actual:
        differing = sorted(
            name
            for name in expected.keys() | actual.keys()
            if expected.get(name) != actual.get(name)
        )
        raise Incompatible(
            f"{path} does not fit {header.architecture}: {len(differing)} tensors differ, "
            f"first {differing[0]}{lost_token(expected, actual)}"
        )
    for name, tensor in network.state_dict().items():
        # torch would convert between them, and lose what does not fit
        if _kind(tensors[name]) != _kind(tensor):
            raise Incompatible(
                f"{path} does not fit {header.architecture}: {name} is "
                f"{_named(tensors[name])}, and the network has {_named(tensor)}",
                hint="save the weights in the type that they were trained in",
            )
    network.load_state_dict(tensors)
    return header


def lost_token(expected: Iterable[str], actual: Iterable[str]) -> str:
    """What is to be said of the distillation token where a network has one and a file of its
    weights has none, or the other way; "" elsewhere. By the names of tensors: kd's and timm's.
    """
    ours, theirs = (
        any(name.rpartition(".")[2] in {"distillation_token", "dist_token"} for name in names)
        for names in (expected, actual)
    )
    if ours == theirs:
        return ""
    has, lacks = ("the network", "the file") if ours else ("the file", "the network")
    return f"; {has} has a distillation token, {lacks} has none"


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool


def _named(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class State:
    """The state from which a run can go on: tensors by name, and JSON-able facts. damaged: what is
    wrong with a newer one, which could not be used.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    damaged: str = ""


def save_state(folder: Path, state: State, order: int) -> Path:
    """Writes a state atomically and drops all but the newest few.

    Args:
        order: grows along the run; the file with the greatest one is the newest.

    Raises:
        DiskFull, NotWritable: it cannot be written, or the folder's own folder is gone.
    """
    path = folder / f"state-{order:012d}.safetensors"
    try:
        folder.mkdir(
            exist_ok=True
        )  # but not the run's own folder: a run that was removed has ended
    except OSError as error:
        raise write_error(error, path) from error
    tensors = _portable(state.tensors)
    metadata = {
        "facts": json.dumps(state.facts),
        "sha256": digest(tensors),
        "facts_sha256": sha256_json(state.facts),
    }
    write_tensors(path, tensors, metadata)
    for old in _states(folder)[:-STATES_KEPT]:
        old.unlink(missing_ok=True)
    return path


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.safetensors"))


def load_state(folder: Path) -> State:
    """The newest state that is whole.

    Raises:
        NotFound: the folder holds no state. CorruptFile: none of them can be used.
    """
    states = _states(folder)
    if not states:
        raise NotFound(
            f"no saved state under {folder}",
            hint="the run stopped before its first state: start it again",
        )
    problem: CorruptFile | None = None
    for path in reversed(states):
        try:
            found = _load_state(path)
        except CorruptFile as error:
            problem = problem or error
        else:
            return found if problem is None else replace(found, damaged=problem.message)
    assert problem is not None
    raise problem


def _load_state(path: Path) -> State:
    metadata = safetensors_metadata(path)
    tensors = _read(path)
    try:
        facts = json.loads(metadata["facts"])  # the best accuracy so far may be -inf
        whole = (
            isinstance(facts, dict)
            and metadata["sha256"] == digest(tensors)
            and metadata["facts_sha256"] == sha256_json(facts)
        )
    except (KeyError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise CorruptFile(
            f"{path} is damaged: it does not match its checksum",
            hint="remove it to resume from the state before",
        )
    return State(tensors, facts)


def flatten_optimiser(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as named tensors and JSON-able scalars, so that it needs no pickle."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for index, entry in optimiser.state_dict()["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            elif value is not None:  # SGD without momentum keeps a None
                scalars[f"{index}.{name}"] = value
    return tensors, scalars


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]
) -> None:
    """Inverse of `flatten_optimiser`."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **scalars}.items():
        index, _, slot = name.partition(".")
        entries.setdefault(int(index), {})[slot] = _laid_out(value, parameters[int(index)])
    optimiser.load_state_dict(
        {"state": entries, "param_groups": optimiser.state_dict()["param_groups"]}
    )


def _laid_out(value: Any, parameter: Tensor) -> Any:
    # fused optimisers walk a parameter and its buffers in memory order: both must have the same
    # strides
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    return value
