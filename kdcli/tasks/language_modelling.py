"""Language modelling: one row of logits a token, of which the target is the token that follows,
judged by perplexity.

perplexity = exp(mean over all tokens of -log p(token | those before it)): the number of words among
which a network that is right as often would guess.
"""

from __future__ import annotations

from kdcli import formatting
from kdcli.core.task import LANGUAGE_MODELLING, Headline, Task
from kdcli.results.measures import Measures

_CLASSES = "text is one long sequence, not samples of classes to choose among"
_PICTURES = "text has no pictures"
_ACCURACY = "text is judged by its perplexity, not by accuracy: gates.max_perplexity"


def _shown(found: Measures) -> str:
    return formatting.number(found.perplexity, 2)


def _less(one: Measures, other: Measures) -> float:
    # every token of a text is a label
    assert one.perplexity is not None and other.perplexity is not None  # noqa: PT018
    return one.perplexity - other.perplexity


def _beside(one: Measures, other: Measures) -> str:
    between = _less(one, other)
    shown = formatting.number(abs(between), 2)
    return (
        "as perplexed as"
        if float(shown) == 0
        else f"{shown} {'higher' if between > 0 else 'lower'} in perplexity than"
    )


def _said(found: Measures) -> str:
    return f"has a perplexity of {_shown(found)} on"


TASK = Task(
    name=LANGUAGE_MODELLING,
    hub="text-generation",
    summary="which token follows those before it",
    sample="token",
    rows="one a token that follows another; all count",
    batched=(
        "train.batch_size parts of the text read side by side, data.window tokens at a time; the "
        "hidden state goes on from window to window"
    ),
    headline=Headline(
        name="perplexity",
        heading="perplexity",
        path="perplexity",
        score=lambda found: -(found.nll or 0.0),
        shown=_shown,
        beside=_beside,
        said=_said,
        difference=lambda one, other: formatting.signed(_less(one, other), 2),
    ),
    measures=("perplexity", "nll", "accuracy", "top5", "ece"),
    pictures=False,
    compares_classes=False,
    fixed_shape=False,
    half_precision=False,
    same_classes=True,
    refuses={
        "data.train_limit": _CLASSES,
        "data.exclude_classes": _CLASSES,
        "data.per_class": _CLASSES,
        "data.select": _CLASSES,
        "data.sampler": _CLASSES,
        "train.class_weights": _CLASSES,
        "gates.min_class_accuracy": _CLASSES,
        "gates.within": _ACCURACY,
        "gates.not_below": _ACCURACY,
        "data.augment": _PICTURES,
        "data.views": _PICTURES,
        "size": _PICTURES,
        "resize": _PICTURES,
        "interpolation": _PICTURES,
        "mean": _PICTURES,
        "std": _PICTURES,
        "view": _PICTURES,
        "runtime.workers": _PICTURES,
        "runtime.decode": _PICTURES,
        "runtime.teacher_batch": "a teacher reads the windows of a text one after another",
        "runtime.compile": "windows of text differ in length, and none is compiled for",
        "runtime.graphs": "windows of text differ in length, and none is captured",
        "logits": "stored answers are by picture",
        "classes": "the words of a text are no classes that could be merged",
    },
)
