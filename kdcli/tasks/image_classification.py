"""Image classification: one row of logits a picture, judged by how often the likeliest class is the
true one.
"""

from __future__ import annotations

from kdcli import formatting
from kdcli.core.task import IMAGE_CLASSIFICATION, Headline, Task
from kdcli.results.measures import Measures


def _beside(one: Measures, other: Measures) -> str:
    difference = 100 * (one.accuracy - other.accuracy)
    shown = f"{abs(difference):.{formatting.percent_digits(one.n)}f}"
    return (
        "as accurate as"
        if float(shown) == 0
        else f"{shown} points {'below' if difference < 0 else 'above'}"
    )


def _said(found: Measures) -> str:
    return f"is right on {formatting.percent(found.accuracy, found.n)} of"


TASK = Task(
    name=IMAGE_CLASSIFICATION,
    summary="which class a picture, or a vector, is of",
    sample="image",
    rows="one an image; all count, and the cross-entropy those that have a label",
    batched="shuffled anew in each epoch, [B,C,H,W]",
    headline=Headline(
        name="accuracy",
        heading="accuracy",
        path="accuracy",
        score=lambda found: found.accuracy,
        shown=lambda found: formatting.percent(found.accuracy),
        beside=_beside,
        said=_said,
        difference=lambda one, other: formatting.points(one.accuracy - other.accuracy),
    ),
    measures=("accuracy", "top5", "balanced_accuracy", "macro_f1", "nll", "ece"),
    refuses={"gates.max_perplexity": "perplexity is of text, and these data are images"},
)
