"""Runs on a part of the training set: which images a teacher picks, and what a run says about what
it left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kdcli import formatting, tasks
from kdcli.core.classes import number_of, shown
from kdcli.core.teacher import Teacher
from kdcli.core.types import DataInfo, Feed, SplitName
from kdcli.data.subset import Restriction
from kdcli.engine.runtime import Runtime
from kdcli.errors import Incompatible, UsageError
from kdcli.losses import entropy
from kdcli.recipe.schema import DataSection
from kdcli.results.environment import TrainedOn

_SHOWN = 12  # class names that a sentence lists
_RANKS = {
    "entropy": "those with the highest entropy",
    "entropy-ascending": "those with the lowest entropy",
    "stratified": "spread evenly over the entropy",
}


def restriction_of(data: DataSection, class_names: Sequence[str]) -> Restriction:
    """What a [data] section takes away from its training set.

    Raises:
        UsageError: see `class_numbers`.
    """
    return Restriction(
        class_numbers(data.exclude_classes, class_names), data.per_class, data.select
    )


def class_numbers(given: Sequence[str | int], class_names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the classes that a recipe leaves out, ascending, each once.

    Args:
        given: names (text) and numbers; see kdcli.core.classes.
        class_names: [K] names.

    Raises:
        UsageError: no class has that name or number, several share the name, or no class would be
            left.
    """
    numbers = {number_of(item, class_names, "data.exclude_classes") for item in given}
    if len(numbers) == len(class_names):
        raise UsageError(
            "data.exclude_classes leaves no class to train on",
            hint="leave one class in, better two",
        )
    return tuple(sorted(numbers))


def soft_label_entropies(
    teacher: Teacher, whole: Feed, runtime: Runtime, temperature: float
) -> Tensor:
    """Entropy of the teacher's soft labels for every training image, [n] float64, nats, on the CPU.

    E = - sum_k p_k log p_k with p = softmax(v / tau): "Similarity information in teacher's
    response" of paper 001.

    Args:
        whole: its training split is the whole training set.
        temperature: tau.
    """
    answering = teacher.of("train") or teacher
    with torch.inference_mode():
        parts = [
            entropy(answering(runtime.place(batch)).logits.double(), temperature=temperature)
            for batch in whole.split("train")
        ]
    return torch.cat(parts).cpu().clone()


def missing_classes(info: DataInfo) -> tuple[int, ...]:
    """Classes that no training image shows; only a recipe that excludes them gets this far."""
    # they may be of any class; or classes are words, of which a text needs not have every one
    if info.unlabelled or not tasks.named(info.task).compares_classes:
        return ()
    counts = torch.bincount(info.targets, minlength=info.num_classes)
    return tuple(torch.nonzero(counts == 0).flatten().tolist())


def kept(info: DataInfo) -> dict[str, Any]:
    """What environment.json says of the training split: images by class, and a digest of where they
    lie in the dataset.
    """
    counts = torch.bincount(info.labelled, minlength=info.num_classes)
    return {"train_by_class": counts.tolist(), "positions_sha256": info.positions_sha256}


def check_same(run: str, began: TrainedOn, kind: str, feed: Feed) -> tuple[str, ...]:
    """Refuses to go on with a run whose training images are not those that it began with; other
    changes of its files are told, a sentence each.

    Args:
        run: its folder. began: what its environment.json says of the data. kind: its command.

    Raises:
        Incompatible: the data, or the teacher that picked them, changed meanwhile.
    """
    if began.positions_sha256 not in {None, feed.info.positions_sha256}:
        if began.train != feed.size("train"):
            raise Incompatible(
                f"{run} began with {began.train} training images, and there are "
                f"{feed.size('train')} now",
                hint=(
                    "bring each file back, or put a good picture in its place under its name, and "
                    f"kd resume {run} goes on; or start anew: kd {kind} {run}/recipe.toml"
                ),
            )
        raise Incompatible(
            "the training images are no longer those that the run began with",
            hint=(
                "the data or the teacher that ranks them changed, or another device ranks near "
                f"ties otherwise: start anew with kd {kind} {run}/recipe.toml"
            ),
        )
    parts: tuple[tuple[SplitName, int | None], ...] = (("val", began.val), ("test", began.test))
    told = [
        f"the run began with {formatting.plural(count, f'{part} image')}, and there are "
        f"{formatting.thousands(feed.size(part))} now"
        for part, count in parts
        if count is not None and count != feed.size(part)
    ]
    if not told and began.fingerprint not in {"unknown", feed.info.fingerprint}:
        told = ["files of the data are not what they were when the run began"]
    return tuple(told)


def notes(data: DataSection, info: DataInfo, ranked_by: str) -> Iterator[str]:
    """What the first lines of a run say of a restricted training set, one sentence each.

    Args:
        ranked_by: who ranked the images.
    """
    names = [shown(number, info.class_names) for number in missing_classes(info)]
    if names:
        classes = f"class{'es' if len(names) > 1 else ''} {formatting.listed(names, _SHOWN)}"
        yield (
            f"no training image of {classes}; the held-out part and the test set keep "
            f"{'it' if len(names) == 1 else 'them'}"
        )
    if data.per_class is not None:
        labels = (
            f"of {ranked_by}'s soft labels at τ = {formatting.temperature(data.select_temperature)}"
        )
        chosen = f"{_RANKS[data.select]} {labels}" if data.ranked else "at random"
        yield f"{formatting.plural(data.per_class, 'image')} a class, {chosen}"
