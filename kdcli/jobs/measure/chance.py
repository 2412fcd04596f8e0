"""Networks that are no better than guessing: told of a teacher before anything is trained under it,
and of whatever a run ends with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from kdcli import formatting, tasks
from kdcli.core.carried import Carried
from kdcli.core.types import UNLABELLED, SplitName
from kdcli.engine.runtime import nothing_compiled
from kdcli.jobs.build.job import Job
from kdcli.results.measures import Measures

IMAGES = (
    256  # that a teacher is asked about first: a moment's work, also where its logits are stored
)


def chance(targets: Tensor, classes: int) -> float:
    """The accuracy of guessing: of the most frequent class, at least one in K."""
    counts = torch.bincount(targets[targets != UNLABELLED], minlength=classes)
    share = float(counts.max()) / max(len(targets), 1)
    return max(share, 1 / classes)


def no_better(accuracy: float, n: int, guess: float) -> bool:
    """Tells whether an accuracy over n images may be that of guessing: it is less than two standard
    errors above.
    """
    return accuracy < guess + 2 * math.sqrt(guess * (1 - guess) / n)


def teacher_warnings(job: Job) -> Iterator[str]:
    """A sentence for each teacher that guesses, from held-out images if there are any, else from
    training images: the same ones each time, by class, not augmented, and never of the test set.
    """
    split: SplitName = "val" if job.feed.size("val") else "train"
    if not job.teachers or job.feed.size(split) < 2:
        return
    batches = [job.runtime.place(batch) for batch in job.feed.sample(split, IMAGES)]
    targets = torch.cat([batch.y for batch in batches]).cpu()
    if UNLABELLED in targets:  # there are none with labels
        return
    guess = chance(targets, job.feed.info.num_classes)
    for loaded in job.teachers:
        with torch.inference_mode(), nothing_compiled():
            answering = loaded.teacher.live.of(split)
            if answering is None:
                continue
            chosen, carried = [], Carried()
            for batch in batches:
                with carried.window(batch):
                    chosen.append(answering(batch).logits.argmax(dim=1).cpu())
        right = (torch.cat(chosen) == targets).double().mean().item()
        if no_better(right, len(targets), guess):
            what = "held-out" if split == "val" else "training"
            sample, n = tasks.named(job.feed.info.task).sample, len(targets)
            yield (
                f"teacher {loaded.summary.checkpoint} is right about "
                f"{formatting.percent(right, n)} of {n} {what} {sample}s, where "
                f"guessing is about {formatting.percent(guess, n)}: was it trained on "
                f"such {sample}s, with their classes in this order?"
            )


def result_warnings(
    name: str, found: Measures, guess: float, classes: int, sample: str = "image"
) -> Iterator[str]:
    """A sentence where a network guesses, and one where its answers are worse than none; of samples
    without labels neither.
    """
    if found.accuracy is None or found.nll is None:
        return
    if no_better(found.accuracy, found.n, guess):
        yield (
            f"{name} is right about {formatting.percent(found.accuracy, found.n)} of the "
            f"{found.split} {sample}s, no better than guessing "
            f"({formatting.percent(guess, found.n)})"
        )
    if found.nll > math.log(classes):
        yield (
            f"the NLL of {name}, {formatting.number(found.nll)} nats, is above log K = "
            f"{formatting.number(math.log(classes))}: equal probabilities for all classes would be "
            "better than its own"
        )
