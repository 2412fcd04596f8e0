"""Answers: a network, what it is, and what it said to the samples of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from kdcli import tasks
from kdcli.analysis.energy import energies
from kdcli.analysis.gap import Responses
from kdcli.analysis.metrics import Tally, measure
from kdcli.analysis.text_gap import Read
from kdcli.core.network import Network
from kdcli.core.types import Batch, DataInfo, SplitName
from kdcli.engine.evaluator import Forward, collect
from kdcli.errors import Incompatible
from kdcli.jobs.measure.costs import sum_of
from kdcli.jobs.measure.reading import Reading
from kdcli.results.cost import Cost
from kdcli.results.measures import EnergyAt, Measures


class Found(NamedTuple):
    """What a network answers to a split: logits [n,K] float32 and targets [n], on the CPU, of the
    rows that its task keeps (`Task.every`), and the measures of all rows. read: of a text that is
    read on and on, what belongs to these rows besides.
    """

    logits: Tensor
    targets: Tensor
    measures: Measures
    read: Read | None = None


def found(
    forward: Forward,
    batches: Iterable[Batch],
    info: DataInfo,
    rows: int,
    *,
    split: SplitName,
    selected: Literal["last", "best"] = "last",
) -> Found:
    """Asks a network about a split, once.

    Args:
        forward: as for `collect`. rows: of the split. split, selected: recorded.

    Raises:
        OutOfMemory: a batch does not fit. Others: as kdcli.analysis.metrics.measure.
    """
    task = tasks.named(info.task)
    every = task.every(rows, info.num_classes)
    if not task.fixed_shape:
        return _of_text(forward, batches, info, every, rows, split=split, selected=selected)
    if every == 1:
        logits, targets = collect(forward, batches)
        return Found(logits, targets, measure(logits, targets, split=split, selected=selected))
    tally = Tally()
    logits, targets = collect(forward, batches, every=every, seen=tally.add, total=rows)
    return Found(logits, targets, tally.measures(split=split, selected=selected))


def _of_text(
    forward: Forward,
    batches: Iterable[Batch],
    info: DataInfo,
    every: int,
    rows: int,
    *,
    split: SplitName,
    selected: Literal["last", "best"],
) -> Found:
    reading, tally = Reading(info, every), Tally()

    def seen(logits: Tensor, targets: Tensor) -> None:
        reading.seen(logits, targets)
        if every > 1:
            tally.add(logits, targets)

    logits, targets = collect(forward, reading.over(batches), every=every, seen=seen, total=rows)
    measures = (
        measure(logits, targets, split=split, selected=selected)
        if every == 1
        else tally.measures(split=split, selected=selected)
    )
    return Found(logits, targets, measures, reading.read)


class Head(NamedTuple):
    """The last layer, on the CPU. weight: [K,D]; bias: [K] or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """A network and its answers to the samples of a split; everything on the CPU but the image.

    label: its name in tables and messages. checkpoint: its file, "" where it is not saved yet.
    method, method_options, epochs, seed: what it was trained by, and for how long; None where that
    is not known. info: the data that it answered; source: what tables call them, where that is more
    than their name; trained_on_them: whether they are what it was trained on; files: the file of
    each sample, where they are from files. logits: [n,K] float32, raw. targets: [n]. measures: of
    the raw logits. features: what its taps gave, by name, [n,D] float32, maps averaged over their
    positions. image: the split's first one as the network gets it, [1,C,H,W], where its cost is
    asked for; cost: that, where it is known already. sha256: of its weights; teachers: those of the
    networks that taught it.
    folded_temperature: what its logits were divided by after training, or None. alone: False for
    several teachers that answer as one, which share neither features nor a last layer. read: of a
    text, what belongs to the rows besides.
    """

    label: str
    checkpoint: str
    architecture: str
    parameters: int
    method: str
    network: Network
    info: DataInfo
    logits: Tensor
    targets: Tensor
    measures: Measures
    method_options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    seed: int | None = None
    source: str = ""
    trained_on_them: bool = True
    files: tuple[str, ...] = ()
    features: Mapping[str, Tensor] = field(default_factory=dict)
    image: Tensor | None = None
    cost: Cost | None = None
    sha256: str = ""
    teachers: tuple[str, ...] = ()
    folded_temperature: float | None = None
    alone: bool = True
    read: Read | None = None

    @property
    def as_trained(self) -> Tensor:
        """Its logits [n,K] as they were in training: the very ones, where no temperature was folded
        in since.
        """
        tau = self.folded_temperature
        return self.logits if tau is None else tau * self.logits

    def response(self, aligned: Tensor | None = None, facing: Tensor | None = None) -> Responses:
        """What a gap is computed from. aligned, facing: as for `Responses`."""
        return Responses(
            label=self.label,
            checkpoint=self.checkpoint,
            network=self.architecture,
            parameters=self.parameters,
            method=self.method,
            logits=self.logits,
            aligned=aligned,
            measures=self.measures,
            facing=facing,
        )

    def energies(self, temperatures: Sequence[float]) -> tuple[EnergyAt, ...]:
        """Mean entropy and free energy at temperature 1 and at each of these."""
        every = tuple(dict.fromkeys((1.0, *temperatures)))
        found = energies(self.logits, every)
        # a column at a time, in one piece: sums in the order, and so with the bits, of `measure`
        means = (
            [column.contiguous().mean().item() for column in each.unbind(dim=1)]
            for each in (found.entropy, found.free_energy)
        )
        return tuple(EnergyAt(*each) for each in zip(every, *means, strict=True))

    def without_features(self) -> Answers:
        """The same with nothing that takes memory but the logits."""
        return replace(self, features={})

    @property
    def pooled(self) -> Tensor:
        """The vector that feeds the last layer, [n,D].

        Raises:
            Incompatible: the network has no such place.
        """
        if "pooled" not in self.features:
            raise Incompatible(
                f"{self.label} ({self.architecture}) has no tap 'pooled': no one vector feeds its "
                "last layer"
            )
        return self.features["pooled"]

    @property
    def head(self) -> Head:
        """The last layer, where there is one.

        Raises:
            Incompatible: as `pooled`.
        """
        assert self.pooled is not None
        layer = self.network.head
        return Head(
            layer.weight.detach().float().cpu(),
            None if layer.bias is None else layer.bias.detach().float().cpu(),
        )

    @property
    def linear_head(self) -> Head:
        """The same, where the logits really are its product with the features.

        Raises:
            Incompatible: they are not, as under a cosine head.
        """
        head, rows = self.head, slice(0, 64)
        expected = torch.nn.functional.linear(self.pooled[rows], head.weight, head.bias)
        largest = float(self.logits[rows].abs().max())
        if not torch.allclose(expected, self.logits[rows], rtol=1e-3, atol=1e-3 * largest):
            raise Incompatible(
                f"logits of {self.label} are not its features times the weights of its last layer"
            )
        return head


def mean_of(each: Sequence[Answers], weights: Sequence[float]) -> Answers:
    """Several networks that answer as one, by the weighted mean of their logits, as
    kdcli.core.teacher.Ensemble does; one alone is itself.

    Args:
        weights: each one's share; they add up to 1.

    Raises:
        Incompatible: they did not answer the same samples.
    """
    first, *others = each
    if not others:
        return first
    for other in others:
        check_same_samples(first, other)
    logits = torch.stack(
        [item.logits * weight for item, weight in zip(each, weights, strict=True)]
    ).sum(0)
    measured = first.measures
    costs = [item.cost for item in each if item.cost is not None]
    return replace(
        first,
        label=f"mean of {len(each)} teachers",
        parameters=sum(item.parameters for item in each),
        method="none",
        method_options={},
        logits=logits,
        measures=measure(logits, first.targets, split=measured.split, selected=measured.selected),
        features={},
        cost=sum_of(costs) if len(costs) == len(each) else None,
        alone=False,
    )


def check_same_samples(first: Answers, other: Answers) -> None:
    """Refuses to compare answers to different samples.

    Raises:
        Incompatible: their labels or numbers of classes differ.
    """
    same = first.logits.shape[1] == other.logits.shape[1]
    if not same or not torch.equal(first.targets, other.targets):
        names = f"{first.source or first.info.name} and {other.source or other.info.name}"
        raise Incompatible(
            f"{first.label} and {other.label} are not measured on the same images ({names})",
            hint="-d DATA measures both on one dataset",
        )


def taps(*, deep: bool) -> Callable[[Network], tuple[str, ...]]:
    """The taps of a network that an explanation reads: the vector before the head, and every stage
    where it goes deep.
    """

    def wanted(network: Network) -> tuple[str, ...]:
        stages = [tap for tap in network.taps if tap.startswith("stage") and "." not in tap]
        return (*(stages if deep else ()), *(tap for tap in ("pooled",) if tap in network.taps))

    return wanted
