"""Checkpoints brought together with the data that they are measured on: what evaluate and analyze-gap share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Feed, SplitName
from kdcli.engine.checkpoint import write_tensors
from kdcli.engine.evaluator import collect
from kdcli.engine.runtime import Runtime
from kdcli.errors import Incompatible
from kdcli.header import CheckpointHeader, read_header
from kdcli.jobs.assemble import open_feed
from kdcli.jobs.networks import check_fits, load_network
from kdcli.recipe.schema import RESTRICTIONS, DataSection, branch


@dataclass(frozen=True, slots=True)
class Measured:
    """A checkpoint and its logits [n,K] over a split, float32, on the CPU."""

    path: Path
    label: str
    header: CheckpointHeader
    network: Network
    logits: Tensor
    targets: Tensor


def data_section(header: CheckpointHeader, data: str | None, root: str | None) -> DataSection:
    """The data that a checkpoint was trained on, or the dataset that was asked for instead.

    Whole: what a run took away from its training split (classes, all but a few images of each) is measured too, so that a
    student and its teacher meet the same images, and no teacher is needed to find out which ones a student had.
    """
    wanted = dict(header.data) if data is None or data == header.data.get("name") else {"name": data}
    wanted = {key: value for key, value in wanted.items() if key not in RESTRICTIONS}
    if root is not None:
        wanted["root"] = root
    section = branch(DataSection, str(wanted["name"])).model_validate(wanted)
    assert isinstance(section, DataSection)
    return section


def label_of(path: Path) -> str:
    """How tables call a checkpoint: its run's name, or the file's own."""
    return path.parent.name if path.name == "model.safetensors" and path.parent.name else path.stem


class Bench:
    """Measures checkpoints on the same splits; a dataset is opened once.

    Args:
        data: a dataset's name, or None for what each checkpoint was trained on. root: folder of the datasets.
        split: "test", "val" or "train"; val is the part that the checkpoint's own recipe held out.
    """

    def __init__(self, *, data: str | None, root: str | None, split: SplitName, runtime: Runtime) -> None:
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
                f"{section.name} has no {self._split} split here", hint="--split test, or train with data.val_fraction above 0"
            )
        return feed

    def measure(self, checkpoint: str | Path) -> Measured:
        """Run a checkpoint over its split."""
        path, header = read_header(checkpoint)
        feed = self.feed(header)
        check_fits(path, header, feed.info)
        network, header, path = load_network(checkpoint)
        self._runtime.move(network)
        teacher = Teacher(network)
        logits, targets = collect(lambda batch: teacher(self._runtime.place(batch)).logits, feed.split(self._split))
        return Measured(path, label_of(path), header, network, logits, targets)


def distinct_labels(measured: Iterable[Measured]) -> list[str]:
    """Labels that tell checkpoints apart, by number where names are equal."""
    seen: dict[str, int] = {}
    labels = []
    for item in measured:
        seen[item.label] = seen.get(item.label, 0) + 1
        labels.append(item.label if seen[item.label] == 1 else f"{item.label} ({seen[item.label]})")
    return labels


def save_logits(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write logits and targets as one safetensors file, atomically."""
    write_tensors(path, {name: tensor.contiguous().clone() for name, tensor in tensors.items()})
