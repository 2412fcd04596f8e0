"""Random changes to training images, as numbered views.

What happens to an image is decided by one integer, its view: the same view of the same image is the same pixels on any
device, in any process and in any year. So a batch can say which views it holds, and a teacher's answer to a view can be
stored once and looked up later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from kdcli.core import random
from kdcli.errors import Incompatible

_ATTEMPTS = 10  # a crop that does not fit the picture is drawn again this often, then the middle is taken (as torchvision does)
_VIEW_BITS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training images vary.

    crop: pad each side by this many pixels, then cut the original size out at random. padding: "zeros" is black, as
    torchvision's RandomCrop on pictures; "reflect" mirrors without repeating the edge. flip: mirror half of the images.
    resized_crop: cut out a random share (scale) and shape (ratio) of a picture file and resize it, instead of crop.
    """

    crop: int = 0
    padding: Literal["zeros", "reflect"] = "zeros"
    flip: bool = False
    resized_crop: bool = False
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)

    @property
    def views(self) -> int | None:
        """One more than the largest view id; 1 without augmentation, None where views are beyond counting (resized_crop)."""
        if self.resized_crop:
            return None
        return 2 * (2 * self.crop + 1) ** 2 if self.crop or self.flip else 1

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Refuse what cannot be done to images of this shape.

        Raises:
            Incompatible: a reflection that is wider than the image.
        """
        smallest = min(input_shape[1:])
        if self.padding == "reflect" and self.crop >= smallest:
            raise Incompatible(
                f"data.augment.crop = {self.crop} with reflected padding needs images wider than that, these have {smallest} pixels",
                hint=f"set data.augment.crop to {smallest - 1} at most, or data.augment.padding to zeros",
            )

    def draw(self, stream: int, index: Tensor) -> Tensor:
        """Views [B] int64 of the samples at index [B] int64: a function of the key `stream` and each index alone.

        A view is ((dy * (2 crop + 1)) + dx) * 2 + flip, with dy and dx the corner of the crop in the padded image; for
        resized_crop it is 63 random bits that seed the draws of the crop.
        """
        if self.resized_crop:
            return random.bits(stream, index) & _VIEW_BITS
        corners = (2 * self.crop + 1) ** 2
        if self.flip:
            return random.integers(stream, index, 2 * corners)
        return random.integers(stream, index, corners) * 2

    def apply(self, images: Tensor, views: Tensor) -> Tensor:
        """The given views of images [B,C,H,W], any dtype, same shape; views [B] int64 of crop and flip, on the same device."""
        if self.crop:
            images = self._crop(images, views // 2)
        if self.flip:
            images = torch.where((views % 2 == 1)[:, None, None, None], images.flip(-1), images)
        return images

    def _crop(self, images: Tensor, corners: Tensor) -> Tensor:
        height, width = images.shape[2:]
        span = 2 * self.crop + 1
        windows = self._pad(images).unfold(2, height, 1).unfold(3, width, 1)  # [B,C,span,span,H,W], a view
        return windows[torch.arange(len(images), device=images.device), :, corners // span, corners % span]

    def _pad(self, images: Tensor) -> Tensor:
        if self.padding == "zeros":
            return pad(images, (self.crop,) * 4)
        rows, columns = (_reflected(length, self.crop, images.device) for length in images.shape[2:])
        return images[:, :, rows][..., columns]  # torch's own reflection takes no uint8

    def cut(self, image: Tensor, view: int, size: int) -> Tensor:
        """The given view of one decoded picture [C,H,W] uint8 under resized_crop: [C,size,size]."""
        top, left, height, width = self._box(view, *image.shape[1:])
        # torchvision takes over a second to import, and resident data never come here
        from torchvision.transforms.v2.functional import resized_crop

        cut: Tensor = resized_crop(image, top, left, height, width, [size, size], antialias=True)
        flip = self.flip and random.uniform_int(view, 4 * _ATTEMPTS) < 0.5
        return cut.flip(-1) if flip else cut

    def _box(self, view: int, height: int, width: int) -> tuple[int, int, int, int]:
        low, high = (math.log(bound) for bound in self.ratio)
        for attempt in range(_ATTEMPTS):
            first, second = (random.uniform_int(view, 4 * attempt + draw) for draw in range(2))
            area = height * width * (self.scale[0] + first * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + second * (high - low))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = random.integers_int(view, 4 * attempt + 2, height - h + 1)
                return top, random.integers_int(view, 4 * attempt + 3, width - w + 1), h, w
        return self._middle(height, width)

    def _middle(self, height: int, width: int) -> tuple[int, int, int, int]:
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
        return (height - h) // 2, (width - w) // 2, h, w


def _reflected(length: int, margin: int, device: torch.device) -> Tensor:
    """Positions [length + 2 margin] int64 that mirror a line at its first and last element, without repeating them."""
    positions = torch.arange(-margin, length + margin, device=device).abs()
    return (length - 1) - ((length - 1) - positions).abs()
