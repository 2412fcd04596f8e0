"""Encoders of texts: what fills a text up is looked at by nothing."""

from __future__ import annotations

import pytest
import torch

from kdcli.errors import Incompatible, UsageError
from kdcli.jobs.build.networks import build_network


def small(name, **options):
    return build_network(
        name, num_classes=3, input_shape=(1, 1, 8), vocabulary=20, options={"width": 8, **options}
    ).eval()


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_small", "bag_of_words"])
def test_padding_never_counts(name):
    network = small(name)
    assert network.words.weight.shape[0] == 20
    words = torch.randint(1, 20, (2, 1, 1, 5))
    filled = torch.cat([words, torch.zeros(2, 1, 1, 3, dtype=torch.int64)], dim=3)
    logits = network(filled).logits
    torch.testing.assert_close(logits, network(words).logits)
    # whatever a token of padding is embedded by
    network.words.weight.data[0] = 100.0
    torch.testing.assert_close(logits, network(filled).logits)
    # and a text without a word is answered by a number
    assert network(torch.zeros(1, 1, 1, 8, dtype=torch.int64)).logits.isfinite().all()


def test_order_counts_for_an_encoder_alone():
    words = torch.randint(1, 20, (1, 1, 1, 6))
    backwards = words.flip(3)
    bag, encoder = small("bag_of_words"), small("text_encoder")
    torch.testing.assert_close(bag(words).logits, bag(backwards).logits)
    assert not torch.allclose(encoder(words).logits, encoder(backwards).logits)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(UsageError, match="width 9 cannot be shared among 4 heads"):
        small("text_encoder", width=9)
    with pytest.raises(Incompatible, match="text_encoder reads texts"):
        build_network("text_encoder", num_classes=3, input_shape=(3, 32, 32))
