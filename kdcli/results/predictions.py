"""Records of what a network says to picture files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guess:
    """A class and its probability. index: of the class, from 0."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The likeliest classes of a picture, likeliest first. remark: what was done to its colours
    so that the network could take it; "" where nothing was.
    """

    file: str
    top: tuple[Guess, ...]
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that is no picture, or cannot be read. message: a sentence that names it."""

    file: str
    message: str


@dataclass(frozen=True, slots=True)
class PredictResult:
    """What a network said. model: the file that it is from. classes: how many it knows.

    warnings: what was done to the colours of pictures, a sentence for each kind.
    """

    model: str
    classes: int
    predictions: tuple[Prediction, ...]
    unread: tuple[Unread, ...] = ()
    warnings: tuple[str, ...] = ()
