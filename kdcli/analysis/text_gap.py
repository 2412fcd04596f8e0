"""Where, in a text, a student answers otherwise than its teacher. Pure functions on logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcli.analysis.checks import rows_at_a_time
from kdcli.analysis.energy import energies
from kdcli.results.intervals import Estimate
from kdcli.results.text_gap import LONGEST, ShadedToken, TextGap, TokensAt

_SHOWN = 10  # tokens of each kind
_LEAST = 5  # of a token, for a mean
_RANKS = (10, 100, 1000, 10_000)  # bounds of how common a token is
_PLACES = (1, 2, 4, 8, 16, 32)  # bounds of tokens before it
_NORMAL = 1.959964  # 95 %


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What belongs to the rows of a text besides their logits.

    places: [n] int64, tokens before each target in its line. logits, targets: [m,K], [m] of the
    split's first tokens, one after another. end: the token that ends a line; None where none does.
    """

    places: Tensor
    logits: Tensor
    targets: Tensor
    end: int | None


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """By row: entropies of teacher and student, and the student's surprise less the teacher's, [n]
    float64.
    """

    teacher: Tensor
    student: Tensor
    surprise: Tensor

    def at(self, name: str, chosen: Tensor) -> TokensAt | None:
        """Means over some rows [n] bool; None over none."""
        if not (n := int(chosen.sum())):
            return None
        teacher, student = self.teacher[chosen], self.student[chosen]
        gap = student - teacher
        mean = gap.mean().item()
        error = _NORMAL * (gap.std(correction=1).item() / n**0.5 if n > 1 else 0.0)
        return TokensAt(
            name,
            n,
            teacher.mean().item(),
            student.mean().item(),
            Estimate(mean, mean - error, mean + error),
            self.surprise[chosen].mean().item(),
        )


def text_gap(
    student: str,
    z: Tensor,
    v: Tensor,
    targets: Tensor,
    read: tuple[Read, Read],
    *,
    trained_on: Tensor,
    names: Sequence[str],
) -> TextGap:
    """The gap by frequency and place of tokens, and token by token.

    Args:
        student: its label. z, v: logits [n,K] of student and teacher. targets: [n].
        read: what the student and the teacher read.
        trained_on: targets [m] of the training text, for how common a token is.
        names: of the K tokens.
    """
    rows = _Rows(_entropy(v), _entropy(z), _surprise(z, targets) - _surprise(v, targets))
    counts = torch.bincount(trained_on, minlength=len(names))
    # the commonest token has rank 0; of equally common ones the first
    rank = torch.empty_like(counts)
    rank[torch.argsort(counts, descending=True, stable=True)] = torch.arange(len(names))
    own, theirs = read
    return TextGap(
        student,
        tuple(_between(rows, rank[targets], _RANKS, "rank {} to {}", "rank {} and on", first=1)),
        tuple(_between(rows, own.places, _PLACES, "{} to {} before it", "{} or more", first=0)),
        *_by_token(rows, targets, names),
        tuple(_shaded(own, theirs, names)),
    )


def _entropy(logits: Tensor) -> Tensor:
    return energies(logits, (1.0,)).entropy[:, 0].double()


def _surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of each row's target, [n] float64."""
    size = rows_at_a_time(logits)
    parts = zip(torch.split(logits, size), torch.split(targets, size), strict=True)
    return torch.cat(
        [-x.double().log_softmax(1).gather(1, y[:, None]).squeeze(1) for x, y in parts]
    )


def _between(
    rows: _Rows, values: Tensor, bounds: Sequence[int], inner: str, last: str, *, first: int
) -> Iterator[TokensAt]:
    """Rows by which bounds their numbers [n] lie between."""
    lower = 0
    for upper in (*bounds, None):
        chosen = values >= lower if upper is None else (values >= lower) & (values < upper)
        if upper is None:
            name = last.format(lower + first)
        elif upper - lower == 1:
            name = inner.partition(" to ")[0].format(lower + first) + inner.partition("{} to {}")[2]
        else:
            name = inner.format(lower + first, upper - 1 + first)
        if (found := rows.at(name, chosen)) is not None:
            yield found
        lower = upper or lower


def _by_token(
    rows: _Rows, targets: Tensor, names: Sequence[str]
) -> tuple[tuple[TokensAt, ...], tuple[TokensAt, ...]]:
    """The tokens with the widest gaps up and down, of those that come often enough for a mean."""
    counts = torch.bincount(targets, minlength=len(names))
    gaps = torch.zeros(len(names), dtype=torch.float64)
    gaps.index_add_(0, targets, rows.student - rows.teacher)
    mean = gaps / counts.clamp(min=1)
    often = (counts >= _LEAST).nonzero().flatten()
    ranked = often[torch.argsort(mean[often], descending=True, stable=True)].tolist()

    def told(tokens: Sequence[int], sign: int) -> tuple[TokensAt, ...]:
        found = (
            rows.at(names[token], targets == token) for token in tokens if sign * mean[token] > 0
        )
        return tuple(each for each in found if each is not None)

    return told(ranked[:_SHOWN], 1), told(ranked[::-1][:_SHOWN], -1)


def _shaded(own: Read, theirs: Read, names: Sequence[str]) -> Iterator[ShadedToken]:
    gaps = (_entropy(own.logits) - _entropy(theirs.logits)).tolist()
    for token, gap in zip(own.targets.tolist(), gaps, strict=True):
        yield ShadedToken(names[token][:LONGEST], round(gap, 4), token == own.end)
