"""Answers of checkpoints to the data that they are measured on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from kdcli.analysis.metrics import measure
from kdcli.core.network import Network
from kdcli.core.types import Batch, Feed, SplitName
from kdcli.engine.checkpoint import write_tensors
from kdcli.engine.evaluator import collect
from kdcli.engine.runtime import Runtime
from kdcli.errors import BadCheckpoint, Incompatible
from kdcli.jobs.build.datasets import open_feed
from kdcli.jobs.build.networks import as_teacher, check_fits, checked_header, load_network
from kdcli.jobs.measure.answers import Answers
from kdcli.recipe.schema import BOUNDS, RESTRICTIONS, DataSection, branch
from kdcli.results.weights_header import CheckpointHeader, read_header
from kdcli.trust import named_by
from kdcli.typed import complaint


def data_section(header: CheckpointHeader, data: str | None, root: str | None) -> DataSection:
    """The data that a checkpoint was trained on, or the dataset that was asked for instead.

    Whole: what a run took away from its training split (classes, all but a few images of each) is
    measured too, so that a student and its teacher meet the same images, and no teacher is needed
    to find out which ones a student had.
    """
    wanted = (
        dict(header.data) if data is None or data == header.data.get("name") else {"name": data}
    )
    wanted = {key: value for key, value in wanted.items() if key not in (*RESTRICTIONS, *BOUNDS)}
    if root is not None:
        wanted["root"] = root
    try:
        # through JSON: there strictness does not ask for Python's tuples
        text = json.dumps(wanted)
        section = branch(DataSection, str(wanted.get("name"))).model_validate_json(
            text, strict=True
        )
    except ValidationError as error:
        raise BadCheckpoint(
            f"the data that its header names cannot be had: {complaint(error)}",
            hint="name the data: -d NAME, or train it again",
        ) from error
    assert isinstance(section, DataSection)
    return section


def label_of(path: Path) -> str:
    """How tables call a checkpoint: its run's name, or the file's own."""
    return path.parent.name if path.name == "model.safetensors" and path.parent.name else path.stem


class CheckpointEvaluator:
    """Measures checkpoints on the same splits; a dataset is opened once.

    Args:
        data: a dataset's name, or None for what each checkpoint was trained on. root: folder of the
            datasets.
        split: "test", "val" or "train"; val is the part that the checkpoint's own recipe held out.
    """

    def __init__(
        self, *, data: str | None, root: str | None, split: SplitName, runtime: Runtime
    ) -> None:
        self._data = data
        self._root = root
        self._split: SplitName = split
        self._runtime = runtime
        self._feeds: dict[str, Feed] = {}

    def feed(self, header: CheckpointHeader) -> Feed:
        """The batches that a checkpoint is measured on.

        Raises:
            Incompatible: the split is empty.
        """
        section = data_section(header, self._data, self._root)
        # only the held-out part depends on the seed
        key = section.model_dump_json() + (str(header.seed) if self._split != "test" else "")
        if key not in self._feeds:
            self._feeds[key] = open_feed(section, device=self._runtime.device, seed=header.seed)
        feed = self._feeds[key]
        if feed.size(self._split) == 0:
            raise Incompatible(
                f"{section.name} has no {self._split} split here",
                hint="--split test, or train with data.val_fraction above 0",
            )
        return feed

    @property
    def device(self) -> str:
        """Where networks answer, as people call it."""
        return str(self._runtime.device)

    def answers(
        self,
        checkpoint: str | Path,
        label: str | None = None,
        taps: Callable[[Network], tuple[str, ...]] | None = None,
    ) -> Answers:
        """Runs a checkpoint over its split, once.

        Args:
            checkpoint: a file or a run directory.
            label: its name in tables and messages; its run's, or the file's own, unless given.
            taps: the taps of a network to keep besides its logits; none, and no image, unless
                given.
        """
        path, header = checked_header(checkpoint)
        with named_by(f"the header of {path}"):
            feed = self.feed(header)
        check_fits(path, header, feed.info, "network")
        network, header, path = load_network(checkpoint)
        teacher = as_teacher(network, (header.mean, header.std), feed.info, self._runtime)
        wanted = () if taps is None else taps(network)
        kept: dict[str, list[Tensor]] = {tap: [] for tap in wanted}
        first: list[Tensor] = []

        def forward(batch: Batch) -> Tensor:
            placed = self._runtime.place(batch)
            if taps is not None and not first:
                first.append(placed.x[:1].clone())
            output = teacher(placed, wanted)
            for tap, values in kept.items():
                values.append(_as_vectors(output.taps[tap]))
            return output.logits

        logits, targets = collect(forward, feed.split(self._split))
        return Answers(
            label=label or label_of(path),
            checkpoint=str(path),
            architecture=header.architecture,
            parameters=header.parameters,
            method=header.method,
            method_options=header.method_options,
            epochs=header.epochs,
            network=network,
            info=feed.info,
            logits=logits,
            targets=targets,
            measures=measure(logits, targets, split=self._split),
            features={tap: torch.cat(values)[: len(targets)] for tap, values in kept.items()},
            image=first[0] if first else None,
            sha256=header.tensors_sha256,
            teachers=header.teachers,
            folded_temperature=header.folded_temperature,
        )


def _as_vectors(x: Tensor) -> Tensor:
    """A tap's values [B,...] as [B,D] float32 on the CPU, maps [B,C,H,W] averaged over their
    positions.
    """
    return (x.float().mean(dim=(2, 3)) if x.ndim == 4 else x.float().flatten(1)).cpu()


def labels_of(checkpoints: Iterable[str | Path]) -> list[str]:
    """Labels that tell checkpoints apart, by number where names are equal."""
    return distinct(label_of(read_header(checkpoint)[0]) for checkpoint in checkpoints)


def distinct(names: Iterable[str]) -> list[str]:
    """Names, with a number behind those that have been there before."""
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return labels


def save_logits(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes logits and targets as one safetensors file, atomically."""
    write_tensors(path, {name: tensor.contiguous().clone() for name, tensor in tensors.items()})
