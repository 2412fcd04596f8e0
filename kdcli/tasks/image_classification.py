"""Image classification: one row of logits a picture, judged by how often the likeliest class is the
true one.
"""

from __future__ import annotations

from kdcli import formatting
from kdcli.core.task import IMAGE_CLASSIFICATION, Headline, Task
from kdcli.results.measures import Measures, share_of


def _beside(one: Measures, other: Measures) -> str:
    difference = 100 * ((one.accuracy or 0.0) - (other.accuracy or 0.0))
    shown = f"{abs(difference):.{formatting.percent_digits(one.n)}f}"
    return (
        "as accurate as"
        if float(shown) == 0
        else f"{shown} points {'below' if difference < 0 else 'above'}"
    )


def _difference(one: Measures, other: Measures) -> str:
    if one.accuracy is None or other.accuracy is None:
        return formatting.MISSING
    return formatting.points(one.accuracy - other.accuracy)


def _said(found: Measures) -> str:
    if found.accuracy is None:
        return "is used on"
    return f"is right on {formatting.percent(found.accuracy, found.n)} of"


TASK = Task(
    name=IMAGE_CLASSIFICATION,
    hub="image-classification",
    summary="which class a picture, or a vector, is of",
    sample="image",
    rows="one an image; all count, and the cross-entropy those that have a label",
    batched="shuffled anew in each epoch, [B,C,H,W]",
    headline=Headline(
        name="accuracy",
        heading="accuracy",
        path="accuracy",
        score=lambda found: share_of(found) or 0.0,
        shown=lambda found: formatting.percent(share_of(found)),
        beside=_beside,
        said=_said,
        difference=_difference,
    ),
    measures=("accuracy", "top5", "balanced_accuracy", "macro_f1", "nll", "ece"),
    refuses={"gates.max_perplexity": "perplexity is of text, and these data are images"},
)
