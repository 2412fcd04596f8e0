"""Training dynamics: entropy, free energy, gaps and logit norms of a few networks on the same
images.

Measuring changes nothing that is trained: networks are in eval mode, nothing is drawn from a
generator, and nothing that torch.compile made is called, whose later choices depend on what it has
seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdcli import losses
from kdcli.analysis.checks import is_bare
from kdcli.analysis.energy import energies
from kdcli.core.carried import Carried
from kdcli.core.method import Stage
from kdcli.core.network import Network
from kdcli.core.types import Batch
from kdcli.engine.evaluator import evaluating
from kdcli.engine.runtime import nothing_compiled
from kdcli.jobs.build.job import Job
from kdcli.recipe.schema import DistillRecipe
from kdcli.results.dynamics import EnergiesAt, NetworkSnapshot, Snapshot
from kdcli.results.gap import GapAt

# images are kept on the device up to this size, and read again each time above it
HELD_BYTES = 2**26


class Monitor:
    """What the trainer asks before a stage's first step and after each epoch.

    The images are the held-out ones where there are any, else training images as they are, without
    augmentation; never the test set. The teacher answers once.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._split: Literal["train", "val"] = "val" if job.feed.size("val") else "train"
        labelled = len(job.feed.info.labelled) if self._split == "train" else job.feed.size("val")
        self._count = min(job.recipe.report.probe, labelled)
        self._temperatures = tuple(dict.fromkeys((1.0, *job.recipe.report.temperatures)))
        self._own = "student" if isinstance(job.recipe, DistillRecipe) else "network"
        self._held: tuple[Batch, ...] | None = None
        self._answers: Tensor | None = None

    def __call__(self, network: Network, stage: Stage, step: int) -> Snapshot | None:
        """Measures the network that a stage shows, beside the teacher and those that the method
        watches.

        Args:
            step: optimiser steps that the stage has taken; before the first, networks may never
                have been trained.
        """
        if self._count < 2:  # a mean over one image says nothing
            return None
        networks = self._networks(network, stage)
        with torch.inference_mode(), nothing_compiled(), ExitStack() as modes:
            for item in networks.values():
                modes.enter_context(answering(item, untrained=step == 0))
            logits, targets = self._ask(networks)
            teacher = None
            if self._answers is not None:
                teacher = "teacher" if self._job.teachers else "reference"
                logits[teacher] = self._answers
            return summarise(
                logits,
                targets,
                self._temperatures,
                split=self._split,
                teacher=teacher,
                align=partial(self._job.method.aligned, self._job.method.options),
            )

    def _networks(self, network: Network, stage: Stage) -> dict[str, Network]:
        """By name: the one in training first, then those that are watched."""
        watched = self._job.method.watched()
        own = self._own if stage.network is None else stage.name
        name = next((name for name, item in watched.items() if item is network), own)
        return {
            name: network,
            **{name: item for name, item in watched.items() if item is not network},
        }

    def _ask(self, networks: Mapping[str, Network]) -> tuple[dict[str, Tensor], Tensor]:
        """Logits [n,K] of each network and targets [n]; the teacher's too, the first time."""
        parts: dict[str, list[Tensor]] = {name: [] for name in networks}
        targets, taught, carried = [], [], Carried()
        answering = self._job.answering if self._answers is None else None
        if answering is not None:
            answering = answering.of(self._split)
        for batch in self._images():
            placed = self._job.runtime.place(batch)
            targets.append(batch.y)
            with carried.window(batch):
                for name, network in networks.items():
                    parts[name].append(network(placed.x).logits.float())
                if answering is not None:
                    taught.append(answering(placed).logits.float())
        if taught:
            self._answers = torch.cat(taught)
        return {name: torch.cat(each) for name, each in parts.items()}, torch.cat(targets)

    def _images(self) -> Iterable[Batch]:
        if self._held is not None:
            return self._held
        feed = self._job.feed
        batches = feed.sample(self._split, self._count)
        own = [loaded.teacher.sees for loaded in self._job.teachers]
        shapes = [feed.info.input_shape, *(sees.pixels.input_shape for sees in own if sees)]
        if 4 * self._count * sum(torch.Size(shape).numel() for shape in shapes) > HELD_BYTES:
            return batches
        self._held = tuple(batches)
        return self._held


@contextmanager
def answering(network: nn.Module, *, untrained: bool) -> Iterator[None]:
    """Eval mode; where nothing may have been trained yet, batch norms without statistics take those
    of the images at hand.

    Their first ones, mean 0 and variance 1, fit nothing: the logits of an untrained resnet110 would
    have a norm of 10^8 with them.
    """
    with evaluating(network):
        norms = (
            [item for item in network.modules() if isinstance(item, _BatchNorm) and _unused(item)]
            if untrained
            else []
        )
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True


def _unused(norm: _BatchNorm) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return (
        norm.track_running_stats
        and mean is not None
        and variance is not None
        and not bool(mean.any() | (variance != 1).any())
    )


def summarise(
    logits: Mapping[str, Tensor],
    targets: Tensor,
    temperatures: Sequence[float],
    *,
    split: Literal["train", "val"],
    teacher: str | None,
    align: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Snapshot:
    """A probe from the answers to its images; waits for the device once.

    Args:
        logits: [n,K] by network, the one in training first.
        targets: [n].
        temperatures: each > 0.
        split: where the images are from; recorded.
        teacher: which of the networks the gaps are measured to, or None.
        align: Method.aligned, with the method's options.
    """
    trained = next(iter(logits))
    z, rows = logits[trained], list(logits.values())
    z_hat, v_hat = (z, z) if teacher is None else align(z, logits[teacher])
    aligned, facing = z_hat is not z, teacher is not None and v_hat is not logits[teacher]
    rows += [*((z_hat,) if aligned else ()), *((v_hat,) if facing else ())]
    table = _table(z, torch.stack(rows).double(), targets, temperatures)
    networks = {
        name: _probed(row, temperatures, trained=name == trained)
        for name, row in zip(logits, table, strict=False)
    }
    gaps: tuple[GapAt, ...] = ()
    if teacher is not None:
        forms = [_probed(row, temperatures, trained=True) for row in table[len(logits) :]]
        gaps = tuple(_gaps(networks[trained], networks[teacher], aligned=False))
        if aligned:
            seen = forms[1] if facing else networks[teacher]
            gaps += tuple(_gaps(forms[0], seen, aligned=True))
    if is_bare(targets):
        networks = {name: replace(item, accuracy=None) for name, item in networks.items()}
    return Snapshot(split, len(targets), trained, networks, gaps)


def _table(
    z: Tensor, stack: Tensor, targets: Tensor, temperatures: Sequence[float]
) -> list[list[float]]:
    """Means over samples of each of M rows of logits [M,n,K]: accuracy, logit norm, and for J
    temperatures entropy, free energy and KL to the student's logits z, M lists of 2 + 3 J numbers.
    """
    found = energies(stack.flatten(0, 1), temperatures)
    each = [
        (stack.argmax(-1) == targets).double().mean(1, keepdim=True),
        found.square_norm.sqrt().view(len(stack), -1).mean(1, keepdim=True),
        *(part.view(*stack.shape[:2], -1).mean(1) for part in (found.entropy, found.free_energy)),
        torch.stack(
            [
                torch.stack(
                    [losses.kd(z.double(), v, temperature=tau) / tau**2 for tau in temperatures]
                )
                for v in stack
            ]
        ),
    ]
    table: list[list[float]] = torch.cat(each, dim=1).tolist()
    return table


def _probed(
    row: Sequence[float], temperatures: Sequence[float], *, trained: bool
) -> NetworkSnapshot:
    count = len(temperatures)
    entropy, free_energy, kl = (row[2 + part * count : 2 + (part + 1) * count] for part in range(3))
    at = zip(temperatures, entropy, free_energy, kl, strict=True)
    return NetworkSnapshot(
        row[0],
        row[1],
        tuple(EnergiesAt(tau, s, f, None if trained else distance) for tau, s, f, distance in at),
    )


def _gaps(student: NetworkSnapshot, teacher: NetworkSnapshot, *, aligned: bool) -> Iterator[GapAt]:
    for z, v in zip(student.at, teacher.at, strict=True):
        yield GapAt(z.temperature, z.entropy - v.entropy, v.free_energy - z.free_energy, aligned)
