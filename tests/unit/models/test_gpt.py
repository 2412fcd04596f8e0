"""Small GPTs: no token is answered by what follows it, and long texts are cut into blocks."""

from __future__ import annotations

import pytest
import torch

from kdcli.errors import Incompatible, UsageError
from kdcli.jobs.build.networks import build_network


def small(**options):
    return build_network(
        "gpt_small", num_classes=11, input_shape=(1, 1, 1),
        options={"width": 8, "heads": 2, "context": 6, **options},
    ).eval()  # fmt: skip


def test_a_token_is_answered_by_those_before_it():
    network, x = small(), torch.randint(11, (2, 1, 1, 6))
    before = network(x).logits.view(2, 6, 11)
    x[:, :, :, 4] = (x[:, :, :, 4] + 1) % 11
    after = network(x).logits.view(2, 6, 11)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_a_long_text_is_read_in_blocks():
    network, x = small(), torch.randint(11, (2, 1, 1, 15))
    parts = [network(part).logits.view(2, -1, 11) for part in x.split(6, dim=3)]
    torch.testing.assert_close(network(x).logits.view(2, 15, 11), torch.cat(parts, dim=1))


def test_words_are_embedded_as_they_are_predicted():
    network, x = small(), torch.randint(11, (1, 1, 1, 6))
    logits = network(x).logits
    assert network.embedding.weight is network.head.weight
    assert "embedding.weight" not in network.state_dict()
    with torch.no_grad():  # a temperature folded into the last layer changes nothing else
        network.head.weight /= 2.0
    network.logits_divided(2.0)
    torch.testing.assert_close(network(x).logits, logits / 2)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(UsageError, match="width 8 cannot be shared among 3 heads"):
        small(heads=3)
    with pytest.raises(Incompatible, match="gpt_small reads words of a text"):
        build_network("gpt_small", num_classes=3, input_shape=(3, 32, 32))
