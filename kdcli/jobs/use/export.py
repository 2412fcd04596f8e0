"""`kd export`: a trained network for other programs, compared with what it was made from before it
is put in place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcli import __version__, tasks
from kdcli.core import random
from kdcli.core.network import parameter_count
from kdcli.core.types import SplitName
from kdcli.errors import (
    BadCheckpoint,
    BadData,
    Incompatible,
    KdError,
    NotFound,
    Untrusted,
    UsageError,
)
from kdcli.files import sync_folder, write_error
from kdcli.jobs.use import formats
from kdcli.jobs.use import int8 as eight_bits
from kdcli.jobs.use.formats import Work
from kdcli.jobs.use.graph import Exportable
from kdcli.jobs.use.library_folder import check_library
from kdcli.jobs.use.network import Classifier, load_network
from kdcli.jobs.use.own_data import Images, open_images
from kdcli.jobs.use.pictures import normalised
from kdcli.recipe import measured_data
from kdcli.recipe.reading.layers import Layer
from kdcli.results.export import ExportCheck, ExportResult, Format, Quantisation
from kdcli.results.weights_header import find_checkpoint
from kdcli.trust import trusting

_PICTURES, _MADE_UP = 256, 32  # that both are asked about
_BATCH = 64
_TOLERANCE = 1e-3  # of the largest logit, and at least of 1
_SPLITS: tuple[SplitName, ...] = ("test", "val", "train")


def export(
    run: str | Path,
    *,
    format: Format,  # noqa: A002  the option's own name
    out: str | Path | None = None,
    uint8: bool = False,
    opset: int | None = None,
    int8: bool = False,
    calibration: int | None = None,
    max_drop: float | None = None,
    data: str | None = None,
    overrides: Mapping[str, Any] | Layer | None = None,
    trust: bool = False,
) -> ExportResult:
    """Writes a network for other programs.

    It is loaded again and asked about up to 256 pictures, of the test split where there is one, one
    alone and then batches; only if its logits are those of the network is it put in place.

    Args:
        run: a run directory or a model.safetensors.
        format: "pytorch", a folder whose model.py needs torch alone; "onnx"; "pt2", of
            torch.export; "torchscript"; or "hf", a folder that transformers or timm loads, of
            networks that are theirs.
        out: where it goes; beside the checkpoint unless given.
        uint8: whether it takes pixels of 0 to 255 and normalises them itself.
        opset: of ONNX; 18 unless given.
        int8: whether ONNX has weights and activations of eight bits, with ranges from so many
            `calibration` images of the training split (256 unless given). Refused where that costs
            more than `max_drop` points of accuracy on the test split (1 unless given): then nothing
            is written, and the result's gate says it.
        data, overrides: of the pictures to compare on, as `evaluate` takes them.
        trust: whether Python files run that the checkpoint names, and not the caller.

    Raises:
        UsageError: the place is taken, or a package is missing. Incompatible: the network cannot be
            said in this format. KdError: what was written answers otherwise; nothing is left of it.
            Others: as `load_network`.
    """
    _check_options(format, int8=int8, calibration=calibration, max_drop=max_drop, opset=opset)
    path = place_of(run, format, out, int8=int8)
    formats.check_installed(format)
    asked = measured_data.asked_for(data, overrides)
    with trusting([asked.get("data", "name")], everything=trust):
        network = load_network(run, trust=trust)
        _check_network(network, format, pixels=uint8, int8=int8)
        images = open_images(network, asked) if int8 else None
        if images is not None:
            eight_bits.check_images(images)
        pictures, source, warnings = _pictures(network, asked, images, pixels=uint8)
    work = _work(network, pixels=uint8, opset=opset or formats.OPSET)
    with _staged(path) as staged:
        formats.write(format, staged, work)
        check = _compared(network, formats.read(format, staged), pictures, source)
        _check_alike(network, format, check)
        quantised = None
        if images is not None:
            most = eight_bits.MAX_DROP if max_drop is None else max_drop
            count = calibration or eight_bits.CALIBRATION
            quantised = _in_eight_bits(network, staged, images, count, most, pixels=uint8)
        size = sum(file.stat().st_size for file in _files(staged))
        if quantised is not None and not quantised.gate.passed:
            staged.unlink()
    return ExportResult(
        checkpoint=str(network.checkpoint),
        network=network.header.architecture,
        format=format,
        path=str(path),
        size=size,
        parameters=parameter_count(network),
        classes=len(network.class_names),
        input=work.about["input"],
        input_shape=work.how.input_shape,
        check=check,
        opset=work.opset if format == "onnx" else None,
        warnings=warnings,
        int8=quantised,
        gates=() if quantised is None else (quantised.gate,),
    )


def _in_eight_bits(
    network: Classifier,
    path: Path,
    images: Images,
    count: int,
    max_drop: float,
    *,
    pixels: bool,
) -> Quantisation:
    """Quantises an ONNX file, and measures what that costs."""
    prepare = partial(_as_pixels, network=network) if pixels else _as_it_is
    found = eight_bits.quantise(path, images, count, prepare)
    answer = formats.read("onnx", path)
    return eight_bits.measured(network, answer, images, prepare, found, max_drop)


def _check_network(network: Classifier, kind: Format, *, pixels: bool, int8: bool) -> None:
    """Refuses what a format cannot hold.

    Raises:
        UsageError, Incompatible: says what.
    """
    task = tasks.of_model(network.header.architecture, network.header.input_shape)
    if not task.fixed_shape:
        raise Incompatible(
            f"{network.header.architecture} remembers what it read of a text, {task.sample} by "
            f"{task.sample}, and an exported file would not",
            hint="in Python: kdcli.jobs.load_network",
        )
    if int8 and not task.pictures:
        raise Incompatible(
            f"{network.header.architecture} reads texts, and --int8 is of networks of pictures",
            hint="leave --int8 out",
        )
    if kind == "hf":
        check_library(network.network)
        if pixels:
            raise UsageError(
                "hf has no --uint8: its folder says how pictures are normalised",
                hint="leave --uint8 out, or --format onnx",
            )
    if pixels and not network.preprocessing.takes_pictures:
        raise Incompatible(
            f"{network.checkpoint} takes vectors: only pictures have pixels of 0 to 255",
            hint="leave --uint8 out",
        )


def _check_alike(network: Classifier, kind: Format, check: ExportCheck) -> None:
    """Refuses what was written where it answers otherwise.

    Raises:
        KdError: it does.
    """
    if not check.passed:
        raise KdError(
            f"{kind} of {network.checkpoint} answers otherwise than the network: logits "
            f"differ by {check.largest_difference:.2g}, more than {check.allowed:.2g}; nothing "
            "was written",
            hint="choose another --format",
        )


def _check_options(
    kind: Format,
    *,
    int8: bool,
    calibration: int | None,
    max_drop: float | None,
    opset: int | None,
) -> None:
    """Refuses options that do not go together.

    Raises:
        UsageError: says which.
    """
    if opset is not None and kind != "onnx":
        raise UsageError(f"{kind} has no opset", hint="leave --opset out, or --format onnx")
    if not int8:
        for name, value in (("--calibration", calibration), ("--max-drop", max_drop)):
            if value is not None:
                raise UsageError(f"{name} goes with --int8", hint="add --int8, or leave it out")
        return
    if kind != "onnx":
        raise UsageError(f"{kind} has no int8", hint="--format onnx --int8")
    if calibration is not None and calibration < 1:
        raise UsageError(f"--calibration must be 1 or more, got {calibration}", hint="such as 256")
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise UsageError(f"--max-drop must be 0 to 100 points, got {max_drop:g}", hint="such as 1")
    if opset is not None and opset < eight_bits.OLDEST_OPSET:
        raise UsageError(
            f"--int8 takes opset {eight_bits.OLDEST_OPSET} or newer, got {opset}",
            hint="leave --opset out",
        )


def _as_it_is(x: Tensor) -> Tensor:
    return x


def place_of(
    run: str | Path, kind: Format, out: str | Path | None = None, *, int8: bool = False
) -> Path:
    """Where an export goes. One of eight bits has a name of its own: it lies beside the whole one,
    and `kd evaluate --latency` finds it there.

    Raises:
        NotFound: no such run. UsageError: something is there already.
    """
    checkpoint = find_checkpoint(run)
    path = (
        Path(out)
        if out
        else checkpoint.with_name(
            f"{checkpoint.stem}{'-int8' if int8 else ''}{formats.ENDINGS[kind]}"
        )
    )
    if os.path.lexists(path):
        raise UsageError(f"{path} is there already", hint="remove it, or name another place: -o")
    return path


def _work(network: Classifier, *, pixels: bool, opset: int) -> Work:
    header, how = network.header, network.preprocessing
    about = {
        "class_names": list(network.class_names),
        "preprocessing": asdict(how),
        "input": "uint8" if pixels else "float32" if header.vocabulary is None else "int64",
        "network": header.architecture,
        "made_by": f"kdcli {__version__}, torch {torch.__version__}",
    }
    if header.vocabulary is not None:
        about["vocabulary"] = asdict(header.vocabulary)
    title = f"{header.architecture}, {len(network.class_names)} classes. {about['made_by']}."
    return Work(
        Exportable(network.network, how if pixels else None, tokens=header.vocabulary is not None),
        header.architecture,
        about,
        title,
        opset,
        how,
    )


# ---- comparing -----------------------------------------------------------------------------------


def _pictures(
    network: Classifier, asked: Layer, images: Images | None, *, pixels: bool
) -> tuple[Tensor, str, tuple[str, ...]]:
    """Inputs [n,C,H,W] that both are asked about, where they are from, and a warning if that is
    nowhere. images: the data, where they have been opened.
    """
    try:
        images = images or open_images(network, asked)
        split = next(name for name in _SPLITS if images.feed.size(name))
        x = torch.cat([batch.x for batch in images.feed.sample(split, _PICTURES)])
        source = f"{split} split of {images.called}"
    except (NotFound, BadData, Untrusted, BadCheckpoint) as error:
        # a header that says nothing of its data is that of a network which was imported
        if asked.get("data") or (network.header.data and isinstance(error, BadCheckpoint)):
            raise
        x = _made_up(network)
        source = f"made-up {_samples(network)}"
        said = (f"compared on {_MADE_UP} {source}: {error.message}",)
        return (_as_pixels(x, network) if pixels else x), source, said
    return (_as_pixels(x, network) if pixels else x), source, ()


def _made_up(network: Classifier) -> Tensor:
    """Inputs that are of no data."""
    how, vocabulary = network.preprocessing, network.header.vocabulary
    shape = (_MADE_UP, *how.input_shape)
    with random.seeded(0, "made-up pictures"):
        if vocabulary is not None:
            return torch.randint(len(vocabulary.tokens), shape)
        return (
            normalised(torch.randint(256, shape), how) if how.takes_pictures else torch.randn(shape)
        )


def _samples(network: Classifier) -> str:
    """What a network is asked about, as messages call them."""
    return "pictures" if network.header.vocabulary is None else "texts"


def _as_pixels(x: Tensor, network: Classifier) -> Tensor:
    """Normalised pictures as the pixels that they were, uint8."""
    how = network.preprocessing
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (how.mean, how.std))
    return ((x * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _compared(
    network: Classifier, answer: formats.Answer, pictures: Tensor, source: str
) -> ExportCheck:
    """Answers to one picture alone, then to batches: a size of batch must not be built in."""
    parts = [part for part in (pictures[:1], *torch.split(pictures[1:], _BATCH)) if len(part)]
    with torch.no_grad():
        ours = torch.cat([network(_normal(part, network)) for part in parts])
        theirs = torch.cat([answer(part) for part in parts])
    return ExportCheck(
        len(pictures),
        source,
        float((ours - theirs).abs().max()),
        _TOLERANCE * max(1.0, float(ours.abs().max())),
        float((ours.argmax(1) == theirs.argmax(1)).double().mean()),
    )


def _normal(pictures: Tensor, network: Classifier) -> Tensor:
    if pictures.dtype != torch.uint8:
        return pictures
    return normalised(pictures, network.preprocessing)


# ---- putting in place ----------------------------------------------------------------------------


@contextlib.contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """A place beside a path; what is there at the end is put at the path in one step, and of what
    failed nothing is left.

    Raises:
        DiskFull, NotWritable: see `kdcli.files.write_error`.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir(parents=True)
        yield staging / path.name
        for file in _files(staging):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if os.path.lexists(staging / path.name):  # not where it was refused
            (staging / path.name).rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
