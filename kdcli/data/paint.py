"""Random changes to the colours and the shape of a single picture, by torchvision's v2 operations:
colour jitter, RandAugment (Cubuk et al. 2020) and TrivialAugment (Mueller and Hutter 2021).

What torchvision draws from a generator comes out of the picture's change here, so that the same
change is the same picture in any process. Distances are shares of a picture's size: networks that
see it at other sizes see the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from kdcli.core import random

Policy = Literal["rand-augment", "trivial-augment"]
Jitter = tuple[float, float, float, float]

BINS = 31  # of a magnitude, as in the papers
_SMALL = 224  # pixels: TrivialAugment moves a picture of this size by 32
_KEY = 1 << 20  # of the draws for colours: far from those for crops
_ORDERS = 24  # in which four operations can stand


def jitter(picture: Tensor, change: int, amounts: Jitter) -> Tensor:
    """Brightness, contrast, saturation and hue of a picture [C,H,W] uint8 changed at random, in
    random order, as torchvision.transforms.v2.ColorJitter does.

    Args:
        amounts: factors lie within 1 minus and plus the first three; hue turns by the fourth of a
            circle at most, either way.
    """
    from torchvision.transforms.v2 import functional as f

    brightness, contrast, saturation, hue = amounts
    operations: list[tuple[Callable[..., Tensor], float]] = [
        (operation, max(0.0, 1 - amount) + (1 + amount - max(0.0, 1 - amount)) * drawn)
        if operation is not f.adjust_hue
        else (operation, (2 * drawn - 1) * amount)
        for operation, amount, drawn in (
            (f.adjust_brightness, brightness, random.uniform_int(change, _KEY)),
            (f.adjust_contrast, contrast, random.uniform_int(change, _KEY + 1)),
            (f.adjust_saturation, saturation, random.uniform_int(change, _KEY + 2)),
            (f.adjust_hue, hue, random.uniform_int(change, _KEY + 3)),
        )
        if amount
    ]
    order = random.integers_int(change, _KEY + 4, _ORDERS)
    while operations:
        order, place = divmod(order, len(operations))
        operation, factor = operations.pop(place)
        picture = operation(picture, factor)
    return picture


# ---- policies ------------------------------------------------------------------------------------

# operation -> whether its magnitude may be negative; the order is torchvision's
OPERATIONS = {
    "Identity": False,
    "ShearX": True,
    "ShearY": True,
    "TranslateX": True,
    "TranslateY": True,
    "Rotate": True,
    "Brightness": True,
    "Color": True,
    "Contrast": True,
    "Sharpness": True,
    "Posterize": False,
    "Solarize": False,
    "AutoContrast": False,
    "Equalize": False,
}


def largest(name: str, policy: Policy) -> float:
    """The magnitude of an operation in the last bin: a share of the size where it moves, degrees
    where it turns, bits that are taken away, the share of the levels that are inverted.
    """
    rand = policy == "rand-augment"
    if name in {"ShearX", "ShearY"}:
        return 0.3 if rand else 0.99
    if name in {"TranslateX", "TranslateY"}:
        return 150 / 331 if rand else 32 / _SMALL
    if name == "Rotate":
        return 30.0 if rand else 135.0
    if name == "Posterize":
        return 4.0 if rand else 6.0
    if name == "Solarize":
        return 1.0
    return 0.9 if rand else 0.99


def paint(picture: Tensor, change: int, policy: Policy, operations: int, magnitude: int) -> Tensor:
    """A picture [C,H,W] uint8 after the operations that a policy draws for its change.

    Args:
        operations: how many, of RandAugment; TrivialAugment takes one. magnitude: their bin, 0 to
            30, of RandAugment; TrivialAugment draws it.
    """
    names = list(OPERATIONS)
    trivial = policy == "trivial-augment"
    for number in range(1 if trivial else operations):
        first = _KEY + 16 + 4 * number
        name = names[random.integers_int(change, first, len(names))]
        bin_ = random.integers_int(change, first + 1, BINS) if trivial else magnitude
        size = largest(name, policy) * bin_ / (BINS - 1)
        if OPERATIONS[name] and random.uniform_int(change, first + 2) < 0.5:
            size = -size
        picture = operate(picture, name, size)
    return picture


def operate(picture: Tensor, name: str, size: float) -> Tensor:
    """One operation on a picture [C,H,W] uint8, of a magnitude as `largest` counts it."""
    from torchvision.transforms.v2 import functional as f

    height, width = picture.shape[-2:]
    shear = math.degrees(math.atan(size))
    moves: dict[str, Callable[[], Tensor]] = {
        "Identity": lambda: picture,
        # about the upper left corner, as torchvision does
        "ShearX": lambda: f.affine(picture, 0.0, [0, 0], 1.0, [shear, 0.0], center=[0, 0]),
        "ShearY": lambda: f.affine(picture, 0.0, [0, 0], 1.0, [0.0, shear], center=[0, 0]),
        "TranslateX": lambda: f.affine(picture, 0.0, [int(size * width), 0], 1.0, [0.0, 0.0]),
        "TranslateY": lambda: f.affine(picture, 0.0, [0, int(size * height)], 1.0, [0.0, 0.0]),
        "Rotate": lambda: f.rotate(picture, size),
        "Brightness": lambda: f.adjust_brightness(picture, 1 + size),
        "Color": lambda: f.adjust_saturation(picture, 1 + size),
        "Contrast": lambda: f.adjust_contrast(picture, 1 + size),
        "Sharpness": lambda: f.adjust_sharpness(picture, 1 + size),
        "Posterize": lambda: f.posterize(picture, 8 - round(size)),
        "Solarize": lambda: f.solarize(picture, (1 - size) * 255),
        "AutoContrast": lambda: f.autocontrast(picture),
        "Equalize": lambda: f.equalize(picture),
    }
    return moves[name]()
