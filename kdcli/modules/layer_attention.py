"""Which of a teacher's layers each layer of a student should learn from, by attention: that of
semantic calibration, from likenesses of pictures, and that of attention-based feature matching,
from channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcli.losses._inputs import full_precision, precise, unit
from kdcli.modules.vector_norm import VectorNorm


class SemanticAttention(nn.Module):
    """Weights of all pairs of layers from how pictures of a minibatch resemble each other in each.

        weights_b = softmax over j of <query_i(r_b^i), key_j(r_b^j)>,  r_b = (<f_b, f_b'>)_b'

    query and key are two linear layers with a ReLU between, divided by the norm. Source: Chen et
    al. 2021, Cross-layer distillation with semantic calibration, section 3.2; SimKD@d0b9cded
    models/util.py. Differs: a row r has a set length, pictures of the minibatch beyond it are not
    compared with and missing ones count 0; that code leaves out minibatches of another size.

    Args:
        students, teachers: numbers of layers. width: of a row r. factor: by which the vectors that
            are multiplied are shorter.
    """

    def __init__(self, students: int, teachers: int, width: int, factor: int = 4) -> None:
        super().__init__()
        self.width = width
        inner = max(width // factor, 1)
        self.queries = nn.ModuleList(_perceptron(width, inner) for _ in range(students))
        self.keys = nn.ModuleList(_perceptron(width, inner) for _ in range(teachers))

    def forward(self, s_maps: Sequence[Tensor], t_maps: Sequence[Tensor]) -> Tensor:
        """Maps [B,C,H,W] of all layers to weights [B,i,j] that sum to 1 over j."""
        sides = []
        for layers, maps in ((self.queries, s_maps), (self.keys, t_maps)):
            with full_precision(maps[0]):
                vectors = [
                    unit(precise(layer(self._row(x))))
                    for layer, x in zip(layers, maps, strict=True)
                ]
            sides.append(torch.stack(vectors, 1))
        with full_precision(sides[0]):
            return torch.bmm(sides[0], sides[1].transpose(1, 2)).softmax(2)

    def _row(self, x: Tensor) -> Tensor:
        flat = precise(x).flatten(1)
        row = flat @ flat[: self.width].T
        return functional.pad(row, (0, self.width - row.shape[1]))


def _perceptron(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 2 * inner), nn.ReLU(inplace=True), nn.Linear(2 * inner, inner)
    )


class ChannelAttention(nn.Module):
    """Weights of all pairs of layers from the average of their channels, and from their places.

        weights_b = softmax over s of ( <bilinear_t(key_s(h_s)), query_t(h_t)> + <p_t, p_s> ) /
        sqrt(width)

    h is a map averaged over positions; key is a linear layer with batch norm and ReLU, query one
    with batch norm, bilinear one with batch norm for all teacher layers at once; p are learnt for
    each layer. Source: Ji, Heo, Park 2021, Show, attend and distill, equations 2 to 4;
    attention-feature-distillation@42a3077e distill/AFD.py.

    Args:
        students, teachers: channels of each layer. width: of queries and keys.
    """

    def __init__(self, students: Sequence[int], teachers: Sequence[int], width: int) -> None:
        super().__init__()
        self.width = width
        self.keys = nn.ModuleList(_normed(channels, width) for channels in students)
        self.queries = nn.ModuleList(_normed(channels, width) for channels in teachers)
        self.bilinear = _normed(width, width * len(teachers))
        self.student_places = nn.Parameter(torch.empty(len(students), width))
        self.teacher_places = nn.Parameter(torch.empty(len(teachers), width))
        nn.init.xavier_normal_(self.teacher_places)
        nn.init.xavier_normal_(self.student_places)

    def forward(self, s_maps: Sequence[Tensor], t_maps: Sequence[Tensor]) -> Tensor:
        """Maps [B,C,H,W] of all layers to weights [B,t,s] that sum to 1 over s."""
        keys = [layer(x.mean((2, 3))).relu() for layer, x in zip(self.keys, s_maps, strict=True)]
        queries = [layer(x.mean((2, 3))) for layer, x in zip(self.queries, t_maps, strict=True)]
        images, layers = len(keys[0]), len(keys)
        turned = self.bilinear(torch.stack(keys, 1).flatten(0, 1))
        turned = turned.view(images, layers, len(queries), self.width)
        with full_precision(turned):
            scores = torch.einsum("bstw,btw->bts", turned, torch.stack(queries, 1))
            places = self.teacher_places @ self.student_places.T
        weights: Tensor = ((scores + places) / self.width**0.5).softmax(2)
        return weights


def _normed(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), VectorNorm(width))
