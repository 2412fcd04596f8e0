"""Task: what a network is asked, and how its answers are judged.

Everything between works on rows of logits [N,K] and their targets [N], and knows no task by name: a
picture gives one row, a window of text one row a token. What differs stands here, and each task is
one file of kdcli/tasks. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kdcli.results.measures import Measures

IMAGE_CLASSIFICATION = "image-classification"
LANGUAGE_MODELLING = "language-modelling"
TEXT_CLASSIFICATION = "text-classification"


@dataclass(frozen=True, slots=True)
class Headline:
    """The measure that a result is called good or bad by.

    name: in running text; heading: of a table's column. path: below a run's `test` (kd table takes
    test.PATH). score: larger is better; what the best epoch and the best teacher are chosen by.
    shown: as people read it.
    beside: how one network does beside another, before that one's name: "0.4 points below".
    said: how one does on the samples that are named next: "is right on 97.2 % of".
    difference: the same as a table's cell shows it. Of samples without labels agreement stands in
    place of accuracy, in `score` and `shown`.
    """

    name: str
    heading: str
    path: str
    score: Callable[[Measures], float]
    shown: Callable[[Measures], str]
    beside: Callable[[Measures, Measures], str]
    said: Callable[[Measures], str]
    difference: Callable[[Measures, Measures], str]

    def called(self, found: Measures) -> str:
        """The name of what `shown` shows of these measures."""
        if self.path == "accuracy" and found.accuracy is None:
            return "agreement with the teacher"
        return self.name


@dataclass(frozen=True, slots=True)
class Task:
    """What a sample is, what its rows are, and what is measured of them.

    name: as data, networks and files say it. hub: as Hugging Face's model cards do. summary: in a
    sentence. sample: what one row of
    logits answers, in a word. rows: how many rows a sample gives and which of them count, for
    people. batched: how samples become minibatches, for people.
    pictures: samples are pictures that a person can look at. compares_classes: classes are few
    enough, and have images enough, to be compared with each other: confusion, measures by class,
    and what explains a gap are made of that. fixed_shape: every minibatch but the last has one
    shape, so that networks can be compiled for it and asked about several at once.
    half_precision: an automatic precision may be less than float32.
    same_classes: teacher and student must have the very same names of classes, in their order.
    refuses: recipe keys that would say nothing, each with the reason.
    headline: as said. measures: paths below `test` of all that is worth a row, the headline first.
    """

    name: str
    hub: str
    summary: str
    sample: str
    rows: str
    batched: str
    headline: Headline
    measures: tuple[str, ...]
    pictures: bool = True
    compares_classes: bool = True
    fixed_shape: bool = True
    half_precision: bool = True
    same_classes: bool = False
    refuses: Mapping[str, str] = field(default_factory=dict)

    def worded(self, text: str) -> str:
        """A sentence about images, in which no name from outside stands, about this task's
        samples.
        """
        return _IMAGES.sub(lambda found: self._said(*found.groups()), text)

    def _said(self, article: str | None, plural: str) -> str:
        return f"{'' if article is None else f'{article} '}{self.sample}{plural}"

    def every(self, rows: int, classes: int) -> int:
        """Of how many rows one is kept whole for what compares distributions, of a split of so many
        rows: 1 keeps all. Measures are of all rows in any case.
        """
        if self.compares_classes:
            return 1
        return max(-(-4 * rows * classes // KEPT_BYTES), 1)


_IMAGES = re.compile(r"\b(?:([Aa])n )?image(s?)\b")
# of one network's logits, float32, where a split may be longer than memory: 6,700 rows of a
# vocabulary of 10,000
KEPT_BYTES = 1 << 28
