"""Random changes to training images, as numbered views.

What happens to an image is decided by one integer, its change: the same change of the same image is
the same pixels on any device, in any process and in any year. A batch says which views it holds,
and a teacher's answer to a view can be stored once and looked up later. Views are numbered by their
change, unless each image has a fixed number of them (`fixed`): then view m of sample i is a change
drawn once for all, a function of i, m and the augmentation alone. No seed enters it, so students of
any seed see the same views and share what is stored of them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from kdcli.core import random
from kdcli.data import paint
from kdcli.data.paint import Jitter, Policy
from kdcli.errors import Incompatible

# a crop that does not fit the picture is drawn again this often, then the middle is taken (as
# torchvision does)
_ATTEMPTS = 10
_ERASED_SCALE, _ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
_CHANGE_BITS = (1 << 63) - 1
_ROUNDS = 32  # of the shuffle that deals out fixed views; its permutations are even well before
_VIEWS_BITS = 16  # data.views is 2**16 at most
# raised whenever a view's number comes to stand for other pixels: what is stored of views is filed
# under it
RULE = 2


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The augmentation of training images.

    crop: pad each side by this many pixels, then cut the original size out at random. padding:
    "zeros" is black, as torchvision's RandomCrop on pictures; "reflect" mirrors without repeating
    the edge. flip: mirror half of the images. resized_crop: cut out a random share (scale) and
    shape (ratio) of a picture and resize it, instead of crop. color_jitter: change brightness,
    contrast, saturation and hue by up to so much. policy: RandAugment with policy_ops operations of
    policy_magnitude, or TrivialAugment. erasing: replace a rectangle in so many pictures by their
    mean colour. mixup, cutmix: mix the pictures of a minibatch, by shares from Beta(alpha, alpha).

    fixed: show each image in so many views only, 65536 at most, each an equal draw from all its
    changes: with one, it is always cropped and mirrored in one way, which is seldom the image as it
    is. Those of crop and flip differ from each other, so as many as there are changes are all of
    them. None: any change may come up.
    """

    crop: int = 0
    padding: Literal["zeros", "reflect"] = "zeros"
    flip: bool = False
    resized_crop: bool = False
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    color_jitter: Jitter | None = None
    policy: Policy | None = None
    policy_ops: int = 2
    policy_magnitude: int = 9
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    fixed: int | None = None

    @property
    def changes(self) -> int | None:
        """The number of different changes of an image: 1 without augmentation, None where beyond
        counting.
        """
        return None if self.uncountable else self._moves

    @property
    def _moves(self) -> int:
        """The number of changes by crop and flip."""
        return (1 + self.flip) * (2 * self.crop + 1) ** 2

    @property
    def uncountable(self) -> str:
        """What makes changes of an image beyond counting, as the beginning of a sentence; "" if
        nothing does.
        """
        found = {
            "a random resized crop": self.resized_crop,
            "colour jitter": self.color_jitter is not None,
            f"{self.policy}": self.policy is not None,
            "random erasing": self.erasing > 0,
        }
        return next((name for name, there in found.items() if there), "")

    @property
    def paints(self) -> bool:
        """Tells whether each picture is changed by operations of its own."""
        return self.color_jitter is not None or self.policy is not None

    @property
    def mixes(self) -> bool:
        """Tells whether pictures of a minibatch are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def identity(self) -> dict[str, object]:
        """All that decides the pixels of a view, for whoever files something under it: without what
        is off and was once unknown.
        """
        own = asdict(self)
        later = ("color_jitter", "policy", "policy_ops", "policy_magnitude", "erasing", "mixup")
        off = {name: getattr(Augmentation(), name) for name in (*later, "cutmix")}
        return {name: value for name, value in own.items() if name not in off or value != off[name]}

    @property
    def views(self) -> int | None:
        """Views of an image, numbered from 0: 1 without augmentation, None where they are beyond
        counting.
        """
        return self.changes if self.fixed is None else self.fixed

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Refuses what cannot be done to images of this shape.

        Raises:
            Incompatible: a reflection that is wider than the image, or more fixed views than there
                are.
        """
        if self.mixes and self.fixed is not None:
            raise Incompatible(
                f"data.views is {self.fixed}, and a mixture is of two views that never meet again",
                hint="leave data.views out, or data.augment.mixup and cutmix",
            )
        if self.fixed is not None and self.changes is not None and self.fixed > self.changes:
            raise Incompatible(
                f"data.views is {self.fixed}, more than the {self.changes} that data.augment "
                "makes of an image",
                hint=(
                    f"set data.views to {self.changes} at most, or leave it out: then all of "
                    "them come up"
                ),
            )
        smallest = min(input_shape[1:])
        if smallest == 1 and (self.paints or self.erasing or self.cutmix or self.resized_crop):
            what = self.uncountable or "CutMix"
            raise Incompatible(
                f"{what} of data.augment is for pictures, and these are vectors",
                hint="leave it out; data.augment.mixup mixes vectors too",
            )
        if self.padding == "reflect" and self.crop >= smallest:
            raise Incompatible(
                f"data.augment.crop = {self.crop} with reflected padding needs images wider "
                f"than that, these have {smallest} pixels",
                hint=(
                    f"set data.augment.crop to {smallest - 1} at most, or data.augment.padding "
                    "to zeros"
                ),
            )

    def sample_views(self, stream: int, index: Tensor) -> Tensor:
        """Views [B] int64 of the samples at index [B] int64: a function of the key `stream` and
        each index alone.
        """
        if self.views is None:
            return random.bits(stream, index) & _CHANGE_BITS
        return random.integers(stream, index, self.views)

    def change(self, index: Tensor, views: Tensor) -> Tensor:
        """The change of the samples at index [B] in their views [B], int64 [B].

        A change is ((dy * (2 crop + 1)) + dx) * 2 + flip, without the last step where nothing is
        mirrored, with dy and dx the corner of the crop in the padded image; where changes are
        beyond counting it is 63 random bits that seed all draws.
        """
        if self.fixed is None:
            return views
        if self.changes is None:
            return (
                random.bits(random.key(0, "fixed view"), (index << _VIEWS_BITS) | views)
                & _CHANGE_BITS
            )
        return _dealt(index, views, self.changes)

    def another(self, index: Tensor, changes: Tensor) -> Tensor:
        """Other changes [B] of the samples at index [B], as likely as any and independent of those
        that they are given.
        """
        if self.changes is None:
            return random.bits(random.key(0, "another view"), changes) & _CHANGE_BITS
        pairs = index * self.changes + changes
        return random.integers(random.key(0, "another view"), pairs, self.changes)

    def apply(self, images: Tensor, changes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Images [B,C,H,W] of any dtype, each with its change [B] int64 by crop and flip, on the
        same device; same shape.

        Args:
            size: height and width of the images whose pixels `crop` counts, where these show the
                same at another size: they move by the same share of it, to the nearest pixel.
        """
        if self.uncountable:
            changes = random.integers(random.key(0, "crop and flip"), changes, self._moves)
        if self.crop:
            corners = changes // 2 if self.flip else changes
            images = (
                self._crop(images, corners)
                if size in {None, tuple(images.shape[2:])}
                else self._crop_in_proportion(images, corners, size)
            )
        if self.flip:
            images = torch.where((changes % 2 == 1)[:, None, None, None], images.flip(-1), images)
        return images

    def _crop(self, images: Tensor, corners: Tensor) -> Tensor:
        height, width = images.shape[2:]
        span = 2 * self.crop + 1
        # [B,C,span,span,H,W], a view
        windows = self._pad(images).unfold(2, height, 1).unfold(3, width, 1)
        return windows[
            torch.arange(len(images), device=images.device), :, corners // span, corners % span
        ]

    def _crop_in_proportion(self, images: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
        span, lengths = 2 * self.crop + 1, tuple(images.shape[2:])
        # a reflection is narrower than what it reflects
        margins = [
            min((2 * self.crop * length + other) // (2 * other), length - 1)
            for length, other in zip(lengths, size, strict=True)
        ]
        places = [
            # rounded in whole numbers: the same on every device
            ((2 * (moves - self.crop) * length + other) // (2 * other)).clamp(-margin, margin)
            + margin
            for moves, length, other, margin in zip(
                (corners // span, corners % span), lengths, size, margins, strict=True
            )
        ]
        rows, columns = (
            place[:, None] + torch.arange(length, device=images.device)
            for place, length in zip(places, lengths, strict=True)
        )
        each = torch.arange(len(images), device=images.device)[:, None, None]
        # [B,H,W,C]: what is indexed apart comes first
        taken = self._pad(images, *margins)[each, :, rows[:, :, None], columns[:, None, :]]
        return taken.permute(0, 3, 1, 2)

    def _pad(self, images: Tensor, high: int | None = None, wide: int | None = None) -> Tensor:
        high = self.crop if high is None else high
        wide = self.crop if wide is None else wide
        if self.padding == "zeros":
            return pad(images, (wide, wide, high, high))
        rows, columns = (
            _reflected(length, margin, images.device)
            for length, margin in zip(images.shape[2:], (high, wide), strict=True)
        )
        return images[:, :, rows][..., columns]  # torch's own reflection takes no uint8

    def paint(self, picture: Tensor, change: int) -> Tensor:
        """A picture [C,H,W] uint8 with the colours, and turned and shifted, as its change says."""
        if self.color_jitter is not None:
            picture = paint.jitter(picture, change, self.color_jitter)
        if self.policy is not None:
            ops, magnitude = self.policy_ops, self.policy_magnitude
            picture = paint.paint(picture, change, self.policy, ops, magnitude)
        return picture

    def erase(self, x: Tensor, changes: Tensor) -> Tensor:
        """Normalised pictures [B,C,H,W], in some of which a rectangle is replaced by the mean
        colour, as by torchvision's RandomErasing with its own scale and ratio.
        """
        height, width = x.shape[2:]
        top, left, high, wide = self._erased(changes).unbind(1)
        rows, columns = (torch.arange(side, device=x.device) for side in (height, width))

        def within(places: Tensor, side: int, start: Tensor, length: Tensor) -> Tensor:
            first, end = (start * side).round(), ((start + length) * side).round()
            return (places >= first[:, None]) & (places < end[:, None])

        down, across = within(rows, height, top, high), within(columns, width, left, wide)
        return x.masked_fill((down[:, :, None] & across[:, None])[:, None], 0.0)

    def _erased(self, changes: Tensor) -> Tensor:
        """Top, left, height and width of what is erased, [B,4], as shares of the sides; no height
        where nothing is.
        """
        first, second, top, left = (
            random.uniform(random.key(0, "erasing", part), _tries(changes)) for part in range(4)
        )  # [B, attempts]
        area = _ERASED_SCALE[0] + first * (_ERASED_SCALE[1] - _ERASED_SCALE[0])
        low, high = (math.log(bound) for bound in _ERASED_RATIO)
        ratio = (low + second * (high - low)).exp()
        tall, wide = (area * ratio).sqrt(), (area / ratio).sqrt()
        fits = (tall < 1) & (wide < 1)
        chosen = fits.int().argmax(1, keepdim=True)  # the first that does
        boxes = [top * (1 - tall), left * (1 - wide), tall, wide]
        box = torch.cat([part.gather(1, chosen) for part in boxes], dim=1)
        erases = random.uniform(random.key(0, "erases"), changes) < self.erasing
        return box * (erases & fits.any(1))[:, None]

    def mirrors(self, change: int) -> bool:
        """Tells whether a change by resized_crop mirrors a picture, too."""
        return self.flip and random.uniform_int(change, 4 * _ATTEMPTS) < 0.5

    def box(self, change: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The part of a picture of that size that its change by resized_crop shows: top, left,
        height, width.
        """
        low, high = (math.log(bound) for bound in self.ratio)
        for attempt in range(_ATTEMPTS):
            first, second = (random.uniform_int(change, 4 * attempt + draw) for draw in range(2))
            area = height * width * (self.scale[0] + first * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + second * (high - low))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = random.integers_int(change, 4 * attempt + 2, height - h + 1)
                return top, random.integers_int(change, 4 * attempt + 3, width - w + 1), h, w
        return self._middle(height, width)

    def _middle(self, height: int, width: int) -> tuple[int, int, int, int]:
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
        return (height - h) // 2, (width - w) // 2, h, w


def _tries(changes: Tensor) -> Tensor:
    """Counters [B, attempts] of the draws for each change."""
    attempts = torch.arange(_ATTEMPTS, device=changes.device)
    return random.bits(random.key(0, "attempt"), changes)[:, None] + attempts


def _reflected(length: int, margin: int, device: torch.device) -> Tensor:
    """Positions [length + 2 margin] int64 that mirror a line at its first and last element, without
    repeating them.
    """
    positions = torch.arange(-margin, length + margin, device=device).abs()
    return (length - 1) - ((length - 1) - positions).abs()


def _dealt(index: Tensor, places: Tensor, count: int) -> Tensor:
    """The entries at places [B] of permutations of range(count), another one for each index [B].

    A swap-or-not shuffle (Hoang, Morris, Rogaway: An enciphering scheme based on a card shuffle,
    CRYPTO 2012): each round pairs all numbers, and swaps a pair or not. So no list of count numbers
    is needed for any sample.
    """
    for turn in range(_ROUNDS):
        partners = (random.integers(random.key(0, "pair", turn), index, count) - places) % count
        pairs = index * count + torch.maximum(places, partners)
        swapped = random.integers(random.key(0, "swap", turn), pairs, 2)
        places = torch.where(swapped == 1, partners, places)
    return places
