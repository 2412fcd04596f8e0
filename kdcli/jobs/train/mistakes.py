"""What a network gets wrong: small pictures of the test split, with the answers to them."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kdcli import clean
from kdcli.analysis.mistakes import Chosen, choose_mistakes, confidence
from kdcli.core.types import Feed
from kdcli.results.mistakes import (
    MOST_SIDE,
    GivenAnswer,
    Mistake,
    Mistakes,
    MistakesOfClass,
    MistakesOfKind,
)

_MODES = {1: "L", 3: "RGB"}  # of so many channels; others are no pictures
PNG_BYTES = 3000  # a picture that takes more as PNG becomes JPEG
JPEG_QUALITY = 85


def mistakes_if_any(
    feed: Feed, own: Tensor, teacher: Tensor | None, targets: Tensor, most: int
) -> tuple[Mistakes | None, tuple[str, ...]]:
    """As `find_mistakes`; where the pictures cannot be had, a warning in their place."""
    try:
        return find_mistakes(feed, own, teacher, targets, most), ()
    except Exception as error:  # noqa: BLE001  weights that took days are not saved yet
        return None, (f"pictures are left out of the report: {type(error).__name__}: {error}",)


def find_mistakes(
    feed: Feed, own: Tensor, teacher: Tensor | None, targets: Tensor, most: int
) -> Mistakes | None:
    """The mistakes of a network on the test split, with pictures of some; None where the samples
    are no pictures.

    Args:
        own, teacher: logits [n,K] of the whole split, in index order. targets: [n]; what is below 0
            has no label.
        most: pictures of each kind.
    """
    if not most or not _are_pictures(feed):
        return None
    found = list(choose_mistakes(own, teacher, targets, most))
    if not found:
        return Mistakes(int((targets >= 0).sum()), ())
    places = sorted({place for one in found for place in _places(one)})
    told = _told(feed, own, teacher, targets, places)
    names = feed.info.class_names

    def of_kind(one: Chosen) -> MistakesOfKind:
        classes = (
            MistakesOfClass(names[label], n, tuple(told[place] for place in shown))
            for label, (n, shown) in one.by_class.items()
        )
        return MistakesOfKind(
            one.kind, one.n, tuple(classes), tuple(told[place] for place in one.places)
        )

    return Mistakes(int((targets >= 0).sum()), tuple(map(of_kind, found)))


def _are_pictures(feed: Feed) -> bool:
    channels, height, width = feed.info.input_shape
    if channels not in _MODES or min(height, width) == 1 or feed.size("test") == 0:
        return False
    return feed.pixels("test", torch.zeros(1, dtype=torch.int64)).dtype == torch.uint8


def _places(one: Chosen) -> tuple[int, ...]:
    return (*one.places, *(place for _, shown in one.by_class.values() for place in shown))


def _told(
    feed: Feed, own: Tensor, teacher: Tensor | None, targets: Tensor, places: list[int]
) -> dict[int, Mistake]:
    """By place in the test split: the picture, and what it is taken for."""
    names, files = feed.info.class_names, feed.files("test")
    rows = torch.tensor(places, dtype=torch.int64)

    def answers(logits: Tensor) -> list[GivenAnswer]:
        sure, said = confidence(logits[rows])
        return [
            GivenAnswer(names[label], round(share, 4))
            for share, label in zip(sure.tolist(), said.tolist(), strict=True)
        ]

    theirs = [None] * len(places) if teacher is None else answers(teacher)
    pictures = feed.pixels("test", rows).cpu()
    return {
        place: Mistake(
            *small(picture),
            number=place,
            file=clean.line(files[place]) if files else "",
            label=names[int(targets[place])],
            own=mine,
            teacher=other,
        )
        for place, picture, mine, other in zip(places, pictures, answers(own), theirs, strict=True)
    }


def small(pixels: Tensor) -> tuple[str, int, int]:
    """A picture [C,H,W] uint8 as a data URI, made smaller where it is large; its width and
    height.
    """
    image = Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy(), _MODES[len(pixels)])
    image.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.LANCZOS)
    content, kind = _encoded(image, "PNG", optimize=True), "png"
    if len(content) > PNG_BYTES:
        content, kind = _encoded(image, "JPEG", quality=JPEG_QUALITY), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", *image.size


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
