"""Text classification: one row of logits a text, judged as images are: by how often the likeliest
class is the true one.
"""

from __future__ import annotations

from dataclasses import replace

from kdcli.core.task import TEXT_CLASSIFICATION, Task
from kdcli.tasks.image_classification import TASK as IMAGES

_PICTURES = "text has no pictures"

TASK: Task = replace(
    IMAGES,
    name=TEXT_CLASSIFICATION,
    hub="text-classification",
    summary="which class a text is of",
    sample="text",
    rows="one a text; all count, and the cross-entropy those that have a label",
    batched="shuffled anew in each epoch, [B,1,1,L] tokens, filled up where a text is shorter",
    pictures=False,
    half_precision=False,
    refuses={
        "gates.max_perplexity": "texts that are sorted into classes are judged by accuracy",
        "data.augment": _PICTURES,
        "data.views": _PICTURES,
        "size": _PICTURES,
        "resize": _PICTURES,
        "interpolation": _PICTURES,
        "mean": _PICTURES,
        "std": _PICTURES,
        "view": _PICTURES,
        "runtime.decode": _PICTURES,
    },
)
