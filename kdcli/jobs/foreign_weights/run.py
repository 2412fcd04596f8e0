"""`kd import`: somebody else's weights become a checkpoint of kd."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch

from kdcli import __version__, formatting, trust
from kdcli.core.network import Network, parameter_count
from kdcli.core.types import DataInfo
from kdcli.data.source import IMAGENET_MEAN, IMAGENET_STD
from kdcli.engine.checkpoint import save_model
from kdcli.errors import Incompatible, RunExists, UsageError
from kdcli.files import check_writable, sha256_file, write_json
from kdcli.jobs.build.datasets import open_feed
from kdcli.jobs.build.header import digests, write_code
from kdcli.jobs.build.job import code_of
from kdcli.jobs.build.networks import fresh_network
from kdcli.jobs.build.teachers import check_fits
from kdcli.jobs.foreign_weights import match
from kdcli.jobs.foreign_weights.class_names import check_number, read_class_names
from kdcli.jobs.foreign_weights.read import ForeignTensors, read_foreign
from kdcli.recipe import measured_data
from kdcli.recipe.reading.layers import Layer
from kdcli.recipe.schema import BOUNDS, DataSection
from kdcli.results.imported import ImportResult
from kdcli.results.places import start_folder
from kdcli.results.weights_header import MODEL_FILE, CheckpointHeader
from kdcli.runs.folder import check_out, reserved, run_name

RECORD_FILE = "import.json"
Values = tuple[float, ...]
Source = Literal["options", "data", "imagenet"]


def import_weights(
    file: str | Path,
    *,
    model: str | None = None,
    classes: str | Path | None = None,
    data: str | None = None,
    overrides: Mapping[str, Any] | Layer | None = None,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    input_shape: tuple[int, int, int] | None = None,
    mean: Values | None = None,
    std: Values | None = None,
    table: str | None = None,
    drop: Sequence[str] = (),
) -> ImportResult:
    """Makes a checkpoint of a state dict that another program wrote.

    Args:
        file: .safetensors, or what torch.save wrote: read without running anything of it.
        model: the network's name; found by the shapes of the tensors unless given.
        classes: a file of the names of its classes, or "imagenet".
        data: the dataset that it was trained on, for names, input shape, mean and std; overrides:
            dotted keys of [data].
        out: a new folder, or a new .safetensors file; a folder under `runs` unless given.
        input_shape: (C, H, W); the data's, or the network's usual one. mean, std: of each channel,
            of pixels in [0, 1]; the data's unless given.
        table: where in the file the weights are. drop: beginnings of names of tensors to leave out.

    Raises:
        NotFound: no such file, network or data. BadCheckpoint: the file cannot be read, or is more
            than tensors. Incompatible: its tensors are not those of the network, or it does not fit
            the data. UsageError: no network fits, or mean and std are not known.
        RunExists, NotWritable, DiskFull: it cannot be written there.
    """
    path = Path(file)
    target = None if out is None else Path(out)
    _check_target(target, Path(runs))
    asked = measured_data.asked_for(data, overrides)
    with trust.trusting([model, asked.get("data", "name")]):
        section = measured_data.section_asked(asked) if asked.get("data") else None
        names = None if classes is None else read_class_names(Path(classes))
        foreign = read_foreign(path, table)
        info = None if section is None else _info(section)
        shape = input_shape or (None if info is None else info.input_shape)
        found = (
            match.guess(str(path), foreign.tensors, input_shape=shape, drop=drop)
            if model is None
            else match.fit(model, foreign.tensors, input_shape=shape, drop=drop)
        )
        match.check(found, str(path))
        if names is not None:
            check_number(Path(str(classes)), names, found.num_classes, path)
        source, statistics = _statistics(path, found, info, mean, std)
        network = _network(found)
    code = code_of(network.blueprint, *([] if section is None else [section.name]))
    header = _header(network, found, names, section, info, statistics)
    header = replace(header, folder=start_folder(header.data, code), code=digests(code))
    if info is not None:
        check_fits(path, header, info, "network")
    with _place(target, Path(runs), found, section) as (folder, checkpoint):
        save_model(checkpoint, network, header)
        result = _result(path, foreign, found, header, folder, checkpoint, model, source)
        if folder is not None:
            write_code(folder, code)
            write_json(folder / RECORD_FILE, _record(result))
    return result


# ---- what is asked -------------------------------------------------------------------------------


def _check_target(target: Path | None, runs: Path) -> None:
    """Refuses a place that is taken or cannot be written to, before anything is read."""
    if target is None:
        check_out(runs)
    elif target.exists() or target.is_symlink():
        raise RunExists(
            f"{target} is there already", hint="choose another --out; nothing is overwritten"
        )
    elif _is_file(target):
        check_writable(target, text=False)
    else:
        check_out(target.parent)


def _is_file(target: Path) -> bool:
    return target.suffix == ".safetensors"


def _info(section: DataSection) -> DataInfo:
    return open_feed(section, device=torch.device("cpu"), seed=0).info


def _statistics(
    path: Path, found: match.Fit, info: DataInfo | None, mean: Values | None, std: Values | None
) -> tuple[Source, tuple[Values, Values]]:
    """Mean and standard deviation of each channel, and whose they are."""
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std go together: give both, or none")
    channels = found.input_shape[0]
    if mean is not None and std is not None:
        for option, values, fits in (
            ("--mean", mean, all(0 <= value <= 1 for value in mean)),
            ("--std", std, all(0 < value <= 1 for value in std)),
        ):
            if len(values) != channels:
                raise UsageError(
                    f"{option} has {len(values)} numbers, {path} takes pictures of "
                    f"{formatting.plural(channels, 'channel', ' ')}",
                    hint="one number for each channel: --mean 0.5,0.5,0.5",
                )
            if not fits:
                raise UsageError(
                    f"{option} is of pixels between 0 and 1, got "
                    f"{','.join(f'{value:g}' for value in values)}",
                    hint="of pixels between 0 and 255, divide it by 255",
                )
        return "options", (mean, std)
    if info is not None:
        return "data", (info.mean, info.std)
    if found.architecture.startswith("torchvision/"):
        return "imagenet", (IMAGENET_MEAN, IMAGENET_STD)
    raise UsageError(
        f"{path} does not say how its pictures were normalised",
        hint="-d DATA, which it was trained on, or --mean and --std as its program had them",
    )


# ---- what is made --------------------------------------------------------------------------------


def _network(found: match.Fit) -> Network:
    """The network with the weights of the file, in the types that kd has."""
    network = fresh_network(
        found.architecture, num_classes=found.num_classes, input_shape=found.input_shape
    )
    own = network.state_dict()
    for key, tensor in found.found.items():
        if tensor.is_floating_point() != own[key].is_floating_point():
            raise Incompatible(
                f"{key} is {str(tensor.dtype).removeprefix('torch.')} in the file, and "
                f"{str(own[key].dtype).removeprefix('torch.')} in {found.architecture}",
                hint="save the weights in the type that they were trained in",
            )
    network.load_state_dict({**own, **found.found})
    return network


def _header(
    network: Network,
    found: match.Fit,
    names: tuple[str, ...] | None,
    section: DataSection | None,
    info: DataInfo | None,
    statistics: tuple[Values, Values],
) -> CheckpointHeader:
    assert network.blueprint is not None  # everything that is built by name has one
    known = () if info is None or info.num_classes != found.num_classes else info.class_names
    numbers = tuple(map(str, range(found.num_classes)))
    data = section and section.model_dump(exclude_none=True, exclude={"root", *BOUNDS})
    seen = None
    if info is not None and info.input_shape == found.input_shape:
        seen = replace(info.pixels, mean=statistics[0], std=statistics[1])
    return CheckpointHeader(
        architecture=network.blueprint.architecture,
        arguments=dict(network.blueprint.arguments),
        num_classes=found.num_classes,
        input_shape=found.input_shape,
        class_names=names or known or numbers,
        mean=statistics[0],
        std=statistics[1],
        data=data or {},
        data_fingerprint="" if info is None else info.fingerprint,
        parameters=parameter_count(network),
        preprocessing=seen,
        created_by=f"kdcli {__version__}",
    )


@contextlib.contextmanager
def _place(
    target: Path | None, runs: Path, found: match.Fit, section: DataSection | None
) -> Iterator[tuple[Path | None, Path]]:
    """The folder, if one is made, and the checkpoint's file in it. Should writing fail, nothing of
    it stays.
    """
    if target is not None and _is_file(target):
        yield None, target
        return
    parts = (found.architecture, *(() if section is None else (section.name,)))
    out, name = (runs, None) if target is None else (target.parent, target.name)
    with reserved(out, run_name(*parts), name) as folder:
        yield folder, folder / MODEL_FILE


def _result(
    path: Path,
    foreign: ForeignTensors,
    found: match.Fit,
    header: CheckpointHeader,
    folder: Path | None,
    checkpoint: Path,
    model: str | None,
    source: Source,
) -> ImportResult:
    taken = {id(tensor) for tensor in found.found.values()}
    return ImportResult(
        run=folder,
        checkpoint=checkpoint,
        file=path,
        file_sha256=sha256_file(path),
        table=foreign.table,
        other_tables=foreign.others,
        prefix=found.prefix,
        network=header.architecture,
        guessed=model is None,
        parameters=header.parameters,
        tensors=len(found.found),
        left_out=tuple(n for n, tensor in foreign.tensors.items() if id(tensor) not in taken),
        num_classes=header.num_classes,
        class_names=header.class_names,
        input_shape=header.input_shape,
        mean=header.mean,
        std=header.std,
        statistics=source,
        data=header.data.get("name"),
    )


def _record(result: ImportResult) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in asdict(result).items()
        if key not in {"run", "checkpoint"}
    }
