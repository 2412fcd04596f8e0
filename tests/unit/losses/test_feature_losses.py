"""The losses on maps against plain loops, and the identities that they must keep."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch.distributions import Normal

from kdcli import losses
from kdcli.errors import Incompatible, UsageError


def feature_map(seed, channels=3, height=4, width=6, images=2):
    return torch.randn(
        images,
        channels,
        height,
        width,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )


SCALES = torch.tensor([-1.0, 0.5, 30.0], dtype=torch.float64)  # before softplus

# student first, teacher second, equal channels and sizes
PAIRWISE = {
    "fitnet": losses.fitnet,
    "at": lambda s, t: losses.at([s], [t]),
    "at p=1": lambda s, t: losses.at([s], [t], p=1),
    "at p=3": lambda s, t: losses.at([s], [t], p=3),
    "nst": lambda s, t: losses.nst([s], [t]),
    "vid": lambda s, t: losses.vid(s, SCALES.to(s.device, s.dtype), t),
}
every_pair = pytest.mark.parametrize("loss", PAIRWISE.values(), ids=PAIRWISE)
DISTANCES = {name: loss for name, loss in PAIRWISE.items() if name != "vid"}
every_distance = pytest.mark.parametrize("loss", DISTANCES.values(), ids=DISTANCES)
ANY_CHANNELS = ("at", "nst")


# ---- values --------------------------------------------------------------------------------------


def test_fitnet_is_the_mean_square_difference():
    s, t = feature_map(0), feature_map(1)
    squares = [(s[place].item() - t[place].item()) ** 2 for place in product(*map(range, s.shape))]
    assert losses.fitnet(s, t).item() == pytest.approx(sum(squares) / len(squares), rel=1e-12)


def attention(image, p):
    """The attention of one image [C,H,W], a flat list of norm 1."""
    channels, height, width = image.shape
    sums = [
        sum(abs(image[c, y, x].item()) ** p for c in range(channels))
        for y in range(height)
        for x in range(width)
    ]
    return [value / math.hypot(*sums) for value in sums]


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_at_is_the_mean_square_difference_of_attentions(p):
    s, t = feature_map(0, channels=2), feature_map(1, channels=5)
    squares = [
        (a - b) ** 2
        for i in range(2)
        for a, b in zip(attention(s[i], p), attention(t[i], p), strict=True)
    ]
    assert losses.at([s], [t], p=p).item() == pytest.approx(sum(squares) / (2 * 24), rel=1e-9)


def test_nst_is_the_discrepancy_of_channels_under_the_squared_kernel():
    s, t = (
        feature_map(0, channels=2, height=2, width=3),
        feature_map(1, channels=4, height=2, width=3),
    )

    def kernel(a, b):
        flat, other = a.flatten().tolist(), b.flatten().tolist()
        return (
            sum(x * y for x, y in zip(flat, other, strict=True))
            / math.hypot(*flat)
            / math.hypot(*other)
        ) ** 2

    def similarity(a, b):
        values = [
            kernel(a[i, c], b[i, d])
            for i in range(2)
            for c in range(a.shape[1])
            for d in range(b.shape[1])
        ]
        return sum(values) / len(values)

    expected = similarity(t, t) + similarity(s, s) - 2 * similarity(s, t)
    assert losses.nst([s], [t]).item() == pytest.approx(expected, rel=1e-9)


def test_nst_is_the_distance_of_the_places_gram_matrices():
    # <A B', A B'> = <A'A, B'B>: the same discrepancy from matrices over places, and so never below
    # 0
    s, t = feature_map(0, channels=7), feature_map(1, channels=4)
    grams = []
    for maps in (s, t):
        unit = maps.flatten(2) / maps.flatten(2).norm(dim=2, keepdim=True)
        grams.append(torch.einsum("nci,ncj->nij", unit, unit) / maps.shape[1])
    torch.testing.assert_close(
        losses.nst([s], [t]), (grams[0] - grams[1]).square().sum((1, 2)).mean()
    )


def test_vid_is_the_likelihood_of_a_normal_distribution():
    mean, target = feature_map(0), feature_map(1)
    deviation = (SCALES.exp().log1p() + 1e-5).sqrt().view(1, 3, 1, 1)
    expected = -Normal(mean, deviation).log_prob(target).mean() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(losses.vid(mean, SCALES, target), expected, rtol=1e-9, atol=0)


def test_vid_is_least_at_the_true_variance():
    # 0.5 (m / var + log var) with the mean square m is least at var = m
    mean, target = feature_map(0, images=50), feature_map(1, images=50)
    square = (mean - target).square().mean((0, 2, 3))
    log_scale = (square - 1e-5).expm1().log().requires_grad_()
    losses.vid(mean, log_scale, target).backward()
    torch.testing.assert_close(
        log_scale.grad, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_several_maps_add_up():
    pairs = [(feature_map(0), feature_map(1)), (feature_map(2, 5, 2, 2), feature_map(3, 2, 2, 2))]
    for loss in (losses.at, losses.nst):
        together = loss(*zip(*pairs, strict=True))
        torch.testing.assert_close(together, sum(loss([s], [t]) for s, t in pairs))


# ---- sizes ---------------------------------------------------------------------------------------


def halved(maps):
    """The means of 2x2 squares, by loops."""
    images, channels, height, width = maps.shape
    small = torch.zeros(images, channels, height // 2, width // 2, dtype=maps.dtype)
    for i, c, y, x in product(*map(range, small.shape)):
        small[i, c, y, x] = (
            sum(maps[i, c, 2 * y + dy, 2 * x + dx] for dy in (0, 1) for dx in (0, 1)) / 4
        )
    return small


@every_pair
def test_the_larger_map_is_pooled_to_the_smaller(loss):
    large, small = feature_map(0, 3, 8, 6), feature_map(1, 3, 4, 3)
    torch.testing.assert_close(loss(large, small), loss(halved(large), small))
    torch.testing.assert_close(loss(small, large), loss(small, halved(large)))


@every_pair
def test_height_and_width_are_pooled_apart(loss):
    tall, wide = feature_map(0, 3, 8, 3), feature_map(1, 3, 4, 6)
    assert loss(tall, wide).isfinite()
    assert [list(x.shape) for x in losses.same_size(tall, wide)] == [[2, 3, 4, 3]] * 2


@every_pair
def test_odd_sizes_are_fine(loss):
    assert loss(feature_map(0, 3, 7, 7), feature_map(1, 3, 4, 4)).isfinite()
    assert loss(feature_map(0, 3, 1, 1), feature_map(1, 3, 7, 7)).isfinite()


@pytest.mark.parametrize("name", ANY_CHANNELS)
def test_channels_may_differ(name):
    assert PAIRWISE[name](feature_map(0, 2), feature_map(1, 7)) > 0


# ---- identities ----------------------------------------------------------------------------------


@every_distance
def test_equal_maps_are_at_no_distance(loss):
    s = feature_map(0)
    assert abs(loss(s, s.clone()).item()) < 1e-14
    assert loss(s, feature_map(1)) > 1e-6


@pytest.mark.parametrize("name", ["at", "at p=1", "at p=3"])
def test_attention_sees_no_sign_and_no_scale_of_an_image(name):
    s, t = feature_map(0), feature_map(1)
    signs = feature_map(2).sign()
    scale = torch.tensor([1e-3, 40.0], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(
        PAIRWISE[name](signs * s * scale, t), PAIRWISE[name](s, t), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("name", ["at", "at p=3", "nst"])
def test_the_order_of_channels_does_not_matter(name):
    s, t = feature_map(0, 5), feature_map(1, 5)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(
        PAIRWISE[name](s[:, order], t), PAIRWISE[name](s, t), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        PAIRWISE[name](s, t[:, order]), PAIRWISE[name](s, t), rtol=1e-12, atol=0
    )


def test_nst_sees_no_scale_of_a_channel():
    s, t = feature_map(0), feature_map(1)
    scale = torch.tensor([-1.0, 1e-3, 1e4], dtype=torch.float64).view(1, 3, 1, 1)
    torch.testing.assert_close(
        losses.nst([s * scale], [t]), losses.nst([s], [t]), rtol=1e-9, atol=0
    )


# ---- gradients and numbers at the edge -----------------------------------------------------------


@every_pair
@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 2, 2)])
def test_gradients_are_those_of_the_value(loss, shape):
    t = feature_map(1)
    assert torch.autograd.gradcheck(lambda s: loss(s, t), feature_map(0, *shape).requires_grad_())


def test_the_variances_of_vid_are_learnt():
    mean, target = feature_map(0), feature_map(1)
    assert torch.autograd.gradcheck(
        lambda scale: losses.vid(mean, scale, target), SCALES.clone().requires_grad_()
    )


@every_pair
def test_no_gradient_reaches_the_teacher(loss):
    s, t = feature_map(0).requires_grad_(), feature_map(1).requires_grad_()
    loss(s, t).backward()
    assert s.grad.norm() > 0
    assert t.grad is None


@every_pair
def test_maps_and_channels_of_zeros_have_small_gradients(loss):
    s, t = feature_map(0).float(), feature_map(1).float()
    dead, dark = s.clone(), s.clone()
    dead[:, 1] = 0  # a channel
    dark[0] = 0  # an image
    for x in (torch.zeros_like(s), dead, dark):
        x.requires_grad_()
        value = loss(x, t)
        value.backward()
        assert value.isfinite()
        assert x.grad.abs().max() < 10
    assert loss(s, torch.zeros_like(t)).isfinite()


@pytest.mark.parametrize("name", ["at", "at p=1", "at p=3", "nst"])
def test_a_map_of_zeros_gets_no_gradient(name):
    s = torch.zeros(2, 3, 4, 6, requires_grad=True)
    PAIRWISE[name](s, feature_map(1).float()).backward()
    assert not s.grad.any()


@every_pair
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    s, t = (30 * feature_map(0)).to(dtype), (30 * feature_map(1)).to(dtype)
    assert loss(s, t).dtype == torch.float32
    assert torch.equal(loss(s, t), loss(s.float(), t.float()))


@every_pair
def test_autocast_changes_nothing(loss):
    s, t = feature_map(0).float(), feature_map(1).float()
    expected = loss(s, t)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(s, t), expected)


@every_pair
def test_float64_stays(loss):
    assert loss(feature_map(0), feature_map(1)).dtype == torch.float64


@every_pair
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_float32_is_near_float64_at_any_scale(loss, scale):
    s, t = scale * feature_map(0), scale * feature_map(1)
    assert loss(s.float(), t.float()).item() == pytest.approx(loss(s, t).item(), rel=1e-4)


# ---- arguments that make no sense ----------------------------------------------------------------


@every_pair
def test_maps_must_be_of_the_same_images(loss):
    with pytest.raises(
        Incompatible,
        match=(
            r"needs student and teacher maps \[B, C, H, W\] of the same images, got \[2, 3, 4, "
            r"6\] and \[1"
        ),
    ):
        loss(feature_map(0), feature_map(1, images=1))
    with pytest.raises(Incompatible, match="needs student and teacher maps"):
        loss(feature_map(0), feature_map(1).flatten(1))


@pytest.mark.parametrize("name", ["fitnet", "vid"])
def test_channels_must_agree_where_they_are_compared(name):
    with pytest.raises(
        Incompatible, match=rf"losses\.{name} compares channel by channel, got 3 and 2 channels"
    ):
        PAIRWISE[name](feature_map(0), feature_map(1, 2))


def test_vid_needs_a_scale_for_each_channel():
    with pytest.raises(
        Incompatible, match=r"losses\.vid needs one log_scale a channel, \[3\], got \[2\]"
    ):
        losses.vid(feature_map(0), torch.zeros(2), feature_map(1))


@pytest.mark.parametrize("loss", [losses.at, losses.nst])
def test_as_many_student_maps_as_teacher_maps(loss):
    with pytest.raises(
        Incompatible,
        match=f"losses.{loss.__name__} needs as many student maps as teacher maps, got 1 and 2",
    ):
        loss([feature_map(0)], [feature_map(1)] * 2)
    with pytest.raises(Incompatible, match="got 0 and 0"):
        loss([], [])


@pytest.mark.parametrize("p", [0.5, 0, -1, math.nan])
def test_the_power_of_attention_is_at_least_one(p):
    with pytest.raises(UsageError, match=r"losses\.at: p must be at least 1"):
        losses.at([feature_map(0)], [feature_map(1)], p=p)


@pytest.mark.gpu
@every_pair
def test_no_loss_waits_for_the_device(loss):
    s, t = feature_map(0).float().cuda().requires_grad_(), feature_map(1).float().cuda()
    scales = SCALES.float().cuda()
    run = (lambda: losses.vid(s, scales, t)) if loss is PAIRWISE["vid"] else (lambda: loss(s, t))
    run().backward()  # the first call sets libraries up
    torch.cuda.set_sync_debug_mode("error")
    try:
        run().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
