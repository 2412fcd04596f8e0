"""Records of mistakes.json: test pictures that a network takes for another class. Standard library
only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["teacher-right", "both-wrong", "surest", "wrong"]
# nothing but a small picture, since it goes into a page as it is
_IMAGE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*")
MOST_CHARACTERS = 2**16  # of one picture
MOST_SIDE = 96  # pixels of its longer side


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """The class that a network takes a picture for, and the probability that it gives it, at
    temperature 1.
    """

    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class Mistake:
    """A test picture that a network takes for another class.

    image: a data URI, PNG or JPEG, of the picture as the network sees it before normalisation, made
    smaller where it is large. width, height: of it, in pixels. number: of the picture in the test
    split, from 0. file: its name below the dataset's folder, "" where it is from none. label: its
    class. own: the network's answer; teacher: the teacher's, or the reference's, if there is one.
    """

    image: str
    width: int
    height: int
    number: int
    file: str
    label: str
    own: GivenAnswer
    teacher: GivenAnswer | None = None

    def __post_init__(self) -> None:
        if len(self.image) > MOST_CHARACTERS or not _IMAGE.fullmatch(self.image):
            raise ValueError("image is no small PNG or JPEG")
        if not (0 < self.width <= MOST_SIDE and 0 < self.height <= MOST_SIDE):
            raise ValueError(f"width and height are not between 1 and {MOST_SIDE}")


@dataclass(frozen=True, slots=True)
class MistakesOfClass:
    """Mistakes of one kind of pictures of one class: how many there are, and those that are shown,
    the surest first.
    """

    label: str
    n: int
    shown: tuple[Mistake, ...]


@dataclass(frozen=True, slots=True)
class MistakesOfKind:
    """Mistakes of one kind.

    kind: "teacher-right", where the teacher answers rightly; "both-wrong", where it does not;
    "wrong", where there is no teacher; "surest", those of all kinds of which the network is surest,
    in one list. n: how many there are. classes: those with any, in class order; empty for "surest".
    """

    kind: Kind
    n: int
    classes: tuple[MistakesOfClass, ...] = ()
    shown: tuple[Mistake, ...] = ()


@dataclass(frozen=True, slots=True)
class Mistakes:
    """mistakes.json of a run. n: test pictures with a label. kinds: those that there are."""

    n: int
    kinds: tuple[MistakesOfKind, ...]
