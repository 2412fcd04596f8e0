"""Vision transformers small enough to be trained from nothing, with a distillation token on demand.

Dosovitskiy et al.: An image is worth 16x16 words, ICLR 2021, arXiv:2010.11929, in the form without
dropout and without biases of queries, keys and values. vit-lite is ViT-Lite-7/4 of Hassani et al.:
Escaping the big data paradigm with compact transformers, arXiv:2104.05704, for 32x32 pictures;
vit-mini is kd's own. `distillation_token` adds the second token of DeiT (Touvron et al., ICML 2021,
arXiv:2012.12877), with a head of its own: the network answers the mean of both heads' logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from kdcli.core.network import Network
from kdcli.core.options import Options as ModelOptions
from kdcli.core.types import Output, Tap
from kdcli.errors import Incompatible, UsageError
from kdcli.models._checks import check_taps
from kdcli.models._tapped import blocks, quarters

VARIANTS: dict[str, dict[str, Any]] = {
    "vit-lite": {
        "summary": (
            "ViT-Lite-7/4 for 32x32 pictures: 7 blocks, 256 wide, patches of 4x4; 3.72 M parameters"
        ),
        "arguments": {
            "depth": 7,
            "width": 256,
            "heads": 4,
            "hidden": 512,
            "patch": 4,
            "distillation_token": False,
        },
        "smaller": "vit-mini",
    },
    "vit-mini": {
        "summary": (
            "small vision transformer: 4 blocks, 64 wide, patches of 4x4; 141 k parameters for "
            "32x32 pictures"
        ),
        "arguments": {
            "depth": 4,
            "width": 64,
            "heads": 4,
            "hidden": 128,
            "patch": 4,
            "distillation_token": False,
        },
        "smaller": None,
    },
}

_SPREAD = 0.02  # standard deviation of fresh weights, as DeiT and ViT-Lite have it


class Options(ModelOptions):
    """What may be changed of a vision transformer; the variant's own value unless given."""

    depth: PositiveInt | None = Field(None, description="Blocks.")
    width: PositiveInt | None = Field(None, description="Numbers of a token.")
    heads: PositiveInt | None = Field(None, description="Heads of attention; they divide width.")
    hidden: PositiveInt | None = Field(
        None, description="Hidden units of the perceptron in each block."
    )
    patch: PositiveInt | None = Field(
        None, description="Side of a patch, in pixels; it divides the pictures."
    )
    distillation_token: bool | None = Field(
        None, description="A second token beside the class token, for --method deit."
    )


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> VisionTransformer:
    """A vision transformer with fresh weights. Taps: "stageN", the tokens of the picture as a map
    after each quarter of the blocks; "blockN", the same after each block; "pooled", what the head
    reads: the class token, and the distillation token behind it.

    Raises:
        Incompatible: patches do not divide the pictures. UsageError: heads do not divide width.
    """
    _, height, width = input_shape
    patch, heads, wide = (arguments[key] for key in ("patch", "heads", "width"))
    if height % patch or width % patch:
        raise Incompatible(
            f"{name} cuts pictures into patches of {patch}x{patch}, which do not divide "
            f"{height}x{width}",
            hint="student.patch (model.patch of kd train-teacher): a divisor of both sides",
        )
    if wide % heads:
        raise UsageError(f"{name}: {heads} heads do not divide a width of {wide}")
    network = VisionTransformer(name, num_classes, input_shape, **arguments)
    network.apply(_fresh)
    with torch.no_grad():
        # the mean of two heads, each of which begins as a single one does
        network.head.weight.mul_(0.5 if network.distilled else 1.0)
    return network


def _fresh(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_SPREAD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Tokens):
        for parameter in module.parameters(recurse=False):
            nn.init.trunc_normal_(parameter, std=_SPREAD)


class Tokens(nn.Module):
    """Pictures [B,C,H,W] as tokens [B,E+N,D]: E extra ones, learnt, then one a patch."""

    def __init__(
        self, input_shape: tuple[int, int, int], width: int, patch: int, extra: int
    ) -> None:
        super().__init__()
        channels, *size = input_shape
        self.size = (size[0] // patch, size[1] // patch)
        self.patches = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        if extra == 2:
            self.distillation_token = nn.Parameter(torch.zeros(1, 1, width))
        self.extra = extra
        count = extra + self.size[0] * self.size[1]
        self.position = nn.Parameter(torch.zeros(1, count, width))

    def forward(self, x: Tensor) -> Tensor:
        """The tokens, each with its place added."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        extra = (
            [self.class_token] if self.extra == 1 else [self.class_token, self.distillation_token]
        )
        # no len: what is exported takes batches of any size
        each = [token.expand(patches.shape[0], -1, -1) for token in extra]
        return torch.cat([*each, patches], 1) + self.position


class Attention(nn.Module):
    """Every token looks at every token: [B,L,D] to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.all_three = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B,L,D] to [B,L,D]."""
        batch, length, width = x.shape
        parts = self.all_three(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts.unbind(0))
        return self.out(seen.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then a perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,L,D] to [B,L,D]."""
        x = x + self.attention(self.norm1(x))
        return x + self.perceptron(self.norm2(x))  # type: ignore[no-any-return]


class VisionTransformer(Network):
    """Tokens, blocks, a norm, and a head on the extra tokens."""

    def __init__(
        self,
        name: str,
        num_classes: int,
        input_shape: tuple[int, int, int],
        *,
        depth: int,
        width: int,
        heads: int,
        hidden: int,
        patch: int,
        distillation_token: bool,
    ) -> None:
        super().__init__()
        self.name = name
        extra = 2 if distillation_token else 1
        self.tokens = Tokens(input_shape, width, patch, extra)
        self.body = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(extra * width, num_classes)
        self.distilled = (width, width) if distillation_token else None
        every = [str(number) for number in range(depth)]
        self._ends = {tap: int(end) for tap, end in (quarters(every) | blocks(every)).items()}
        maps = dict.fromkeys(self._ends, Tap(width, patch))
        self.taps = {**maps, "pooled": Tap(extra * width, None)}

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        check_taps(self.name, taps, self.taps)
        extra = self.tokens.extra
        wanted = {self._ends[tap] for tap in taps if tap != "pooled"}
        kept: dict[int, Tensor] = {}
        x = self.tokens(x)
        for number, block in enumerate(self.body):
            x = block(x)
            if number in wanted:
                patches = x[:, extra:].transpose(1, 2)
                kept[number] = patches.reshape(*patches.shape[:2], *self.tokens.size)
        pooled = self.norm(x[:, :extra]).flatten(1)
        found = {tap: pooled if tap == "pooled" else kept[self._ends[tap]] for tap in taps}
        return Output(self.classify(pooled), found)

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        check_taps(self.name, (upto,), self.taps)
        if upto == "pooled":
            return (self.tokens, *self.body, self.norm)
        return (self.tokens, *self.body[: self._ends[upto] + 1])

    def norm_at(self, tap: str) -> nn.BatchNorm2d | None:
        check_taps(self.name, (tap,), self.taps)
        return None
