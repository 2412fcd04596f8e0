"""What a comparison of two networks asks of their logits, checked once, with the network and the
sample named.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdcli.analysis.inputs import check_logits
from kdcli.errors import BadData, Incompatible, UsageError

STUDENT, TEACHER = "the student", "the teacher"


def check_pair(
    z: Tensor,
    v: Tensor,
    targets: Tensor,
    *,
    student: str = STUDENT,
    teacher: str = TEACHER,
    classes: int = 2,
) -> None:
    """Refuse two networks' logits [n,K] that cannot be compared sample by sample and class by
    class.

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
    """Refuse logits [n,K] of fewer than `least` classes.

    Raises:
        Incompatible: as said.
    """
    if logits.shape[1] < least:
        raise Incompatible(
            f"{label} has {logits.shape[1]} classes, and this comparison of classes needs at "
            f"least {least}"
        )


def check_varied(logits: Tensor, *, label: str) -> None:
    """Refuse logits [n,K] that say the same of every class, in every sample.

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
    """Refuse a bootstrap without resamples.

    Raises:
        UsageError: as said.
    """
    if resamples < 1:
        raise UsageError(
            f"the number of bootstrap resamples must be at least 1, got {resamples}",
            hint="1000 is usual",
        )


def check_finite(values: Tensor, what: str, *, rows: str = "sample") -> None:
    """Refuse values [n,...] with a NaN or an infinity, naming the first row that has one.

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
