"""Image classification: one row of logits a picture, judged by how often the likeliest class is the
true one.
"""

from __future__ import annotations

from kdcli import formatting
from kdcli.core.task import IMAGE_CLASSIFICATION, Headline, Task
from kdcli.results.measures import Measures


def _beside(one: Measures, other: Measures) -> str:
    from kdcli.formatting import points

    return points(one.accuracy - other.accuracy, one.n)


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
        difference=lambda one, other: formatting.points(one.accuracy - other.accuracy),
    ),
    measures=("accuracy", "top5", "balanced_accuracy", "macro_f1", "nll", "ece"),
    refuses={"gates.max_perplexity": "perplexity is of text, and these data are images"},
)
