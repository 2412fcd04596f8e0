"""Losses between networks that learn together or one after another, against loops and
identities.
"""

from __future__ import annotations

import math

import pytest
import torch

from kdcli import losses
from kdcli.core import random
from kdcli.errors import Incompatible, UsageError

Y = torch.tensor([0, 1, 2, 3, 4, 0])


def softmax(row, tau=1.0):
    powers = [math.exp(x / tau) for x in row]
    return [power / sum(powers) for power in powers]


# ---- both sides learn ----------------------------------------------------------------------------


def test_kd_both_is_kd(logits):
    z, v = logits(1), logits(2)
    assert losses.kd_both(z, v, temperature=4) == losses.kd(z, v, temperature=4)


def test_kd_both_reaches_both_sides(logits):
    z, v = logits(1), logits(2)
    assert torch.autograd.gradcheck(
        lambda z, v: losses.kd_both(z, v, temperature=3), (z.requires_grad_(), v.requires_grad_())
    )
    losses.kd_both(z, v, temperature=3).backward()
    of_student, of_teacher = z.grad.clone(), v.grad.clone()
    z.grad = v.grad = None
    losses.kd(z, v, temperature=3).backward()
    torch.testing.assert_close(z.grad, of_student)
    assert v.grad is None
    assert of_teacher.abs().sum() > 0


# ---- mean squares --------------------------------------------------------------------------------


def test_logit_mse_is_the_mean_of_all_squares(logits):
    z, v = logits(1), logits(2)
    squares = [
        (a - 0.3 * b) ** 2
        for row, other in zip(z.tolist(), v.tolist(), strict=True)
        for a, b in zip(row, other, strict=True)
    ]
    assert losses.logit_mse(z, v, share=0.3).item() == pytest.approx(
        sum(squares) / len(squares), rel=1e-9
    )
    assert losses.logit_mse(v, v) == 0


def test_logit_mse_gradient(logits):
    assert torch.autograd.gradcheck(
        lambda z: losses.logit_mse(z, logits(2), share=0.5), logits(1).requires_grad_()
    )


# ---- confidence ----------------------------------------------------------------------------------


def test_images_count_as_much_as_the_teacher_is_sure(logits):
    z, v = logits(1), logits(2)
    weights = [max(softmax(row)) for row in v.tolist()]
    each = [
        -math.log(softmax(row)[label]) for row, label in zip(z.tolist(), Y.tolist(), strict=True)
    ]
    expected = sum(w / (sum(weights) / 6) * ce for w, ce in zip(weights, each, strict=True)) / 6
    assert losses.confidence_weighted(z, v, Y).item() == pytest.approx(expected, rel=1e-9)


def test_under_an_equally_sure_teacher_it_is_the_cross_entropy(logits):
    z = logits(1)
    v = torch.eye(5, dtype=torch.float64)[torch.tensor([3, 1, 0, 2, 4, 4])]
    torch.testing.assert_close(losses.confidence_weighted(z, v, Y), losses.cross_entropy(z, Y))


def test_confidence_weighted_gradient(logits):
    z, v = logits(1).requires_grad_(), logits(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: losses.confidence_weighted(z, logits(2), Y), z)
    losses.confidence_weighted(z, v, Y).backward()
    assert v.grad is None


# ---- permuted classes ----------------------------------------------------------------------------


def test_the_first_class_stays_and_the_others_keep_their_values(logits):
    v, order = logits(2), logits(3)
    permuted = losses.permute_others(v, order)
    assert torch.equal(permuted.argmax(1), v.argmax(1))
    assert torch.equal(permuted.sort(1).values, v.sort(1).values)
    assert not torch.equal(permuted, v)


def test_the_order_decides_who_goes_where():
    v = torch.tensor([[1.0, 9.0, 2.0, 3.0]])
    # of the others, at 0, 2 and 3, the smallest number goes first: values 3, 1, 2
    assert losses.permute_others(v, torch.tensor([[0.5, 0.0, 0.9, 0.1]])).tolist() == [
        [3.0, 9.0, 1.0, 2.0]
    ]
    assert torch.equal(losses.permute_others(v, torch.tensor([[0.0, 7.0, 1.0, 2.0]])), v)


def test_random_orders_reach_all_permutations_alike():
    order = random.uniform(random.key(0, "order"), torch.arange(6000 * 4).view(6000, 4))
    found = losses.permute_others(torch.tensor([[1.0, 9.0, 2.0, 3.0]]).expand(6000, 4), order)
    kinds, counts = found.unique(dim=0, return_counts=True)
    assert len(kinds) == 6
    assert (counts - 1000).abs().max() < 120  # four standard deviations


# ---- refusals and precision ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kd_both", "logit_mse"])
def test_shapes_that_differ_are_refused_by_name(name, logits):
    arguments = {"temperature": 1} if name == "kd_both" else {}
    with pytest.raises(Incompatible, match=rf"losses\.{name}"):
        getattr(losses, name)(logits(1), logits(2, classes=4), **arguments)


def test_what_is_not_positive_is_refused(logits):
    with pytest.raises(UsageError, match="share"):
        losses.logit_mse(logits(1), logits(2), share=0)
    with pytest.raises(UsageError, match="temperature"):
        losses.kd_both(logits(1), logits(2), temperature=0)


def test_other_shapes_are_refused(logits):
    with pytest.raises(Incompatible, match="confidence_weighted"):
        losses.confidence_weighted(logits(1), logits(2), Y[:5])
    with pytest.raises(UsageError, match="a number for each logit"):
        losses.permute_others(logits(1), logits(1)[:, :4])
    with pytest.raises(Incompatible, match="permute_others"):
        losses.permute_others(logits(1)[0], logits(1)[0])


def test_half_precision_is_computed_in_float32(logits):
    z, v = logits(1).bfloat16(), logits(2).bfloat16()
    found = (
        losses.kd_both(z, v, temperature=1),
        losses.logit_mse(z, v),
        losses.confidence_weighted(z, v, Y),
        losses.permute_others(v, v),
    )
    assert {value.dtype for value in found} == {torch.float32}
