"""What a network makes of classes that it never saw in training: paper 001's measure of what a
teacher passes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcli.analysis.measures import correct
from kdcli.results.intervals import Interval, wilson
from kdcli.results.measures import Excluded, ExcludedClass


def excluded(
    logits: Tensor,
    targets: Tensor,
    classes: Sequence[int],
    class_names: Sequence[str],
    teacher: Tensor | None = None,
) -> Excluded | None:
    """Accuracy on the test images of the missing classes, beside the teacher's.

    Args:
        logits: [n,K] of the student, raw.
        targets: [n] int64.
        classes: numbers of the missing classes.
        class_names: [K].
        teacher: [n,K] of the teacher, or None.

    Returns: None where no class is missing.
    """
    if not classes:
        return None
    right = correct(logits, targets)
    known = correct(teacher, targets) if teacher is not None else None
    each = tuple(
        ExcludedClass(class_names[number], number, *_measured(targets == number, right, known))
        for number in classes
    )
    return Excluded(each, *_measured(torch.isin(targets, torch.tensor(classes)), right, known))


def _measured(
    rows: Tensor, right: Tensor, known: Tensor | None
) -> tuple[int, float | None, Interval | None, float | None]:
    """Over some rows [n] bool: how many they are, accuracy, its interval, and the teacher's
    accuracy.
    """
    n, hits = int(rows.sum()), int(right[rows].sum())
    if n == 0:
        return 0, None, None, None
    return n, hits / n, wilson(hits, n), int(known[rows].sum()) / n if known is not None else None
