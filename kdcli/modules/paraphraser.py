"""The two helpers of factor transfer: what paraphrases a teacher's map, and what translates a
student's map into a paraphrase.
"""

from __future__ import annotations

from torch import Tensor, nn

_LEAK = 0.1


class Paraphraser(nn.Module):
    """An autoencoder of maps. Its code, the factor, has fewer channels and the same size.

        encode: 3x3 convolutions C to C, C to F, F to F;  decode: transposed 3x3 convolutions F to
        F, F to C, C to C

    with a leaky ReLU (0.1) after each. Source: Kim, Park, Kwak 2018; RepDistiller@5237c1fd
    models/util.py.

    Args:
        channels: C of the map. factor: F, channels of the code.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *_activated(nn.Conv2d(channels, channels, kernel_size=3, padding=1)),
            *_activated(nn.Conv2d(channels, factor, kernel_size=3, padding=1)),
            *_activated(nn.Conv2d(factor, factor, kernel_size=3, padding=1)),
        )
        self.decoder = nn.Sequential(
            *_activated(nn.ConvTranspose2d(factor, factor, kernel_size=3, padding=1)),
            *_activated(nn.ConvTranspose2d(factor, channels, kernel_size=3, padding=1)),
            *_activated(nn.ConvTranspose2d(channels, channels, kernel_size=3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """A map [B,C,H,W] encoded and decoded again."""
        return self.decoder(self.encode(x))  # type: ignore[no-any-return]

    def encode(self, x: Tensor) -> Tensor:
        """The factor [B,F,H,W] of a map [B,C,H,W]."""
        return self.encoder(x)  # type: ignore[no-any-return]


class Translator(nn.Module):
    """Three 3x3 convolutions, C to C, C to F and F to F, each with batch norm and leaky ReLU (0.1).

    Source: Kim, Park, Kwak 2018; RepDistiller@5237c1fd models/util.py. Differs: no bias before a
    batch norm.

    Args:
        channels: C of the student's map. factor: F of the teacher's factor.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_normed(channels, channels), *_normed(channels, factor), *_normed(factor, factor)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The student's factor [B,F,H,W] of its map [B,C,H,W]."""
        return self.body(x)  # type: ignore[no-any-return]


def _activated(layer: nn.Module) -> tuple[nn.Module, ...]:
    return layer, nn.LeakyReLU(_LEAK, inplace=True)


def _normed(channels_in: int, channels: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels_in, channels, kernel_size=3, padding=1, bias=False)
    return conv, *_activated(nn.BatchNorm2d(channels))
