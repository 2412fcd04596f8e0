"""Measures of a network on one split, and McNemar's test between two networks."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdcli.analysis.calibration import Bins, answers, bins_of, calibration_error, error_of
from kdcli.analysis.checks import check_class_names, check_logits, is_bare, rows_at_a_time
from kdcli.analysis.energy import energies
from kdcli.core.types import SplitName
from kdcli.errors import Incompatible
from kdcli.results.intervals import Interval, wilson
from kdcli.results.measures import Excluded, ExcludedClass, Measures
from kdcli.results.run import RightAnswers


def measure(
    logits: Tensor,
    targets: Tensor,
    *,
    split: SplitName = "test",
    selected: Literal["last", "best"] = "last",
    label: str = "the network",
) -> Measures:
    """The measures of one network on one split, from its raw logits.

    Args:
        logits: [n,K] float, on the CPU.
        targets: [n] int64; all UNLABELLED where the split has no labels.
        split: which split these samples are; recorded.
        selected: which epoch's weights gave the logits; recorded.
        label: what error messages call the network.

    Raises:
        Incompatible, BadData: see `check_logits`.
    """
    tally = Tally(label)
    tally.add(logits, targets)
    return tally.measures(split=split, selected=selected)


class _Rows(NamedTuple):
    """What measures are made of, [n] each: a few numbers a row of logits, whatever K is."""

    place: Tensor
    confidence: Tensor
    right: Tensor
    log_p: Tensor
    entropy: Tensor
    free_energy: Tensor
    norm: Tensor
    said: Tensor
    targets: Tensor


# rows whose numbers are held before they are added up: few, because small tensors that stay among
# large ones that come and go break up the memory of these (2.3 GB of a long text for 1.0)
_SETTLED_ROWS = 1 << 10


class _Sums(NamedTuple):
    """The same added up. totals: [6] float64, of right answers, those among the likeliest five,
    log_p, entropy, free energy and norm. bins: of confidence. true, predicted, hits: [K] int64,
    rows of each class, answers of it, and right ones.
    """

    totals: Tensor
    bins: Bins
    true: Tensor
    predicted: Tensor
    hits: Tensor

    def plus(self, other: _Sums) -> _Sums:
        bins = Bins(*(one + two for one, two in zip(self.bins, other.bins, strict=True)))
        return _Sums(
            self.totals + other.totals,
            bins,
            self.true + other.true,
            self.predicted + other.predicted,
            self.hits + other.hits,
        )


def _sums_of(rows: _Rows, classes: int) -> _Sums:
    columns = (
        rows.place == 0,
        rows.place < 5,
        rows.log_p,
        rows.entropy,
        rows.free_energy,
        rows.norm,
    )
    return _Sums(
        torch.stack([column.double().sum() for column in columns]),
        bins_of(rows.confidence, rows.right),
        *counts_of(rows.said, rows.targets, classes),
    )


class Tally:
    """The measures of a network from logits that come in parts and are let go.

    Args:
        label: what error messages call the network.
    """

    def __init__(self, label: str = "the network") -> None:
        self._label = label
        self._parts: list[_Rows] = []
        self._classes = self._n = self._pending = 0
        self._settled: _Sums | None = None

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Takes logits [b,K] and targets [b].

        Raises:
            Incompatible, BadData: see `check_logits`.
        """
        check_logits(logits, targets, label=self._label, start=self._n, may_be_bare=True)
        # of samples without labels, what labels are needed for is let go in the end
        known = targets.clamp(min=0)
        confidence, right, log_p = answers(logits, known)
        energy = energies(logits, (1.0,))
        self._parts.append(
            _Rows(
                rank(logits, known),
                confidence,
                right,
                log_p,
                energy.entropy[:, 0],
                energy.free_energy[:, 0],
                energy.square_norm.sqrt(),
                logits.argmax(dim=1),
                targets,
            )
        )
        self._n, self._classes = self._n + len(targets), logits.shape[1]
        self._pending += len(targets)
        # of a long text not even a few numbers a row are kept
        if len(self._parts) > 1 and self._pending >= _SETTLED_ROWS and not is_bare(targets):
            self._settle()

    def _settle(self) -> None:
        """Adds what has come since up, and lets it go."""
        rows = _Rows(*(torch.cat(column) for column in zip(*self._parts, strict=True)))
        sums = _sums_of(rows, self._classes)
        self._settled = sums if self._settled is None else self._settled.plus(sums)
        self._parts, self._pending = [], 0

    def _of_sums(self, split: SplitName, selected: Literal["last", "best"]) -> Measures:
        """The measures, of sums."""
        if self._parts:
            self._settle()
        assert self._settled is not None
        found, n = self._settled, self._n
        hits, top5, log_p, entropy, free_energy, norm = found.totals.tolist()
        balanced, f1 = of_counts(found.true, found.predicted, found.hits)
        return Measures(
            n=n,
            accuracy=hits / n,
            accuracy_interval=wilson(int(hits), n),
            top5=top5 / n if self._classes > 5 else None,
            nll=-log_p / n,
            ece=error_of(found.bins),
            entropy=entropy / n,
            free_energy=free_energy / n,
            logit_norm=norm / n,
            split=split,
            selected=selected,
            balanced_accuracy=balanced,
            macro_f1=f1,
        )

    def measures(self, *, split: SplitName, selected: Literal["last", "best"]) -> Measures:
        """Those of all that was added. split, selected: recorded."""
        if self._settled is not None:
            return self._of_sums(split, selected)
        rows = _Rows(*(torch.cat(column) for column in zip(*self._parts, strict=True)))
        n, hits = self._n, int((rows.place == 0).sum())
        if is_bare(rows.targets):
            return Measures(
                n=n,
                accuracy=None,
                accuracy_interval=None,
                top5=None,
                nll=None,
                ece=None,
                entropy=rows.entropy.mean().item(),
                free_energy=rows.free_energy.mean().item(),
                logit_norm=rows.norm.mean().item(),
                split=split,
                selected=selected,
            )
        balanced, f1 = by_class(rows.said, rows.targets, self._classes)
        return Measures(
            n=n,
            accuracy=hits / n,
            accuracy_interval=wilson(hits, n),
            top5=int((rows.place < 5).sum()) / n if self._classes > 5 else None,
            nll=-rows.log_p.mean().item(),
            ece=calibration_error(rows.confidence, rows.right),
            entropy=rows.entropy.mean().item(),
            free_energy=rows.free_energy.mean().item(),
            logit_norm=rows.norm.mean().item(),
            split=split,
            selected=selected,
            balanced_accuracy=balanced,
            macro_f1=f1,
        )


def agreement_of(z: Tensor, v: Tensor) -> float:
    """The share of samples to which two networks give one likeliest class, from logits [n,K]."""
    return (z.argmax(dim=1) == v.argmax(dim=1)).double().mean().item()


def rank(logits: Tensor, targets: Tensor) -> Tensor:
    """The number of classes that each sample puts before its true one, [n] int64; 0 is correct.

    Equal logits stand in the order of their classes, as in argmax, so that top-1 and top-5 agree
    about ties.
    """
    classes, rows = torch.arange(logits.shape[1]), rows_at_a_time(logits)
    found = []
    for x, y in zip(logits.split(rows), targets.split(rows), strict=True):  # type: ignore[no-untyped-call]
        true = x.gather(1, y[:, None])
        found.append(((x > true) | ((x == true) & (classes < y[:, None]))).sum(dim=1))
    return torch.cat(found)


def correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Mask of the samples that are classified correctly, [n] bool: what `mcnemar` compares."""
    return rank(logits, targets) == 0


def right_answers(logits: Tensor, targets: Tensor) -> RightAnswers:
    """Which samples are classified correctly, as a run keeps it.

    Args:
        logits: [n,K]. targets: [n] int64.
    """
    bits = np.packbits(correct(logits, targets).numpy()).tobytes()
    labels = targets.to(torch.int64).numpy().astype("<i8").tobytes()
    return RightAnswers(
        len(targets), hashlib.sha256(labels).hexdigest(), base64.b64encode(bits).decode()
    )


def per_class_accuracy(
    logits: Tensor, targets: Tensor, class_names: Sequence[str]
) -> dict[str, float]:
    """Accuracy by class name, in class order; a class without samples is left out.

    Names that several classes share (ImageNet has some) get the class number in brackets.

    Raises:
        Incompatible: not one name a class, or shapes that do not fit.
        BadData: see `check_logits`.
    """
    check_logits(logits, targets)
    check_class_names(class_names, logits, label="the network")
    classes = logits.shape[1]
    count = torch.bincount(targets, minlength=classes).tolist()
    hits = torch.bincount(targets[correct(logits, targets)], minlength=classes).tolist()
    shared = Counter(class_names)
    names = [
        name if shared[name] == 1 else f"{name} ({number})"
        for number, name in enumerate(class_names)
    ]
    return {name: hit / size for name, hit, size in zip(names, hits, count, strict=True) if size}


def by_class(said: Tensor, targets: Tensor, classes: int) -> tuple[float, float]:
    """Balanced accuracy and macro-F1 of predicted classes [n] and targets [n], as scikit-learn
    defines them:

    balanced accuracy = mean_k tp_k / n_k                     over classes with samples
    macro-F1          = mean_k 2 tp_k / (n_k + predicted_k)   over classes with samples, or
                                                              that were predicted
    """
    return of_counts(*counts_of(said, targets, classes))


def counts_of(said: Tensor, targets: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of each class, predictions of it, and right ones, [K] int64 each."""
    counts = (targets, said, targets[said == targets])
    true, predicted, hits = (torch.bincount(x, minlength=classes) for x in counts)
    return true, predicted, hits


def of_counts(true: Tensor, predicted: Tensor, hits: Tensor) -> tuple[float, float]:
    """Balanced accuracy and macro-F1 of these counts, as `by_class`."""
    true, predicted, hits = (x.double() for x in (true, predicted, hits))
    there, any_of = true > 0, true + predicted > 0
    recall = hits[there] / true[there]
    f1 = 2 * hits[any_of] / (true + predicted)[any_of]
    return recall.mean().item(), f1.mean().item()


def mcnemar(correct_a: Tensor, correct_b: Tensor) -> float:
    """p-value of McNemar's exact two-sided test that two networks are equally accurate.

    Args:
        correct_a: [n] bool, as `correct` gives it.
        correct_b: [n] bool, same samples in the same order.

    Raises:
        Incompatible: they are not of one length.
    """
    if correct_a.shape != correct_b.shape:
        raise Incompatible(
            f"two networks were measured on {len(correct_a)} and {len(correct_b)} samples, "
            "not on the same ones"
        )
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    if only_a + only_b == 0:
        return 1.0
    # the binomial distribution; scipy.stats has the same test and takes two seconds to import
    from scipy.special import (
        bdtr,
    )

    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def confusion(logits: Tensor, targets: Tensor, num_classes: int) -> tuple[tuple[int, ...], ...]:
    """Counts [true][predicted] for logits [n,K] and targets [n].

    Rows of classes without samples are zero.

    Raises:
        Incompatible: num_classes is not K, or the shapes do not fit.
        BadData: see `check_logits`.
    """
    check_logits(logits, targets)
    if logits.shape[1] != num_classes:
        raise Incompatible(
            f"the network predicts {logits.shape[1]} classes, the data has {num_classes}"
        )
    cells = torch.bincount(targets * num_classes + logits.argmax(dim=1), minlength=num_classes**2)
    return tuple(tuple(row) for row in cells.view(num_classes, num_classes).tolist())


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
    """(count, accuracy, its interval, the teacher's accuracy) over some rows [n] bool."""
    n, hits = int(rows.sum()), int(right[rows].sum())
    if n == 0:
        return 0, None, None, None
    return n, hits / n, wilson(hits, n), int(known[rows].sum()) / n if known is not None else None
