"""Decoupled distillation and the correlations of DIST, against plain loops over `math`, and the
identities that they must keep.
"""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli import losses
from kdcli.errors import Incompatible, UsageError

Y = torch.tensor([0, 1, 2, 3, 4, 0])

LOSSES = {
    "dkd": lambda z, v: losses.dkd(z, v, Y.to(z.device)[: len(z)], alpha=1, beta=8, temperature=4),
    "dist": lambda z, v: losses.dist(z, v, beta=2, gamma=3, temperature=4),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def softmax(row, tau=1.0):
    powers = [math.exp(x / tau) for x in row]
    return [power / sum(powers) for power in powers]


def kl(q, p):
    return sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))


def without(row, label):
    return [x for k, x in enumerate(row) if k != label]


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 1, 4])
def test_decoupled_is_two_divergences_by_the_definition(logits, tau):
    target, rest = [], []
    for a, b, t in zip(logits(0).tolist(), logits(1).tolist(), Y.tolist(), strict=True):
        p, q = softmax(a, tau), softmax(b, tau)
        target.append(kl([q[t], 1 - q[t]], [p[t], 1 - p[t]]))
        rest.append(kl(softmax(without(b, t), tau), softmax(without(a, t), tau)))
    tckd, nckd = losses.decoupled(logits(0), logits(1), Y, temperature=tau)
    assert tckd.item() == pytest.approx(tau**2 * statistics.fmean(target), rel=1e-9)
    assert nckd.item() == pytest.approx(tau**2 * statistics.fmean(rest), rel=1e-9)
    got = losses.dkd(logits(0), logits(1), Y, alpha=0.7, beta=6, temperature=tau)
    assert got.item() == pytest.approx(
        tau**2 * (0.7 * statistics.fmean(target) + 6 * statistics.fmean(rest)), rel=1e-9
    )


@pytest.mark.parametrize("tau", [1, 4])
def test_correlations_are_those_of_statistics(logits, tau):
    p, q = ([softmax(row, tau) for row in logits(seed).tolist()] for seed in (0, 1))
    inter = 1 - statistics.fmean(statistics.correlation(a, b) for a, b in zip(p, q, strict=True))
    columns = zip(zip(*p, strict=True), zip(*q, strict=True), strict=True)
    intra = 1 - statistics.fmean(statistics.correlation(a, b) for a, b in columns)
    found = losses.correlations(logits(0), logits(1), temperature=tau)
    # 1e-8 stands beside the norms
    assert [x.item() for x in found] == pytest.approx([tau**2 * inter, tau**2 * intra], rel=1e-5)
    got = losses.dist(logits(0), logits(1), beta=2, gamma=3, temperature=tau)
    assert got.item() == pytest.approx(tau**2 * (2 * inter + 3 * intra), rel=1e-5)


def test_correlations_with_the_published_constant_beside_the_norms(logits):
    # small spreads, where 1e-8 shows: the fourth power of a deviation of 1e-2
    z, v, tau = logits(0) * 1e-2, logits(1) * 1e-2, 4.0
    p, q = (z / tau).softmax(-1), (v / tau).softmax(-1)

    def mean_correlation(a, b):
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()

    expected = tau**2 * (2 * (1 - mean_correlation(p, q)) + 3 * (1 - mean_correlation(p.T, q.T)))
    assert losses.dist(z, v, beta=2, gamma=3, temperature=tau).item() == pytest.approx(
        expected.item(), rel=1e-9
    )


# ---- identities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1, 4])
def test_with_a_beta_of_the_teachers_doubt_decoupled_is_kd_row_by_row(logits, tau):
    z, v = logits(0).requires_grad_(), logits(1)
    q = (v / tau).softmax(-1)
    for row, label in enumerate(Y):
        one, beta = slice(row, row + 1), 1 - q[row, label].item()
        halves = losses.dkd(z[one], v[one], Y[one], alpha=1, beta=beta, temperature=tau)
        whole = losses.kd(z[one], v[one], temperature=tau)
        torch.testing.assert_close(halves, whole)
        torch.testing.assert_close(
            torch.autograd.grad(halves, z)[0], torch.autograd.grad(whole, z)[0]
        )


def test_with_two_classes_nothing_is_left_to_share_out(logits):
    z, v, y = logits(0, classes=2), logits(1, classes=2), torch.tensor([0, 1, 1, 0, 1, 0])
    target, rest = losses.decoupled(z, v, y, temperature=4)
    assert rest == 0
    torch.testing.assert_close(target, losses.kd(z, v, temperature=4))


def test_the_half_about_the_rest_does_not_see_the_labels_logit(logits):
    z, v = logits(0), logits(1)
    label = torch.zeros_like(z).scatter(1, Y.unsqueeze(1), 1.0)
    before, after = (losses.decoupled(x, v, Y, temperature=4) for x in (z, z + 5 * label))
    torch.testing.assert_close(before[1], after[1])
    assert before[0] != after[0]


@every_loss
def test_a_student_that_equals_its_teacher_has_next_to_no_loss(loss, logits):
    z = logits(0).requires_grad_()
    value = loss(z, logits(0))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-4)  # 1 - r is 1e-8 over a product of norms
    assert z.grad.abs().max() < 1e-4


@pytest.mark.parametrize("name", LOSSES)
@given(shift=st.floats(-50, 50), other=st.floats(-50, 50))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_a_constant_added_to_all_logits_changes_nothing(name, shift, other):
    generator = torch.Generator().manual_seed(0)
    z, v = (3 * torch.randn(4, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    torch.testing.assert_close(
        LOSSES[name](z + shift, v + other), LOSSES[name](z, v), rtol=1e-9, atol=1e-9
    )


def test_dist_asks_for_a_linear_relation_of_probabilities_only():
    # q = (1 + 3 p) / 4 row by row: another confidence, the same relation between the classes of
    # each image
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    q = (p + 1 / 9) * 0.75
    inter, intra = losses.correlations(p.log(), q.log(), temperature=1)
    assert inter.item() == pytest.approx(0, abs=1e-6)
    assert intra.item() == pytest.approx(0, abs=1e-6)
    assert losses.kd(p.log(), q.log(), temperature=1) > 0.01


# ---- gradients -----------------------------------------------------------------------------------


@every_loss
def test_gradients_are_those_of_the_value(loss, logits):
    v = logits(1, rows=3)
    assert torch.autograd.gradcheck(lambda z: loss(z, v), logits(0, rows=3).requires_grad_())


@every_loss
def test_no_gradient_reaches_the_teacher(loss, logits):
    z, v = logits(0).requires_grad_(), logits(1).requires_grad_()
    loss(z, v).backward()
    assert z.grad is not None
    assert v.grad is None


@every_loss
@pytest.mark.parametrize("constant", [0.0, 0.1, -1234.567, 3e4])
def test_constant_rows_give_small_finite_gradients(loss, constant, logits):
    z = torch.full((6, 10), constant, requires_grad=True)
    value = loss(z, logits(1, classes=10).float())
    value.backward()
    assert value.isfinite()
    assert z.grad.abs().max() < 10
    assert (z.grad.norm(dim=-1) > 1e-4).all()  # a head that starts at zero gets away from there
    assert loss(logits(0, classes=10).float(), torch.full((6, 10), constant)).isfinite()


@every_loss
def test_equal_images_have_columns_that_do_not_vary_and_a_finite_gradient(loss, logits):
    z = logits(0, rows=1).float().expand(6, 5).clone().requires_grad_()
    value = loss(z, logits(1, rows=1).float().expand(6, 5))
    value.backward()
    assert value.isfinite()
    assert z.grad.abs().max() < 100


def test_a_batch_of_one_class_is_the_mean_of_its_images(logits):
    z, v, y = logits(0), logits(1), torch.full((6,), 3)
    alone = [
        losses.dkd(z[i : i + 1], v[i : i + 1], y[:1], alpha=1, beta=8, temperature=4)
        for i in range(6)
    ]
    torch.testing.assert_close(
        losses.dkd(z, v, y, alpha=1, beta=8, temperature=4), torch.stack(alone).mean()
    )


@every_loss
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_networks_that_are_sure_beyond_float32_stay_finite(loss, scale, logits):
    # softmax is exactly 0 and 1: log(1 - p) of it would be -inf
    z = (scale * logits(0)).float().requires_grad_()
    value = loss(z, (scale * logits(1)).float())
    value.backward()
    assert value.isfinite()
    assert z.grad.isfinite().all()


def test_dkd_of_a_sure_student_is_that_of_float64(logits):
    z, v = 40 * logits(0), 40 * logits(1)
    assert LOSSES["dkd"](z.float(), v.float()).item() == pytest.approx(
        LOSSES["dkd"](z, v).item(), rel=1e-5
    )


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype, logits):
    z, v = logits(0, scale=20).to(dtype), logits(1, scale=20).to(dtype)
    assert loss(z, v).dtype == torch.float32
    assert torch.equal(loss(z, v), loss(z.float(), v.float()))
    assert loss(logits(0), logits(1)).dtype == torch.float64


# ---- arguments that make no sense ----------------------------------------------------------------


def test_a_batch_of_one_has_no_relations_between_images(logits):
    with pytest.raises(
        Incompatible,
        match=r"losses\.dist compares the images of a batch and needs at least two, got one",
    ):
        LOSSES["dist"](logits(0, rows=1), logits(1, rows=1))
    assert LOSSES["dkd"](logits(0, rows=1), logits(1, rows=1)).isfinite()


@every_loss
def test_shapes_and_classes_are_checked(loss, logits):
    with pytest.raises(
        Incompatible,
        match=r"losses\.(dkd|dist) needs student and teacher logits of one shape \[N, K\]",
    ):
        loss(logits(0), logits(1, classes=4))
    with pytest.raises(Incompatible, match="at least two classes"):
        loss(torch.zeros(3, 1), torch.zeros(3, 1))


def test_labels_and_temperatures_are_checked(logits):
    z, v = logits(0), logits(1)
    with pytest.raises(
        Incompatible, match=r"losses\.dkd needs logits \[N, K\] and integer labels \[N\]"
    ):
        losses.dkd(z, v, Y[:3], alpha=1, beta=1, temperature=1)
    with pytest.raises(UsageError, match=r"losses\.dkd: temperature must be a number above 0"):
        losses.dkd(z, v, Y, alpha=1, beta=1, temperature=0)
    with pytest.raises(UsageError, match=r"losses\.dist: temperature must be a number above 0"):
        losses.dist(z, v, beta=1, gamma=1, temperature=-1)
    with pytest.raises(Incompatible, match=r"losses\.decoupled"):
        losses.decoupled(z, v, Y.float(), temperature=1)


@pytest.mark.gpu
def test_no_loss_waits_for_the_device(logits):
    z, v, y = logits(0).float().cuda().requires_grad_(), logits(1).float().cuda(), Y.cuda()

    def both():
        return losses.dkd(z, v, y, alpha=1, beta=1, temperature=1) + losses.dist(
            z, v, beta=1, gamma=1, temperature=1
        )

    both().backward()  # the first call sets libraries up
    torch.cuda.set_sync_debug_mode("error")
    try:
        both().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
