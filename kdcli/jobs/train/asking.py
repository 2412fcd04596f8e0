"""What the networks of a run answer to its splits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from torch import Tensor

from kdcli.analysis.metrics import agreement_of
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import SplitName
from kdcli.engine.evaluator import evaluating
from kdcli.errors import Incompatible
from kdcli.jobs.build.job import Job
from kdcli.jobs.measure.answers import Found, found
from kdcli.results.measures import Measures


def network_answers(job: Job, network: Network, split: SplitName) -> Found:
    """What the run's network answers to a split, and how good it is on it."""
    with evaluating(network):
        return found(
            lambda batch: network(job.runtime.place(batch).x).logits,
            job.feed.showing(()).split(split),  # its own pixels, and no teacher's
            job.feed.info,
            job.feed.size(split),
            split=split,
            selected=job.recipe.train.select,
        )


def teacher_answers(
    job: Job, teacher: Teacher, split: SplitName, selected: Literal["last", "best"] = "last"
) -> Found:
    """The same for a teacher, through its own input normalisation."""
    answering = teacher.of(split)
    assert answering is not None  # whoever asks knows that there are answers
    return found(
        lambda batch: answering(job.runtime.place(batch)).logits,
        job.feed.split(split),
        job.feed.info,
        job.feed.size(split),
        split=split,
        selected=selected,
    )


def agreement(job: Job) -> Callable[[Network], float | None]:
    """What the trainer calls after each epoch where it stops early: the share of the held-out split
    for which a network and its teacher name the same class, or the share that it gets right where
    there is no teacher. What the teacher says is asked once.

    Raises:
        Incompatible: it has no answers to the held-out split.
    """
    teacher = job.answering if job.method.teacher_nets else None
    if job.recipe.train.patience is not None and teacher is not None and teacher.of("val") is None:
        raise Incompatible(
            "train.patience looks at agreement with the teacher on held-out images, and its "
            "ready-made answers (teacher.logits) have none to them",
            hint="answers to the held-out split too, or leave train.patience out",
        )

    @functools.cache
    def named() -> Tensor:
        if teacher is None:
            return network_answers(job, job.method.deployable(), "val").targets
        return teacher_answers(job, teacher, "val").logits.argmax(1)

    def agree(network: Network) -> float | None:
        if job.feed.size("val") == 0:
            return None
        found = network_answers(job, network, "val").logits.argmax(1)
        return float((found == named()).double().mean())

    return agree


def validation(job: Job) -> Callable[[Network], Measures | None]:
    """What the trainer calls after each epoch: measures on the held-out split, or None where
    nothing is held out. Where that has no labels, agreement with the teacher, who is asked once.
    """
    taught: list[Tensor] = []

    def evaluate(network: Network) -> Measures | None:
        if job.feed.size("val") == 0:
            return None
        logits, _, measures, *_ = network_answers(job, network, "val")
        teacher = job.answering if "val" in job.feed.info.bare else None
        if teacher is None or teacher.of("val") is None:
            return measures
        if not taught:
            taught.append(teacher_answers(job, teacher, "val").logits)
        return replace(measures, agreement=agreement_of(logits, taught[0]))

    return evaluate
