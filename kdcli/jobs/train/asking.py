"""What the networks of a run answer to its splits."""

from __future__ import annotations

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


class HeldOut:
    """What the trainer asks of the held-out split after each epoch. What the teacher says of it is
    asked once.

    Raises:
        Incompatible: training is to stop by agreement with ready-made answers, which have none to
            this split.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._taught: Tensor | None = None  # the teacher's logits [n,K]
        self._asked: tuple[Network, Found] | None = None  # after the epoch that has just ended
        self._patient = job.recipe.train.patience is not None
        if self._patient and self._teacher is not None and self._teacher.of("val") is None:
            raise Incompatible(
                "train.patience looks at agreement with the teacher on held-out images, and its "
                "ready-made answers (teacher.logits) have none to them",
                hint="answers to the held-out split too, or leave train.patience out",
            )

    @property
    def _teacher(self) -> Teacher | None:
        """Whom the student is to agree with; None where its method has no teacher."""
        return self._job.answering if self._job.method.teacher_nets else None

    def _answers_of(self, teacher: Teacher) -> Tensor:
        if self._taught is None:
            self._taught = teacher_answers(self._job, teacher, "val").logits
        return self._taught

    def measures(self, network: Network) -> Measures | None:
        """How good a network is, or None where nothing is held out; where that has no labels, with
        its agreement with the teacher.
        """
        job = self._job
        if job.feed.size("val") == 0:
            return None
        answers = network_answers(job, network, "val")
        if self._patient:
            self._asked = (network, answers)
        teacher = job.answering if "val" in job.feed.info.bare else None
        if teacher is None or teacher.of("val") is None:
            return answers.measures
        agreement = agreement_of(answers.logits, self._answers_of(teacher))
        return replace(answers.measures, agreement=agreement)

    def agreement(self, network: Network) -> float | None:
        """The share for which a network and its teacher name the same class, or the share that it
        gets right where there is no teacher. Of a network whose measures were asked for just before
        nothing is asked again.
        """
        if self._job.feed.size("val") == 0:
            return None
        known, self._asked = self._asked, None
        answers = (
            known[1]
            if known is not None and known[0] is network
            else network_answers(self._job, network, "val")
        )
        if self._teacher is None:
            return float((answers.logits.argmax(1) == answers.targets).double().mean())
        return agreement_of(answers.logits, self._answers_of(self._teacher))
