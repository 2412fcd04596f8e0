"""The logit losses against plain loops over `math`, and the identities that they must keep."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli import losses
from kdcli.errors import Incompatible, UsageError

ALIGNS = ("teacher_std", "constant", "unit")

# student first, teacher second: every loss that compares logits of two networks
PAIRWISE = {
    "kd": lambda z, v: losses.kd(z, v, temperature=4),
    "skd": lambda z, v: losses.skd(z, v, temperature=4),
    "skd constant": lambda z, v: losses.skd(z, v, temperature=4, align="constant", multiplier=2.5),
    "skd unit": lambda z, v: losses.skd(z, v, temperature=4, align="unit"),
    "logit_std": lambda z, v: losses.kd(
        losses.standardize(z), losses.standardize(v), temperature=2
    ),
}
SCALE_FREE = {name: loss for name, loss in PAIRWISE.items() if name != "kd"}
every_pair = pytest.mark.parametrize("loss", PAIRWISE.values(), ids=PAIRWISE)
every_scale_free = pytest.mark.parametrize("loss", SCALE_FREE.values(), ids=SCALE_FREE)


def softmax(row, tau=1.0):
    powers = [math.exp(x / tau) for x in row]
    return [power / sum(powers) for power in powers]


def divergence(z, v, tau):
    """tau^2 times the mean KL(softmax(v / tau) || softmax(z / tau)) over rows, given as lists."""
    rows = [
        sum(q * math.log(q / p) for p, q in zip(softmax(a, tau), softmax(b, tau), strict=True))
        for a, b in zip(z, v, strict=True)
    ]
    return tau**2 * sum(rows) / len(rows)


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 1, 4, 20])
def test_kd_is_the_divergence_of_the_softened_rows(logits, tau):
    z, v = logits(0), logits(1)
    assert losses.kd(z, v, temperature=tau).item() == pytest.approx(
        divergence(z.tolist(), v.tolist(), tau), rel=1e-6
    )


def test_skd_is_kd_between_the_teacher_and_the_student_at_its_deviation(logits):
    z, v = logits(0).tolist(), logits(1).tolist()
    scaled = [
        [x / statistics.stdev(a) * statistics.stdev(b) for x in a]
        for a, b in zip(z, v, strict=True)
    ]
    assert losses.skd(logits(0), logits(1), temperature=4).item() == pytest.approx(
        divergence(scaled, v, 4), rel=1e-6
    )


def test_skd_constant_is_kd_between_layer_norms(logits):
    z, v = (
        torch.nn.functional.layer_norm(x, (5,), eps=0).mul(2.5).tolist()
        for x in (logits(0), logits(1))
    )
    got = losses.skd(logits(0), logits(1), temperature=4, align="constant", multiplier=2.5)
    assert got.item() == pytest.approx(divergence(z, v, 4), rel=1e-6)


def test_skd_unit_is_kd_between_rows_of_norm_one(logits):
    z, v = (
        [[x / math.hypot(*row) for x in row] for row in side.tolist()]
        for side in (logits(0), logits(1))
    )
    assert losses.skd(logits(0), logits(1), temperature=4, align="unit").item() == pytest.approx(
        divergence(z, v, 4), rel=1e-6
    )


def test_standardize_gives_z_scores(logits):
    row = logits(0, rows=1)
    scores = [
        (x - statistics.fmean(row[0].tolist())) / statistics.stdev(row[0].tolist())
        for x in row[0].tolist()
    ]
    torch.testing.assert_close(losses.standardize(row), torch.tensor([scores], dtype=torch.float64))
    torch.testing.assert_close(
        losses.standardize(logits(1), correction=0).std(-1, correction=0),
        torch.ones(6, dtype=torch.float64),
    )


def test_match_spread_moves_the_student_to_the_teachers_sphere(logits):
    moved, v = losses.match_spread(logits(0), like=logits(1)), logits(1)
    torch.testing.assert_close(moved.norm(dim=-1), losses.centre(v).norm(dim=-1))
    torch.testing.assert_close(
        torch.cosine_similarity(moved, losses.centre(logits(0))), torch.ones(6, dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("form", "label", "other"), [("uniform", 0.4 + 0.6 / 5, 0.6 / 5), ("others", 0.4, 0.6 / 4)]
)
def test_label_smoothing_is_cross_entropy_with_its_targets(logits, form, label, other):
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    rows = [
        -sum((label if k == target else other) * math.log(p) for k, p in enumerate(softmax(row)))
        for row, target in zip(logits(0).tolist(), y.tolist(), strict=True)
    ]
    assert losses.label_smoothing(logits(0), y, smoothing=0.6, form=form).item() == pytest.approx(
        sum(rows) / 6, rel=1e-9
    )


def test_no_smoothing_is_cross_entropy(logits):
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    torch.testing.assert_close(
        losses.label_smoothing(logits(0), y, smoothing=0), losses.cross_entropy(logits(0), y)
    )


def test_the_best_margin_under_label_smoothing():
    # log(K (1 - a) / a + 1) between the label and every other class: there the gradient is zero
    z = torch.tensor(
        [[math.log(10 * 0.9 / 0.1 + 1)] + [0.0] * 9], dtype=torch.float64, requires_grad=True
    )
    losses.label_smoothing(z, torch.tensor([0]), smoothing=0.1).backward()
    torch.testing.assert_close(z.grad, torch.zeros_like(z), atol=1e-12, rtol=0)


# ---- identities ----------------------------------------------------------------------------------


@every_pair
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(loss, logits):
    z = logits(0).requires_grad_()
    value = loss(z, logits(0))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-14)
    torch.testing.assert_close(z.grad, torch.zeros_like(z), atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", sorted(set(PAIRWISE) - {"skd unit"}))
@given(shift=st.floats(-50, 50), other=st.floats(-50, 50))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_a_constant_added_to_all_logits_changes_nothing(name, shift, other):
    generator = torch.Generator().manual_seed(0)
    z, v = (3 * torch.randn(4, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    torch.testing.assert_close(
        PAIRWISE[name](z + shift, v + other), PAIRWISE[name](z, v), rtol=1e-9, atol=1e-9
    )


def test_the_printed_form_of_skd_depends_on_the_mean_of_the_logits(logits):
    z, v = logits(0), logits(1)
    assert not torch.isclose(PAIRWISE["skd unit"](z + 5, v), PAIRWISE["skd unit"](z, v), rtol=0.01)


@pytest.mark.parametrize("name", SCALE_FREE)
@given(scale=st.floats(1e-6, 1e6))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_the_students_scale_is_free_after_normalisation(name, scale):
    generator = torch.Generator().manual_seed(0)
    z, v = (torch.randn(4, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    torch.testing.assert_close(
        SCALE_FREE[name](scale * z, v), SCALE_FREE[name](z, v), rtol=1e-9, atol=1e-12
    )


@every_scale_free
def test_the_gradient_after_normalisation_leaves_the_norm_alone(loss, logits):
    z = logits(0).requires_grad_()
    loss(z, logits(1)).backward()
    assert z.grad.norm() > 1e-3
    torch.testing.assert_close(
        (z.grad * z.detach()).sum(-1), torch.zeros(6, dtype=torch.float64), atol=1e-14, rtol=0
    )


@pytest.mark.parametrize("name", ["skd", "skd constant", "logit_std"])
def test_the_gradient_is_orthogonal_to_the_centred_logits(name, logits):
    z = logits(0).requires_grad_()
    PAIRWISE[name](z, logits(1)).backward()
    torch.testing.assert_close(
        (z.grad * losses.centre(z.detach())).sum(-1),
        torch.zeros(6, dtype=torch.float64),
        atol=1e-14,
        rtol=0,
    )


def test_label_smoothing_is_kd_from_a_teacher_that_knows_nothing(logits):
    y, a = torch.tensor([0, 1, 2, 3, 4, 0]), 0.3
    z = logits(0).requires_grad_()
    (smoothed,) = torch.autograd.grad(losses.label_smoothing(z, y, smoothing=a), z)
    distilled = (1 - a) * losses.cross_entropy(z, y) + a * losses.kd(
        z, torch.zeros_like(z), temperature=1
    )
    torch.testing.assert_close(torch.autograd.grad(distilled, z)[0], smoothed)


def test_at_high_temperature_kd_regresses_logits(logits):
    z, v = losses.centre(logits(0)).requires_grad_(), losses.centre(logits(1))
    losses.kd(z, v, temperature=1e5).backward()
    torch.testing.assert_close(z.grad, (z.detach() - v) / (5 * 6), rtol=1e-3, atol=1e-6)


def test_skd_as_printed_hardly_tells_right_from_wrong_at_a_hundred_classes():
    # norm 1, temperature 4, 100 classes: the most confident student there is gives its class
    # 0.0128, and its divergence from a teacher of any confidence is next to nothing
    z = torch.eye(100, dtype=torch.float64) * 50
    on_sphere, _ = losses.spherical(z, z, align="unit")
    assert 0.0127 < (on_sphere / 4).softmax(-1).max() < 0.0129
    wrong = z.roll(1, dims=0)
    assert losses.skd(wrong, z, temperature=4, align="unit") < 0.02
    assert losses.skd(wrong, z, temperature=4) > 1


# ---- gradients -----------------------------------------------------------------------------------


@every_pair
def test_gradients_are_those_of_the_value(loss, logits):
    v = logits(1, rows=3)
    assert torch.autograd.gradcheck(lambda z: loss(z, v), logits(0, rows=3).requires_grad_())


@pytest.mark.parametrize("form", ["uniform", "others"])
def test_gradients_of_label_smoothing_are_those_of_the_value(form, logits):
    y = torch.tensor([0, 4, 2])
    z = logits(0, rows=3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: losses.label_smoothing(z, y, smoothing=0.2, form=form), z
    )


@every_pair
def test_no_gradient_reaches_the_teacher(loss, logits):
    z, v = logits(0).requires_grad_(), logits(1).requires_grad_()
    loss(z, v).backward()
    assert z.grad is not None
    assert v.grad is None


# ---- numbers at the edge -------------------------------------------------------------------------


@every_pair
@pytest.mark.parametrize("constant", [0.0, 0.1, -1234.567, 3e4])
def test_constant_rows_give_small_finite_gradients(loss, constant, logits):
    # ten classes: the float32 mean of ten times 0.1 is not 0.1, so that a constant row has a spread
    # of rounding noise
    z = torch.full((6, 10), constant, requires_grad=True)
    value = loss(z, logits(1, classes=10).float())
    value.backward()
    assert value.isfinite()
    assert z.grad.abs().max() < 10
    assert loss(logits(0, classes=10).float(), torch.full((6, 10), constant)).isfinite()


@pytest.mark.parametrize("name", ["skd", "logit_std"])
def test_a_head_that_starts_at_zero_gets_a_gradient(name, logits):
    z = torch.zeros(6, 5, requires_grad=True)
    PAIRWISE[name](z, logits(1).float()).backward()
    assert (z.grad.norm(dim=-1) > 1e-4).all()


@every_pair
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype, logits):
    z, v = logits(0, scale=20).to(dtype), logits(1, scale=20).to(dtype)
    got = loss(z, v)
    assert got.dtype == torch.float32
    assert torch.equal(got, loss(z.float(), v.float()))


@every_pair
def test_float64_stays(loss, logits):
    assert loss(logits(0), logits(1)).dtype == torch.float64


@every_pair
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_float32_is_near_float64_at_any_scale(loss, scale, logits):
    z, v = scale * logits(0), scale * logits(1)
    assert loss(z.float(), v.float()).item() == pytest.approx(loss(z, v).item(), rel=2e-4, abs=2e-6)


@pytest.mark.parametrize("tau", [20, 100])
def test_float32_is_good_enough_at_high_temperature(tau, logits):
    z, v = logits(0, classes=100), logits(1, classes=100)
    assert losses.kd(z.float(), v.float(), temperature=tau).item() == pytest.approx(
        losses.kd(z, v, temperature=tau).item(), rel=1e-3
    )


def test_two_classes_leave_nothing_to_learn_on_a_sphere():
    z, v = torch.tensor([[1.0, 3.0]], requires_grad=True), torch.tensor([[0.0, 9.0]])
    losses.skd(z, v, temperature=1).backward()
    torch.testing.assert_close(z.grad, torch.zeros(1, 2), atol=1e-6, rtol=0)


# ---- arguments that make no sense ----------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, -1, math.inf, math.nan])
def test_a_temperature_must_be_a_number_above_zero(temperature, logits):
    for function in (losses.kd, losses.skd):
        with pytest.raises(
            UsageError, match=rf"losses\.{function.__name__}: temperature must be a number above 0"
        ):
            function(logits(0), logits(1), temperature=temperature)


@pytest.mark.parametrize("shape", [(6, 4), (5, 5), (30,), (0, 5)])
def test_both_sides_must_have_one_shape(shape, logits):
    other = torch.zeros(shape)
    with pytest.raises(
        Incompatible,
        match=(
            r"losses\.kd needs student and teacher logits of one shape \[N, K\], "
            r"got \[6, 5\] and"
        ),
    ):
        losses.kd(logits(0), other, temperature=1)
    with pytest.raises(Incompatible, match="match_spread"):
        losses.match_spread(logits(0), like=other)


def test_an_empty_batch_is_refused():
    with pytest.raises(Incompatible):
        losses.kd(torch.zeros(0, 5), torch.zeros(0, 5), temperature=1)


@pytest.mark.parametrize(
    "function", [losses.standardize, losses.centre, lambda x: losses.kd(x, x, temperature=1)]
)
def test_one_class_is_refused(function):
    with pytest.raises(Incompatible, match="at least two classes"):
        function(torch.zeros(3, 1))


@pytest.mark.parametrize(
    "y", [torch.zeros(5, dtype=torch.int64), torch.zeros(6, 5, dtype=torch.int64), torch.zeros(6)]
)
def test_labels_must_be_one_integer_a_row(y, logits):
    with pytest.raises(
        Incompatible, match=r"losses\.cross_entropy needs logits \[N, K\] and integer labels \[N\]"
    ):
        losses.cross_entropy(logits(0), y)


def test_unknown_words_and_ranges_are_refused(logits):
    y = torch.zeros(6, dtype=torch.int64)
    with pytest.raises(UsageError, match="align must be"):
        losses.skd(logits(0), logits(1), temperature=1, align="teacher")
    with pytest.raises(UsageError, match="multiplier must be"):
        losses.skd(logits(0), logits(1), temperature=1, align="constant", multiplier=0)
    with pytest.raises(UsageError, match="form must be"):
        losses.label_smoothing(logits(0), y, smoothing=0.1, form="other")
    with pytest.raises(UsageError, match="smoothing must be between 0 and 1"):
        losses.label_smoothing(logits(0), y, smoothing=1.5)


@pytest.mark.gpu
@every_pair
def test_no_loss_waits_for_the_device(loss, logits):
    z, v = logits(0).float().cuda().requires_grad_(), logits(1).float().cuda()
    y = torch.arange(6, device="cuda") % 5
    loss(z, v).backward()  # the first call sets libraries up
    torch.cuda.set_sync_debug_mode("error")
    try:
        (
            loss(z, v)
            + losses.label_smoothing(z, y, smoothing=0.1)
            + losses.entropy(z, temperature=4).mean()
        ).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
