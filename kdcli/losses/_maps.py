"""Helpers of the losses on feature maps: shapes that fit, and one size for two maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from kdcli.errors import Incompatible
from kdcli.losses._inputs import precise


def map_pair(s: Tensor, t: Tensor, function: str) -> tuple[Tensor, Tensor]:
    """Student's and teacher's maps [B,C,H,W] of any channels and sizes made precise, the teacher's
    without gradient.

    Raises:
        Incompatible: not four dimensions, or different numbers of images.
    """
    if s.ndim != 4 or t.ndim != 4 or s.shape[0] != t.shape[0] or s.shape[0] == 0:
        shapes = f"{list(s.shape)} and {list(t.shape)}"
        raise Incompatible(
            f"losses.{function} needs student and teacher maps [B, C, H, W] of the same "
            f"images, got {shapes}"
        )
    return precise(s), precise(t.detach())


def map_pairs(
    s_maps: Sequence[Tensor], t_maps: Sequence[Tensor], function: str
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of maps, each as `map_pair` makes it.

    Raises:
        Incompatible: none, or unequal numbers of them; or a pair that does not fit.
    """
    if len(s_maps) != len(t_maps) or not s_maps:
        raise Incompatible(
            f"losses.{function} needs as many student maps as teacher maps, got "
            f"{len(s_maps)} and {len(t_maps)}"
        )
    return [map_pair(s, t, function) for s, t in zip(s_maps, t_maps, strict=True)]


def same_size(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [B,*,H,W] brought to the smaller height and the smaller width, by adaptive average
    pooling of the larger.

    Differs from RepDistiller@5237c1fd, which compares heights only and pools to a square.
    """
    height, width = min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3])
    return _pooled(s, height, width), _pooled(t, height, width)


def _pooled(x: Tensor, height: int, width: int) -> Tensor:
    return (
        x if x.shape[2:] == (height, width) else functional.adaptive_avg_pool2d(x, (height, width))
    )


def vector_pair(s: Tensor, t: Tensor, function: str, *, least: int = 1) -> tuple[Tensor, Tensor]:
    """Student's and teacher's features [B,...] flattened to [B,D] and made precise, the teacher's
    without gradient. D may differ.

    Args:
        least: images that the loss needs to compare anything.

    Raises:
        Incompatible: different numbers of images, or fewer than `least`.
    """
    if s.ndim < 2 or t.ndim < 2 or s.shape[0] != t.shape[0]:
        shapes = f"{list(s.shape)} and {list(t.shape)}"
        raise Incompatible(
            f"losses.{function} needs student and teacher features [B, D] of the same "
            f"images, got {shapes}"
        )
    if s.shape[0] < least:
        raise Incompatible(
            f"losses.{function} compares images with each other and needs at least {least}, "
            f"got {s.shape[0]}"
        )
    return precise(s).flatten(1), precise(t.detach()).flatten(1)
