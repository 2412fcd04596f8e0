"""Which teacher to distil, by which method, at which temperature: candidates in the order of a
score, and whether that is advice.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdcli.advice import Advice, Candidate, judged
from kdcli.analysis.advice import answer_scores
from kdcli.core.types import DataInfo, SplitName
from kdcli.jobs.build.header import class_names
from kdcli.jobs.measure.answers import Side

TEMPERATURES = (1.0, 2.0, 4.0, 6.0, 9.0, 12.0, 20.0)


_SEEN = {
    "test": (
        "advice from test images: what is chosen by it has seen them; --split val keeps them "
        "unseen, where the teachers held some out"
    ),
    "train": (
        "advice from training images: teachers may know them by heart, and the score was made "
        "for images that they do not; --split val"
    ),
}


def caution(split: SplitName) -> tuple[str, ...]:
    """What to bear in mind about advice from the images of a split."""
    return (_SEEN[split],) if split in _SEEN else ()


def advise(
    teachers: Sequence[Side], info: DataInfo, temperatures: Sequence[float] | None = None
) -> Advice:
    """Score the answers of teachers that are measured on the same images.

    Args:
        info: of the data: names of the classes.
        temperatures: TEMPERATURES unless given.

    Raises:
        UsageError, Incompatible, BadData: as kdcli.analysis.advice.answer_scores.
    """
    found = []
    for side in teachers:
        v, y = side.logits, side.item.targets
        accuracy = float((v.argmax(dim=1) == y).double().mean())
        scored = answer_scores(
            v,
            y,
            tuple(temperatures or TEMPERATURES),
            label=f"teacher {side.label}",
            class_names=class_names(info, v),
        )
        found += [
            Candidate(side.label, method, tau, accuracy, len(y), scores)
            for (method, tau), scores in scored.items()
        ]
    return judged(found)
