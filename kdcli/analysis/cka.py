"""Linear centred kernel alignment (CKA): how alike two networks represent the same samples, stage
by stage.

Kornblith et al., Similarity of neural network representations revisited, ICML 2019, for features X
[n,D1], Y [n,D2] with centred columns:

    CKA = |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F)

1 for features that are equal up to rotation, scale and shift. That form is biased: independent
features have about sqrt(D1 D2) / n where n is far above the dimensions, and nearly 1 where it is
far below. The unbiased form, which is computed here, adds up HSIC_1 over minibatches (Song et al.,
Feature selection via dependence maximization, JMLR 2012, theorem 2; Nguyen et al., Do wide and deep
networks learn the same things?, ICLR 2021, equation 3) and needs neither all features at once nor
many samples; it may be slightly negative.

Maps are flattened to C H W numbers. Pool them first to compare what is represented rather than
where; the result's dimensions tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdcli.errors import BadData, Incompatible, UsageError
from kdcli.results.pair import StageCka
from kdcli.results.teacher import Matrix

_LEAST = 4  # samples that HSIC_1 needs
# features whose variance is below this share of their mean square vary by rounding alone
_FLAT = 1e-24
_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def _named(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]
) -> tuple[tuple[str, Mapping[str, Tensor]], ...]:
    """Both sides by what messages call them."""
    return (("student", student), ("teacher", teacher))


def _flat(x: Tensor, place: str) -> Tensor:
    """Features [n,...] as [n,D], off an accelerator that has no float64."""
    if x.ndim < 2 or x.numel() == 0:
        raise Incompatible(
            f"features of {place} have shape {list(x.shape)}, not [n, D] or [n, C, H, W]"
        )
    x = x.detach().flatten(1)
    return x.cpu() if x.device.type == "mps" else x


def _samples(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> int:
    for name, taps in _named(student, teacher):
        if not taps:
            raise UsageError(
                f"no tap of the {name} was given to compare",
                hint='name some, such as "stage*" or "pooled"',
            )
    counts = {
        f"tap {tap} of the {name}": len(x)
        for name, taps in _named(student, teacher)
        for tap, x in taps.items()
    }
    (first, n), *others = counts.items()
    for place, count in others:
        if count != n:
            raise Incompatible(
                f"{first} has {n} samples, {place} has {count}",
                hint="take both from the same pass over the data",
            )
    return n


class _Sums(NamedTuple):
    """HSIC_1 of one batch times its samples, for S student taps and T teacher taps, float64."""

    cross: Tensor  # [S,T]: each student tap with each teacher tap
    student: Tensor  # [S]: each with itself
    teacher: Tensor  # [T]


class MinibatchCka:
    """Adds up unbiased minibatch CKA of every student tap with every teacher tap.

    Takes features as they pass by. Keeps a few numbers a batch and nothing else, in float64 and
    where the features are; waits for the device only in `result`. Batches count by their samples;
    those of fewer than four are left out.

        cka = MinibatchCka(("stage1", "pooled"), ("stage1", "stage2", "pooled"))
        for batch in batches: cka.update(student(batch, taps).taps, teacher(batch, taps).taps)
        found = cka.result()
    """

    def __init__(self, student_taps: Sequence[str], teacher_taps: Sequence[str]) -> None:
        self.taps = (tuple(student_taps), tuple(teacher_taps))
        for name, taps in zip(("student", "teacher"), self.taps, strict=True):
            if not taps:
                raise UsageError(
                    f"no tap of the {name} was given to compare",
                    hint='name some, such as "stage*" or "pooled"',
                )
        self._dimensions: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._sums: list[_Sums] = []
        # [S + T] a batch: the first sample that is not finite, or the number of samples
        self._bad: list[Tensor] = []
        self._sizes: list[int] = []
        self._left_out = 0

    def update(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> None:
        """Takes in one batch: features [B,...] by tap, of which those not named are ignored.

        Raises:
            Incompatible: a tap that is missing or changes its size, or different numbers of
                samples.
        """
        sides = [
            self._pick(number, taps) for number, (_, taps) in enumerate(_named(student, teacher))
        ]
        size = _samples(*sides)
        dimensions = tuple(tuple(x.shape[1] for x in taps.values()) for taps in sides)
        if self._dimensions is None:
            self._dimensions = dimensions[0], dimensions[1]
        if dimensions != self._dimensions:
            raise Incompatible(
                f"features of the taps have {dimensions} numbers a sample in this batch, "
                f"{self._dimensions} in the first"
            )
        self._sizes.append(size)
        self._bad.append(torch.stack([_first_bad(x) for taps in sides for x in taps.values()]))
        if size < _LEAST:
            self._left_out += size
            return
        # [S,B*B] and [T,B*B]
        first, second = (
            torch.stack([_u_centred(x).flatten() for x in taps.values()]) for taps in sides
        )
        # HSIC_1 = <K, L> / (B (B - 3)), and the batch counts by its B samples
        scale = size / (size * (size - 3))
        self._sums.append(
            _Sums(
                first @ second.T * scale,
                first.square().sum(1) * scale,
                second.square().sum(1) * scale,
            )
        )

    def _pick(self, number: int, taps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The features [B,D] of the taps that were named, of student (0) or teacher (1)."""
        name = ("student", "teacher")[number]
        missing = [tap for tap in self.taps[number] if tap not in taps]
        if missing:
            raise Incompatible(
                f"the {name} gave no tap {missing[0]}", hint=f"it gave: {', '.join(taps) or 'none'}"
            )
        return {tap: _flat(taps[tap], f"tap {tap} of the {name}") for tap in self.taps[number]}

    def result(self) -> StageCka:
        """The CKA over all batches so far.

        Raises:
            BadData: no batch of at least four samples, or features that are not finite, named by
                tap and sample.
        """
        if not self._sums or self._dimensions is None:
            raise BadData(
                f"CKA needs batches of at least {_LEAST} samples, and there was none in "
                f"{sum(self._sizes)} samples",
                hint="use larger batches, or more samples",
            )
        self._check_finite()
        sums = _Sums(*(torch.stack(column).cpu() for column in zip(*self._sums, strict=True)))
        values, low, high = _with_interval(sums)
        return StageCka(
            *self.taps,
            *self._dimensions,
            values=_rows(values),
            n=sum(self._sizes) - self._left_out,
            batches=len(self._sums),
            left_out=self._left_out,
            low=None if low is None else _rows(low),
            high=None if high is None else _rows(high),
        )

    def _check_finite(self) -> None:
        places = [
            f"tap {tap} of the {name}"
            for name, taps in zip(("student", "teacher"), self.taps, strict=True)
            for tap in taps
        ]
        start = 0
        for size, firsts in zip(self._sizes, torch.stack(self._bad).tolist(), strict=True):
            for place, first in zip(places, firsts, strict=True):
                if first < size:
                    raise BadData(
                        f"features of {place} are not finite, first for sample "
                        f"{start + first} (counted from 0)",
                        hint=(
                            "its training has diverged, or its input has: train it again with a "
                            "lower optim.lr"
                        ),
                    )
            start += size


def _first_bad(x: Tensor) -> Tensor:
    """Position of the first row of x [n,D] that is not finite, n if all are."""
    finite = torch.isfinite(x).all(dim=1)
    return torch.where(finite, len(x), torch.arange(len(x), device=x.device)).min()


def _u_centred(x: Tensor) -> Tensor:
    """The U-centred linear kernel of features [n,D], [n,n] float64.

    HSIC_1 of two kernels is the inner product of their U-centred forms over n (n - 3). U-centring
    (Szekely and Rizzo, Annals of Statistics 2014, section 3.1) makes every row and column sum to 0
    with a zero diagonal. Being an inner product, it keeps CKA within [-1, 1].
    """
    x = x.double()
    square = x.square().sum()
    x = x - x.mean(dim=0)  # changes nothing but the rounding
    x = torch.where(x.square().sum() > _FLAT * square, x, 0.0)
    n = len(x)
    kernel = (x @ x.T).fill_diagonal_(0.0)
    rows = kernel.sum(dim=1)
    # K_ij - K_i. / (n - 2) - K_.j / (n - 2) + K_.. / ((n - 1) (n - 2))
    kernel = kernel - rows / (n - 2) - rows[:, None] / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    return kernel.fill_diagonal_(0.0)


def _with_interval(sums: _Sums) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """CKA [S,T] and its normal 95 % interval by the jackknife over batches, None for one batch.

    sums: those of all batches, stacked: [batches,S,T], [batches,S], [batches,T].
    """
    totals = [column.sum(dim=0) for column in sums]
    values, batches = _ratio(*totals), len(sums.cross)
    if batches < 2:
        return values, None, None
    left = _ratio(*(total - column for total, column in zip(totals, sums, strict=True)))
    # standard error^2 = (b - 1) / b sum (x_j - mean)^2 over the b values with one batch left out
    half = _Z95 * ((batches - 1) * left.var(dim=0, correction=0)).sqrt()
    return values, (values - half).clamp(min=-1.0), (values + half).clamp(max=1.0)


def _ratio(cross: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    """CKA, cross [...,S,T] / sqrt(student [...,S] teacher [...,T]); 0 where one of these is 0."""
    scale = (student.clamp(min=0)[..., :, None] * teacher.clamp(min=0)[..., None, :]).sqrt()
    return torch.where(scale > 0, cross / scale.masked_fill(scale == 0, 1.0), 0.0).clamp(-1.0, 1.0)


def _rows(matrix: Tensor) -> Matrix:
    return tuple(tuple(row) for row in matrix.tolist())
