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
from kdcli.jobs.build.tuned import read_tuning, tuning_file
from kdcli.results.tuning import WORDS, TunedNetwork, TunedTeacher, Tuning

LITTLE_SPACE = 5 * 2**30  # a run with its checkpoints and one dataset


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ok: True, False, or None where it is only worth knowing."""

    name: str
    ok: bool | None
    detail: str
    hint: str | None = None


def doctor(root: str | None = None, *, out: Path = Path("runs")) -> tuple[Check, ...]:
    """The checks of versions, devices, precision, measured speeds, disk, folders and datasets."""
    folder = catalog.data_root(root)
    return (*_versions(), *_devices(), _tuned(), *_folders(folder, out), *_datasets(folder))


def _tuned() -> Check:
    """Whether automatic choices are measured ones."""
    tuning, why = read_tuning()
    if tuning is None:
        return Check(
            "tuned",
            ok=None,
            detail=why or "not measured here: automatic choices follow rules",
            hint="kd doctor --tune measures for two minutes",
        )
    names = len(tuning.networks)
    return Check(
        "tuned",
        ok=True,
        detail=f"measured here on {tuning.date} with {names} networks: {tuning_file()}",
    )


def tuning_checks(tuning: Tuning) -> tuple[Check, ...]:
    """What was measured, a line for each network: the fastest way, and how the others compare."""
    return tuple(
        [_of_network(network) for network in tuning.networks]
        + [_of_teacher(each, tuning.large) for each in tuning.teachers]
    )


def _of_network(network: TunedNetwork) -> Check:
    best = max(network.ways, key=lambda way: way.images_per_second)
    said = [f"{best.images_per_second:,.0f} images/s in {_named(best.key)}"]
    for place in range(len(best.key)):
        # all else as in the fastest
        others = [
            way
            for way in network.ways
            if way.key[place] != best.key[place]
            and all(way.key[at] == best.key[at] for at in range(len(best.key)) if at != place)
        ]
        said += [
            f"{WORDS[way.key[place]]} {way.images_per_second / best.images_per_second:.2f}"
            for way in others
        ]
    if network.compiled is not None and network.compile_seconds is not None:
        ratio = network.compiled / network.ways[0].images_per_second
        said.append(f"compiled {ratio:.2f} of plain, after {network.compile_seconds:.0f} s")
    return Check(f"{network.name} {_shape(network.input_shape)}", ok=True, detail=" · ".join(said))


def _of_teacher(each: TunedTeacher, large: int) -> Check:
    said = [f"answers {each.fp32:,.0f} images/s in fp32"]
    if each.bf16 is not None:
        said.append(f"bf16 {each.bf16 / each.fp32:.2f} of that")
    now, larger = (
        (each.fp32, each.fp32_large)
        if each.bf16 is None or each.bf16_large is None
        else (each.bf16, each.bf16_large)
    )
    said.append(f"{large} at once {larger / now:.2f}")
    return Check(f"{each.name} {_shape(each.input_shape)}", ok=True, detail=" · ".join(said))


def _named(key: tuple[str, ...]) -> str:
    return ", ".join(WORDS[part] for part in key)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


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
