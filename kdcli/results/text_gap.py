"""Records of where, in a text, a student answers otherwise than its teacher. Standard library
only.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdcli.results.intervals import Estimate

MOST_TOKENS = 1000  # that are shown one by one
LONGEST = 100  # characters of one of them


@dataclass(frozen=True, slots=True)
class TokensAt:
    """Tokens that have something in common. name: that; n: how many there are.

    teacher, student: mean entropies, nats. gap: S(student) - S(teacher), with a normal interval
    over tokens. surprise: -log p of the token that came, the student's less the teacher's, nats.
    """

    name: str
    n: int
    teacher: float
    student: float
    gap: Estimate
    surprise: float


@dataclass(frozen=True, slots=True)
class ShadedToken:
    """A token of the text as it stands. gap: S(student) - S(teacher) where it is to be predicted.
    ends: whether a line ends with it.
    """

    text: str
    gap: float
    ends: bool = False

    def __post_init__(self) -> None:
        if len(self.text) > LONGEST:
            raise ValueError("text is longer than a token")


@dataclass(frozen=True, slots=True)
class TextGap:
    """One student against its teacher at temperature 1, raw logits.

    by_frequency: tokens by how common they are in the training text. by_place: by how many stand
    before them in their line. less_sure, surer: the tokens of which the student is less sure than
    its teacher, or surer, the widest gaps first. opening: the split from its beginning.
    """

    student: str
    by_frequency: tuple[TokensAt, ...]
    by_place: tuple[TokensAt, ...]
    less_sure: tuple[TokensAt, ...]
    surer: tuple[TokensAt, ...]
    opening: tuple[ShadedToken, ...]

    def __post_init__(self) -> None:
        if len(self.opening) > MOST_TOKENS:
            raise ValueError(f"opening has more than {MOST_TOKENS} tokens")
