"""Checks of this machine: each says what it found and, where something is missing, what to do."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from kdcli import __version__, catalog

LITTLE_SPACE = 5 * 2**30  # a run with its checkpoints and one dataset


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ok: True, False, or None where it is only worth knowing."""

    name: str
    ok: bool | None
    detail: str
    hint: str | None = None


def doctor(root: str | None = None, *, out: Path = Path("runs")) -> tuple[Check, ...]:
    """The checks of versions, devices, precision, disk, folders and datasets."""
    folder = catalog.data_root(root)
    return (*_versions(), *_devices(), *_folders(folder, out), *_datasets(folder))


def _versions() -> Iterator[Check]:
    python = ".".join(str(part) for part in sys.version_info[:3])
    yield Check(
        "versions",
        ok=True,
        detail=(
            f"kd {__version__} · Python {python} · torch {torch.__version__} · torchvision "
            f"{version('torchvision')}"
        ),
    )
    yield Check(
        "cpu",
        ok=True,
        detail=(
            f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads · "
            f"{torch.backends.cpu.get_cpu_capability()}"
        ),
    )


def _devices() -> Iterator[Check]:
    if not torch.cuda.is_available():
        yield Check(
            "cuda", ok=None, detail="no CUDA device that torch can use: kd trains on the CPU"
        )
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        busy = free < 0.5 * total
        name = torch.cuda.get_device_name(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        detail = (
            f"{name} · CUDA {torch.version.cuda} · {bf16} · {free / 2**30:.0f} of "
            f"{total / 2**30:.0f} GiB free"
        )
        yield Check(
            f"cuda:{index}",
            ok=None if busy else True,
            detail=detail,
            hint="another process holds most of its memory" if busy else None,
        )


def _folders(data: Path, out: Path) -> Iterator[Check]:
    for name, folder, option in (("data", data, "KD_DATA_DIR"), ("runs", out, "--out")):
        existing = next(
            parent for parent in (folder, *folder.absolute().parents) if parent.exists()
        )
        free = shutil.disk_usage(existing).free
        writable = _writable(existing)
        hint = None if writable else f"set {option} to a folder that you may write to"
        if writable and free < LITTLE_SPACE:
            hint = "little space is left"
        detail = (
            f"{folder} · {free / 2**30:.0f} GiB free · {'writable' if writable else 'not writable'}"
        )
        yield Check(
            f"{name} folder",
            ok=writable if free >= LITTLE_SPACE or not writable else None,
            detail=detail,
            hint=hint,
        )


def _writable(folder: Path) -> bool:
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder):
        return True
    return False


def _datasets(root: Path) -> Iterator[Check]:
    for name, entry in sorted(catalog.entries("dataset").items()):
        if not entry.facts.get("download"):
            continue
        present = catalog.is_present(entry, root)
        missing = f"not there ({entry.facts.get('megabytes')} MB)"
        yield Check(
            name,
            ok=True if present else None,
            detail="there" if present else missing,
            hint=None if present else f"kd datasets {name} --download",
        )
