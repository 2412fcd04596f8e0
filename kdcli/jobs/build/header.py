"""The header of a checkpoint: what a network is, what it was trained on, and how good it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from kdcli import __version__
from kdcli.core.network import Network, parameter_count
from kdcli.core.types import DataInfo
from kdcli.files import write_bytes
from kdcli.jobs.build.job import Job
from kdcli.recipe.schema import BOUNDS
from kdcli.results.measures import Measures
from kdcli.results.places import CODE_FOLDER, copies_of, start_folder
from kdcli.results.weights_header import CheckpointHeader


def class_names(info: DataInfo, logits: Tensor) -> tuple[str, ...]:
    """The data's, or numbers where they are not one for each column of logits [n,K]."""
    return (
        info.class_names
        if len(info.class_names) == logits.shape[1]
        else tuple(map(str, range(logits.shape[1])))
    )


def architecture(network: Network) -> str:
    """What a network that a job built is called."""
    assert network.blueprint is not None
    return network.blueprint.architecture


def make_header(
    job: Job,
    network: Network,
    test: Measures | None,
    recipe_sha256: str,
    epoch: int | None = None,
    folded_temperature: float | None = None,
) -> CheckpointHeader:
    """The header that makes a checkpoint explain itself.

    Args:
        network: what is saved; a method may deploy another one than the recipe names.
        test: None for weights kept on the way.
        epoch: after how many they were kept, where that is known.
        folded_temperature: what the last layer was divided by after training; None where it is as
            it was trained.
    """
    info = job.feed.info
    data = job.recipe.data.model_dump(exclude_none=True, exclude={"root", *BOUNDS})
    assert network.blueprint is not None  # everything that a job builds has one
    return CheckpointHeader(
        architecture=network.blueprint.architecture,
        arguments=dict(network.blueprint.arguments),
        num_classes=info.num_classes,
        input_shape=info.input_shape,
        class_names=info.class_names,
        mean=info.mean,
        std=info.std,
        data=data,
        data_fingerprint=info.fingerprint,
        parameters=parameter_count(network),
        method=job.recipe.method.name,
        method_options=job.recipe.method.options,
        epochs=job.recipe.train.epochs,
        seed=job.recipe.seed,
        teachers=tuple(loaded.summary.sha256 for loaded in job.teachers),
        teacher_classes={
            loaded.summary.sha256: loaded.groups
            for loaded in job.teachers
            if loaded.groups is not None and loaded.summary.sha256
        },
        metrics=asdict(test) if test is not None else {},
        recipe_sha256=recipe_sha256,
        epoch=epoch,
        folded_temperature=folded_temperature,
        continues=job.recipe.train.continues or "",
        preprocessing=info.pixels,
        vocabulary=info.vocabulary,
        folder=start_folder(data, job.code),
        code=digests(job.code),
        created_by=f"kdcli {__version__}",
    )


# ---- the Python files that it names --------------------------------------------------------------


def digests(code: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each of some files."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in code.items()}


def write_code(run: Path, code: Mapping[str, bytes]) -> None:
    """Copies the Python files that a run's checkpoint names into the run's folder.

    Raises:
        DiskFull, NotWritable: it takes no more.
    """
    for name, content in copies_of(code).items():
        write_bytes(run / CODE_FOLDER / name, content)
