"""Several networks as one: what they answer together, whose the parameters are, and that a
checkpoint rebuilds them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdcli.core.network import Blueprint
from kdcli.core.teacher import Teacher
from kdcli.engine.checkpoint import save_model
from kdcli.errors import Incompatible, UsageError
from kdcli.jobs.build.networks import build_network, load_network
from kdcli.modules.composite import Composite, combined
from kdcli.results.weights_header import CheckpointHeader

SHAPE = (1, 8, 8)


def network(name="mlp", copy=0, classes=5, **options):
    return build_network(
        name, num_classes=classes, input_shape=SHAPE, options=options or None, copy=copy
    )


@pytest.fixture
def pair():
    return [network(hidden=[6]).eval(), network("cnn-small", copy=1).eval()]


@pytest.fixture
def x():
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_the_mean_of_the_softmaxes(pair, x):
    expected = sum(member(x).logits.softmax(1) for member in pair) / 2
    torch.testing.assert_close(Composite(pair, "mean_probabilities")(x).logits.softmax(1), expected)
    torch.testing.assert_close(Composite(pair, "mean_probabilities")(x).logits.exp(), expected)


def test_the_sum_of_the_logits(pair, x):
    torch.testing.assert_close(
        Composite(pair, "sum_logits")(x).logits, pair[0](x).logits + pair[1](x).logits
    )


def test_a_sum_of_logits_is_divided_by_dividing_every_head_and_no_mean_is(pair, x):
    together = Composite(pair, "sum_logits")
    before = together(x).logits
    with torch.no_grad():
        for head in together.linear_heads():
            head.weight /= 4
            head.bias /= 4
    torch.testing.assert_close(together(x).logits, before / 4)
    assert Composite(pair, "mean_probabilities").linear_heads() == ()


def test_one_member_alone_predicts_as_it_is(pair, x):
    alone = pair[0](x).logits
    torch.testing.assert_close(
        Composite(pair[:1], "mean_probabilities")(x).logits, alone.log_softmax(1)
    )
    assert torch.equal(Composite(pair[:1], "sum_logits")(x).logits, alone)


def test_extreme_logits_stay_finite_and_half_precision_is_upcast():
    z = [torch.tensor([[0.0, 1e4]]), torch.tensor([[1e4, 0.0]])]
    torch.testing.assert_close(
        combined(z, "mean_probabilities").softmax(1), torch.tensor([[0.5, 0.5]])
    )
    assert combined([part.bfloat16() for part in z], "sum_logits").dtype == torch.float32


def test_members_are_not_copied_and_stand_in_the_state_once(pair):
    whole = Composite(pair, "sum_logits")
    assert {id(parameter) for parameter in whole.parameters()} == {
        id(parameter) for member in pair for parameter in member.parameters()
    }
    assert len(whole.state_dict()) == sum(len(member.state_dict()) for member in pair)
    assert whole.head is pair[0].head
    assert Teacher(whole).num_classes == 5


def test_a_checkpoint_rebuilds_it(pair, x, tmp_path):
    whole = Composite([pair[0], Composite(pair, "sum_logits")], "mean_probabilities")
    assert whole.blueprint is not None
    header = CheckpointHeader(
        *whole.blueprint,
        5,
        SHAPE,
        tuple("abcde"),
        (0.0,),
        (1.0,),
        {"name": "d"},
        "f",
        sum(p.numel() for p in whole.parameters()),
    )
    save_model(tmp_path / "model.safetensors", whole, header)
    found, read, _ = load_network(tmp_path / "model.safetensors")
    assert torch.equal(found.eval()(x).logits, whole(x).logits)
    assert found.blueprint == whole.blueprint == Blueprint(read.architecture, read.arguments)
    assert replace(read, tensors_sha256="") == replace(header, created_by="")


def test_fresh_weights_of_it_differ_from_its_own(pair, x):
    whole = Composite(pair, "sum_logits")
    fresh = build_network(
        whole.blueprint.architecture,
        num_classes=5,
        input_shape=SHAPE,
        options=whole.blueprint.arguments,
        copy=7,
    )
    assert fresh.blueprint == whole.blueprint
    assert not torch.equal(fresh.eval()(x).logits, whole(x).logits)


def test_weights_to_fetch_are_not_part_of_it():
    blueprint = {
        "combine": "sum_logits",
        "members": [
            {"architecture": "mlp", "arguments": {**network().blueprint.arguments, "weights": "X"}}
        ],
    }
    found = build_network("composite", num_classes=5, input_shape=SHAPE, options=blueprint)
    assert "weights" not in found.blueprint.arguments["members"][0]["arguments"]


# ---- refusals ------------------------------------------------------------------------------------


def test_it_has_no_taps(pair, x):
    whole = Composite(pair, "sum_logits")
    assert whole.taps == {}
    for ask in (lambda: whole(x, ("pooled",)), lambda: whole.trunk("pooled")):
        with pytest.raises(Incompatible, match="composite has no tap 'pooled'"):
            ask()


def test_members_with_other_classes_are_refused(pair):
    with pytest.raises(Incompatible, match="heads of 5, 4"):
        Composite([pair[0], network(classes=4)], "sum_logits")
    with pytest.raises(Incompatible, match="no member"):
        Composite([], "sum_logits")


def test_another_way_to_combine_is_refused(pair):
    with pytest.raises(UsageError, match="mean_probabilities or sum_logits, not by 'product'"):
        Composite(pair, "product")
