"""Connector, paraphraser and translator: what goes in comes out in the shape that the losses
compare.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdcli.core import random
from kdcli.modules.connector import Connector
from kdcli.modules.paraphraser import Paraphraser, Translator


def maps(channels, side=6):
    return torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(0))


def test_a_connector_begins_with_the_published_spread():
    with random.seeded(0, "test"):
        connector = Connector(300, 200)
    assert connector.conv.weight.std().item() == pytest.approx((2 / 200) ** 0.5, rel=0.02)
    assert connector.conv.bias is None
    assert connector(maps(300)).shape == (4, 200, 6, 6)
    assert connector(maps(300)).min() < 0 <= Connector(300, 200, relu=True)(maps(300)).min()


def test_a_paraphraser_narrows_and_widens_again():
    paraphraser = Paraphraser(8, 3)
    assert paraphraser.encode(maps(8)).shape == (4, 3, 6, 6)
    assert paraphraser(maps(8)).shape == (4, 8, 6, 6)
    assert torch.equal(paraphraser.decoder(paraphraser.encode(maps(8))), paraphraser(maps(8)))
    kinds = [type(layer) for layer in (*paraphraser.encoder, *paraphraser.decoder)]
    assert kinds == [nn.Conv2d, nn.LeakyReLU] * 3 + [nn.ConvTranspose2d, nn.LeakyReLU] * 3


def test_a_paraphraser_learns_to_say_a_map_in_other_words():
    with random.seeded(0, "test"):
        paraphraser = Paraphraser(4, 2)
        optimiser = torch.optim.Adam(paraphraser.parameters(), lr=1e-2)
    # one pattern in all four channels
    target = maps(1).relu() * torch.tensor([1.0, 0.5, -0.1, 2.0]).view(1, 4, 1, 1)
    errors = []
    for _ in range(60):
        optimiser.zero_grad()
        error = (paraphraser(target) - target).square().mean()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.4 * errors[0]


def test_a_translator_gives_the_factors_channels():
    translator = Translator(5, 3)
    assert translator(maps(5)).shape == (4, 3, 6, 6)
    assert [type(layer) for layer in translator.body] == [
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.LeakyReLU,
    ] * 3
