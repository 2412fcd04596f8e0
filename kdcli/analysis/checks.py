"""Checks of what analyses are given, before a NaN or a shape can spoil a mean.

Messages name the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdcli.core.types import UNLABELLED
from kdcli.errors import BadData, Incompatible, UsageError

_ENTRIES = 1 << 20  # of [n,K] at a time: 8 MB in float64, whatever K

STUDENT, TEACHER = "the student", "the teacher"


def rows_at_a_time(logits: Tensor) -> int:
    """The number of samples of logits [n,K] to take at a time.

    For where what is made of them on the way would not fit for all.
    """
    return max(_ENTRIES // logits.shape[1], 1)


def check_logits(
    logits: Tensor,
    targets: Tensor,
    *,
    label: str = "the network",
    start: int = 0,
    may_be_bare: bool = False,
) -> None:
    """Refuses logits that no analysis can use.

    Args:
        logits: [n,K] floating point.
        targets: [n] int64, classes from 0.
        label: what messages call the network.
        start: number of the first of these samples, where they come in parts.
        may_be_bare: whether samples without labels will do, all of them.

    Raises:
        Incompatible: shapes that do not fit each other, or fewer than two classes.
        BadData: no samples, logits that are NaN or infinite, or targets that are not classes.
    """
    _check_shapes(logits, targets, label)
    blocks = logits.split(rows_at_a_time(logits))  # type: ignore[no-untyped-call]
    finite = torch.cat([torch.isfinite(rows).all(dim=1) for rows in blocks])
    if not finite.all():
        first = start + int(torch.nonzero(~finite)[0])
        raise BadData(
            f"logits of {label} are not finite for {int((~finite).sum())} of {len(logits)} "
            f"samples, first for sample {first} (counted from 0)",
            hint=(
                "its training has diverged, or its input has: train it again with a lower "
                "optim.lr, and check that picture"
            ),
        )
    if may_be_bare and is_bare(targets):
        return
    if is_bare(targets):
        raise BadData(
            f"the samples that {label} answered have no labels, and this needs them",
            hint="give samples with labels",
        )
    if int(targets.min()) < 0 or int(targets.max()) >= logits.shape[1]:
        raise BadData(
            f"labels run from {int(targets.min())} to {int(targets.max())}, but {label} "
            f"predicts classes 0 to {logits.shape[1] - 1}",
            hint="evaluate a network on the data that it was trained for",
        )


def is_bare(targets: Tensor) -> bool:
    """Tells whether samples with these targets [n] have no labels."""
    return len(targets) > 0 and bool((targets == UNLABELLED).all())


def _check_shapes(logits: Tensor, targets: Tensor, label: str) -> None:
    """Refuses all but logits [n,K] for targets [n] with n >= 1 and K >= 2."""
    if logits.ndim != 2 or targets.ndim != 1 or len(logits) != len(targets):
        raise Incompatible(
            f"{label} has logits of shape {list(logits.shape)} for targets of shape "
            f"{list(targets.shape)}, not [n, K] for [n]"
        )
    if logits.shape[1] < 2:
        raise Incompatible(
            f"{label} has {logits.shape[1]} class, and probabilities over fewer than 2 "
            "classes carry no information"
        )
    if len(logits) == 0:
        raise BadData(
            f"there are no samples to measure {label} on", hint="choose a split that has some"
        )


def check_temperatures(temperatures: Sequence[float]) -> None:
    """Refuses an empty list of temperatures, and any that is not a positive number.

    Raises:
        UsageError: as said.
    """
    if not temperatures:
        raise UsageError(
            "no temperature given", hint="give at least one, such as --temperature 1,4"
        )
    for temperature in temperatures:
        if not (math.isfinite(temperature) and temperature > 0):
            raise UsageError(
                f"a temperature must be a number greater than 0, got {temperature}",
                hint="use --temperature 1,4",
            )


def check_class_names(class_names: Sequence[str], logits: Tensor, *, label: str) -> None:
    """Refuses names that are not one for each column of logits [n,K].

    Raises:
        Incompatible: as said.
    """
    if len(class_names) != logits.shape[1]:
        raise Incompatible(
            f"{label} predicts {logits.shape[1]} classes, the data has {len(class_names)}",
            hint="evaluate a network on the data that it was trained for",
        )


def check_pair(
    z: Tensor,
    v: Tensor,
    targets: Tensor,
    *,
    student: str = STUDENT,
    teacher: str = TEACHER,
    classes: int = 2,
) -> None:
    """Refuses two networks' logits [n,K] that cannot be compared by sample and by class.

    Args:
        z: student logits.
        v: teacher logits.
        targets: [n] int64.
        student: what messages call the student.
        teacher: what messages call the teacher.
        classes: the least K for which the analysis means something.

    Raises:
        Incompatible: shapes that differ or do not fit the targets, or fewer classes.
        BadData: see `check_logits` and `check_varied`.
    """
    if z.shape != v.shape:
        raise Incompatible(
            f"{student} has logits of shape {list(z.shape)}, {teacher} of shape "
            f"{list(v.shape)} (samples, classes)",
            hint="compare two networks that answered the same samples over the same classes",
        )
    for logits, label in ((z, student), (v, teacher)):
        check_logits(logits, targets, label=label)
        check_classes(logits, classes, label=label)
        check_varied(logits, label=label)


def check_classes(logits: Tensor, least: int, *, label: str) -> None:
    """Refuses logits [n,K] of fewer than `least` classes.

    Raises:
        Incompatible: as said.
    """
    if logits.shape[1] < least:
        raise Incompatible(
            f"{label} has {logits.shape[1]} classes, and this comparison of classes needs at "
            f"least {least}"
        )


def check_varied(logits: Tensor, *, label: str) -> None:
    """Refuses logits [n,K] that say the same of every class, in every sample.

    Raises:
        BadData: as said.
    """
    if bool((logits.amax(dim=1) == logits.amin(dim=1)).all()):
        raise BadData(
            f"logits of {label} are constant: in every sample all {logits.shape[1]} classes "
            "have the same",
            hint=(
                "it has learnt nothing, or its last layer was not loaded: check its accuracy "
                "with kd evaluate"
            ),
        )


def check_resamples(resamples: int) -> None:
    """Refuses a bootstrap without resamples.

    Raises:
        UsageError: as said.
    """
    if resamples < 1:
        raise UsageError(
            f"the number of bootstrap resamples must be at least 1, got {resamples}",
            hint="1000 is usual",
        )


def check_finite(values: Tensor, what: str, *, rows: str = "sample") -> None:
    """Refuses values [n,...] with a NaN or an infinity, naming the first row that has one.

    Raises:
        BadData: as said.
    """
    finite = torch.isfinite(values).flatten(1).all(dim=1)
    if not finite.all():
        first = int(torch.nonzero(~finite)[0])
        raise BadData(
            f"{what} are not finite for {int((~finite).sum())} of {len(values)}, first for "
            f"{rows} {first} (counted from 0)",
            hint=(
                "its training has diverged, or its input has: train it again with a lower optim.lr"
            ),
        )
