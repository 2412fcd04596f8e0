"""FSP, AB, FT, SRRL, OFD and ReviewKD's losses against plain loops, and the identities that they
must keep.
"""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from kdcli import losses
from kdcli.errors import Incompatible, UsageError

MARGINS = torch.tensor([-0.5, -0.1, -1.2], dtype=torch.float64)


def feature_map(seed, channels=3, height=4, width=6, images=2):
    return torch.randn(
        images,
        channels,
        height,
        width,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )


def vectors(seed, width=3, images=2):
    return torch.randn(
        images, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


HEAD, BIAS, ANSWERS = vectors(7, 3, 5), vectors(8, 5, 1)[0], vectors(9, 5)

# student first, teacher second, equal channels and sizes
ON_MAPS = {
    "fsp": lambda s, t: losses.fsp([s, 2 * s], [t, t.flip(1)]),
    "ab": lambda s, t: losses.ab([s], [t], margin=1),
    "ft code": losses.ft,
    "ft code p=2": lambda s, t: losses.ft(s, t, p=2),
    "ft paper": lambda s, t: losses.ft(s, t, form="paper"),
    "ft paper p=2": lambda s, t: losses.ft(s, t, form="paper", p=2),
    "ofd": lambda s, t: losses.ofd([s], [t], [MARGINS.to(s)]),
    "hcl": lambda s, t: losses.hcl([s], [t]),
}
every_map_loss = pytest.mark.parametrize("loss", ON_MAPS.values(), ids=ON_MAPS)
POOLING = {name: loss for name, loss in ON_MAPS.items() if name != "hcl"}


def halved(maps):
    """The means of 2x2 squares, by loops."""
    images, channels, height, width = maps.shape
    small = torch.zeros(images, channels, height // 2, width // 2, dtype=maps.dtype)
    for i, c, y, x in product(*map(range, small.shape)):
        small[i, c, y, x] = (
            sum(maps[i, c, 2 * y + dy, 2 * x + dx] for dy in (0, 1) for dx in (0, 1)) / 4
        )
    return small


# ---- values --------------------------------------------------------------------------------------


def flow(a, b):
    """G of one image's maps of one size, by loops: a list of lists."""
    places = list(product(range(a.shape[1]), range(a.shape[2])))
    return [
        [
            sum(a[c, y, x].item() * b[d, y, x].item() for y, x in places) / len(places)
            for d in range(len(b))
        ]
        for c in range(len(a))
    ]


def test_fsp_is_the_mean_square_difference_of_flows_between_neighbours():
    s_maps = [feature_map(0, 2), feature_map(1, 3), feature_map(2, 4, 2, 3)]
    t_maps = [feature_map(3, 2), feature_map(4, 3), feature_map(5, 4, 2, 3)]
    expected = 0.0
    for first, pools in ((0, False), (1, True)):
        squares = []
        for i in range(2):
            flows = []
            for maps in (s_maps, t_maps):
                before = halved(maps[first]) if pools else maps[first]
                flows.append(flow(before[i], maps[first + 1][i]))
            squares += [
                (x - y) ** 2
                for row, other in zip(*flows, strict=True)
                for x, y in zip(row, other, strict=True)
            ]
        expected += sum(squares) / len(squares)
    assert losses.fsp(s_maps, t_maps).item() == pytest.approx(expected, rel=1e-9)


def test_fsp_compares_flows_of_maps_of_any_size():
    small, large = (
        [feature_map(0, 3, 2, 2), feature_map(1, 3, 2, 2)],
        [feature_map(2, 3, 8, 8), feature_map(3, 3, 8, 8)],
    )
    tiled = [x.repeat(1, 1, 4, 4) for x in small]  # the same flow over more places
    torch.testing.assert_close(losses.fsp(small, large), losses.fsp(tiled, large))


def test_ab_asks_for_the_teachers_side_and_a_margin_there():
    s_maps, t_maps = (
        [feature_map(0), feature_map(1, 5, 2, 3)],
        [feature_map(2), feature_map(3, 5, 2, 3)],
    )
    m, expected = 0.7, 0.0
    for s, t, weight in zip(s_maps, t_maps, (0.5, 1), strict=True):
        total = 0.0
        for place in product(*map(range, s.shape)):
            ours, theirs = s[place].item(), t[place].item()
            if theirs > 0 and ours <= m:
                total += (m - ours) ** 2
            if theirs <= 0 and ours > -m:
                total += (ours + m) ** 2
        expected += weight * total / len(s)
    assert losses.ab(s_maps, t_maps, margin=m).item() == pytest.approx(expected, rel=1e-9)


def test_a_student_beyond_the_margin_on_the_right_side_is_right_for_ab():
    t = feature_map(0)
    assert losses.ab([1.001 * t.sign()], [t], margin=1) == 0
    assert losses.ab([0.5 * t.sign()], [t], margin=1).item() == pytest.approx(0.25 * 3 * 4 * 6)
    silent = torch.zeros_like(t)  # a teacher at zero does not fire
    assert losses.ab([silent - 1], [silent], margin=1) == 0
    assert losses.ab([silent + 1], [silent], margin=1) > 0


def test_ft_compares_where_factors_are_large():
    s, t = feature_map(0, 2), feature_map(1, 5)

    def attention(image):
        sums = [
            sum(image[c, y, x].item() ** 2 for c in range(len(image)))
            for y in range(4)
            for x in range(6)
        ]
        return [value / math.hypot(*sums) for value in sums]

    differences = [
        abs(a - b) for i in range(2) for a, b in zip(attention(s[i]), attention(t[i]), strict=True)
    ]
    assert losses.ft(s, t).item() == pytest.approx(sum(differences) / 48, rel=1e-9)
    assert losses.ft(s, t, p=2).item() == pytest.approx(
        sum(x * x for x in differences) / 48, rel=1e-9
    )


def test_ft_as_printed_compares_signed_factors_of_norm_one():
    s, t = feature_map(0), feature_map(1)
    rows = [
        [x / math.hypot(*image) for x in image]
        for image in (*s.flatten(1).tolist(), *t.flatten(1).tolist())
    ]
    differences = [abs(a - b) for i in range(2) for a, b in zip(rows[i], rows[i + 2], strict=True)]
    assert losses.ft(s, t, form="paper").item() == pytest.approx(sum(differences) / 144, rel=1e-9)
    assert losses.ft(-s, s, form="paper") > 0.05
    assert losses.ft(-s, s, form="code") == 0


def test_srrl_is_what_the_teachers_head_makes_of_the_student():
    h = vectors(0)
    squares = [
        (
            sum(HEAD[k, d].item() * h[i, d].item() for d in range(3))
            + BIAS[k].item()
            - ANSWERS[i, k].item()
        )
        ** 2
        for i in range(2)
        for k in range(5)
    ]
    assert losses.srrl(h, ANSWERS, HEAD, BIAS).item() == pytest.approx(sum(squares) / 10, rel=1e-9)
    torch.testing.assert_close(
        losses.srrl(h, ANSWERS - BIAS, HEAD), losses.srrl(h, ANSWERS, HEAD, BIAS)
    )
    assert losses.srrl(h, h @ HEAD.T + BIAS, HEAD, BIAS).item() == pytest.approx(0, abs=1e-24)


def test_srrl_features_is_the_mean_square_difference():
    s, t = vectors(0), vectors(1)
    squares = [
        (a - b) ** 2 for a, b in zip(s.flatten().tolist(), t.flatten().tolist(), strict=True)
    ]
    assert losses.srrl_features(s, t).item() == pytest.approx(sum(squares) / 6, rel=1e-12)


@pytest.mark.parametrize(
    ("deviation", "mean"), [(1, 0), (0.5, 0.3), (2, -1), (0.7, 1.4), (0.4, -5), (1, 3.0), (-1, 0.5)]
)
def test_the_margin_is_the_mean_of_what_the_relu_takes_away(deviation, mean):
    # the midpoint rule over the density of N(mean, deviation^2) below zero
    lowest, steps = mean - 12 * abs(deviation), 200_000
    width = (0 - lowest) / steps
    points = [lowest + (k + 0.5) * width for k in range(steps)]
    weights = [math.exp(-(((x - mean) / deviation) ** 2) / 2) for x in points]
    expected = math.fsum(w * x for w, x in zip(weights, points, strict=True)) / math.fsum(weights)
    got = losses.ofd_margins(
        torch.tensor([float(deviation)], dtype=torch.float64),
        torch.tensor([float(mean)], dtype=torch.float64),
    )
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_the_margin_of_a_channel_that_is_hardly_ever_negative():
    got = losses.ofd_margins(
        torch.tensor([1.0, -2.0, 0.0, 0.0, 0.0]), torch.tensor([3.2, 10.0, 1.0, -1.0, 0.0])
    )
    # Phi(-3.2) < 0.001; a scale of zero counts as 1e-6, and then all of the channel is where its
    # mean is
    assert got.tolist() == pytest.approx(
        [-3.0, -6.0, -3e-6, -1.0, -1e-6 * math.sqrt(2 / math.pi)], rel=1e-5
    )
    assert (got < 0).all()


def test_ofd_is_the_square_distance_to_the_margin_relu_where_that_counts():
    s_maps, t_maps = (
        [feature_map(0), feature_map(1, 2, 2, 3)],
        [feature_map(2), feature_map(3, 2, 2, 3)],
    )
    margins, expected = [MARGINS, MARGINS[:2]], 0.0
    for s, t, m, weight in zip(s_maps, t_maps, margins, (0.5, 1), strict=True):
        total = 0.0
        for i, c, y, x in product(*map(range, s.shape)):
            ours, theirs = s[i, c, y, x].item(), t[i, c, y, x].item()
            target = max(theirs, m[c].item())
            if ours > target or theirs > 0:
                total += (ours - target) ** 2
        expected += weight * total / len(s)
    assert losses.ofd(s_maps, t_maps, margins).item() == pytest.approx(expected, rel=1e-9)


def test_a_student_below_the_margin_of_a_silent_teacher_costs_nothing():
    t = -feature_map(0).abs()
    assert losses.ofd([t.clamp_min(-0.1) - 5], [t], [MARGINS]) == 0
    assert losses.ofd([t + 5], [t], [MARGINS]) > 0


def test_hcl_weighs_a_map_and_its_pooled_copies():
    s, t = feature_map(0, 2, 8, 8), feature_map(1, 2, 8, 8)

    def mse(a, b):
        return (
            sum(
                (x - y) ** 2
                for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)
            )
            / a.numel()
        )

    four = halved(s), halved(t)
    two = halved(four[0]), halved(four[1])
    one = halved(two[0]), halved(two[1])
    expected = (mse(s, t) + mse(*four) / 2 + mse(*two) / 4 + mse(*one) / 8) / (
        1 + 1 / 2 + 1 / 4 + 1 / 8
    )
    assert losses.hcl([s], [t]).item() == pytest.approx(expected, rel=1e-9)
    # a map of 4x4 is not pooled to 4x4: the weights go to the sizes that are used
    small = (mse(*four) + mse(*two) / 2 + mse(*one) / 4) / (1 + 1 / 2 + 1 / 4)
    assert losses.hcl([four[0]], [four[1]]).item() == pytest.approx(small, rel=1e-9)
    assert losses.hcl([one[0]], [one[1]]).item() == pytest.approx(mse(*one), rel=1e-9)
    torch.testing.assert_close(
        losses.hcl([s, one[0]], [t, one[1]]), losses.hcl([s], [t]) + losses.hcl([one[0]], [one[1]])
    )


@pytest.mark.parametrize("name", ["ab", "ofd"])
def test_the_deepest_map_counts_once_and_each_before_it_half_as_much(name):
    s, t = feature_map(0), feature_map(1)
    one = ON_MAPS[name](s, t)
    three = (
        losses.ab([s] * 3, [t] * 3, margin=1)
        if name == "ab"
        else losses.ofd([s] * 3, [t] * 3, [MARGINS] * 3)
    )
    torch.testing.assert_close(three, 1.75 * one)


@pytest.mark.parametrize("loss", POOLING.values(), ids=POOLING)
def test_the_larger_map_is_pooled_to_the_smaller(loss):
    large, small = feature_map(0, 3, 8, 6), feature_map(1, 3, 4, 3)
    # compares no places of student and teacher: pools within a network, see above
    if loss is ON_MAPS["fsp"]:
        assert loss(large, small).isfinite()
        return
    torch.testing.assert_close(loss(large, small), loss(halved(large), small))
    torch.testing.assert_close(loss(small, large), loss(small, halved(large)))


# ---- identities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(ON_MAPS) - {"ab", "ofd", "fsp"}))
def test_equal_maps_are_at_no_distance(name):
    s = feature_map(0)
    assert ON_MAPS[name](s, s.clone()).item() == pytest.approx(0, abs=1e-14)
    assert ON_MAPS[name](s, feature_map(1)) > 1e-6


def test_equal_flows_are_at_no_distance_and_a_flow_has_no_sign():
    maps, others = [feature_map(0), feature_map(1)], [feature_map(2), feature_map(3)]
    assert losses.fsp(maps, maps) == 0
    torch.testing.assert_close(losses.fsp([-x for x in maps], others), losses.fsp(maps, others))


def test_maps_above_zero_are_at_no_distance_for_ofd():
    s = feature_map(0).abs()
    assert losses.ofd([s], [s.clone()], [MARGINS]) == 0


@pytest.mark.parametrize("name", ["ft code", "ft paper"])
def test_a_factors_scale_does_not_matter(name):
    s, t = feature_map(0), feature_map(1)
    scale = torch.tensor([1e-3, 40.0], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(ON_MAPS[name](s * scale, t), ON_MAPS[name](s, t), rtol=1e-9, atol=0)


# ---- gradients and numbers at the edge -----------------------------------------------------------


@every_map_loss
def test_gradients_are_those_of_the_value(loss):
    t = feature_map(1)
    assert torch.autograd.gradcheck(lambda s: loss(s, t), feature_map(0).requires_grad_())


def test_gradients_through_the_teachers_head_are_those_of_the_value():
    assert torch.autograd.gradcheck(
        lambda h: losses.srrl(h, ANSWERS, HEAD, BIAS), vectors(0).requires_grad_()
    )
    assert torch.autograd.gradcheck(
        lambda h: losses.srrl_features(h, vectors(1)), vectors(0).requires_grad_()
    )
    h, v, w, b = (
        vectors(0).requires_grad_(),
        ANSWERS.clone().requires_grad_(),
        HEAD.clone().requires_grad_(),
        BIAS.clone().requires_grad_(),
    )
    losses.srrl(h, v, w, b).backward()
    assert h.grad.norm() > 0
    assert v.grad is None
    assert w.grad is None
    assert b.grad is None


@every_map_loss
def test_no_gradient_reaches_the_teacher(loss):
    s, t = feature_map(0).requires_grad_(), feature_map(1).requires_grad_()
    loss(s, t).backward()
    assert s.grad.norm() > 0
    assert t.grad is None


@every_map_loss
def test_maps_and_channels_of_zeros_have_small_gradients(loss):
    s, t = feature_map(0).float(), feature_map(1).float()
    dead, dark = s.clone(), s.clone()
    dead[:, 1] = 0
    dark[0] = 0
    for x in (torch.zeros_like(s), dead, dark):
        x.requires_grad_()
        value = loss(x, t)
        value.backward()
        assert value.isfinite()
        assert x.grad.abs().max() < 10
    assert loss(s, torch.zeros_like(t)).isfinite()


@every_map_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    s, t = (30 * feature_map(0)).to(dtype), (30 * feature_map(1)).to(dtype)
    if loss is ON_MAPS["ofd"]:
        loss = lambda s, t: losses.ofd([s], [t], [MARGINS.float()])
    if loss is ON_MAPS["fsp"]:
        loss = lambda s, t: losses.fsp([s, s], [t, t])
    assert loss(s, t).dtype == torch.float32
    assert torch.equal(loss(s, t), loss(s.float(), t.float()))


@every_map_loss
def test_autocast_changes_nothing(loss):
    s, t = feature_map(0).float(), feature_map(1).float()
    expected = loss(s, t)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(s, t), expected)


def test_autocast_changes_nothing_about_the_teachers_head():
    h, rest = vectors(0).float(), (ANSWERS.float(), HEAD.float(), BIAS.float())
    expected = losses.srrl(h, *rest)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses.srrl(h, *rest), expected)


@every_map_loss
def test_one_image_is_enough(loss):
    assert loss(feature_map(0, images=1), feature_map(1, images=1)).isfinite()


# ---- arguments that make no sense ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["fsp", "ab", "ft paper", "ofd"])
def test_channels_must_agree_where_they_are_compared(name):
    s, t = feature_map(0), feature_map(1, 2)
    with pytest.raises(
        Incompatible,
        match=rf"losses\.{name.split()[0]} compares channel by channel, got 3 and 2 channels",
    ):
        ON_MAPS[name](s, t)


def test_hcl_wants_one_shape():
    with pytest.raises(
        Incompatible,
        match=r"losses\.hcl compares maps of one shape, got \[2, 3, 4, 6\] and \[2, 2, 4, 6\]",
    ):
        losses.hcl([feature_map(0)], [feature_map(1, 2)])


def test_a_flow_needs_two_maps():
    with pytest.raises(
        Incompatible,
        match=r"losses\.fsp compares the flow between neighbouring maps and needs at least two",
    ):
        losses.fsp([feature_map(0)], [feature_map(1)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses.ab([feature_map(0)], [feature_map(1)], margin=0),
            r"losses\.ab: margin must be a number above 0, got 0",
        ),
        (
            lambda: losses.ft(feature_map(0), feature_map(1), p=3),
            r"losses\.ft: p must be 1 or 2, got 3",
        ),
        (
            lambda: losses.ft(feature_map(0), feature_map(1), form="other"),
            r"losses\.ft: form must be .code. or .paper., got 'other'",
        ),
    ],
)
def test_numbers_and_forms_that_there_are_not(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_ofd_needs_a_margin_for_each_channel():
    for margins in ([], [MARGINS[:2]], [MARGINS, MARGINS]):
        with pytest.raises(
            Incompatible, match=r"losses\.ofd needs a margin for each channel of each teacher map"
        ):
            losses.ofd([feature_map(0)], [feature_map(1)], margins)


def test_srrl_names_shapes_that_do_not_fit():
    with pytest.raises(
        Incompatible, match=r"losses\.srrl needs vectors .*, got \[2, 4\], \[2, 5\] and \[5, 3\]"
    ):
        losses.srrl(vectors(0, 4), ANSWERS, HEAD, BIAS)
    with pytest.raises(Incompatible, match=r"losses\.srrl needs"):
        losses.srrl(vectors(0), ANSWERS[:1], HEAD, BIAS)
    with pytest.raises(
        Incompatible, match=r"losses\.srrl_features compares vectors of one length, got 3 and 4"
    ):
        losses.srrl_features(vectors(0), vectors(1, 4))


@pytest.mark.gpu
@every_map_loss
def test_no_loss_waits_for_the_device(loss):
    s, t = feature_map(0).float().cuda().requires_grad_(), feature_map(1).float().cuda()
    margins = MARGINS.float().cuda()
    run = (
        (lambda: losses.ofd([s], [t], [margins]))
        if loss is ON_MAPS["ofd"]
        else (lambda: loss(s, t))
    )
    run().backward()  # the first call sets libraries up
    torch.cuda.set_sync_debug_mode("error")
    try:
        run().backward()
        losses.ofd_margins(margins, margins)
    finally:
        torch.cuda.set_sync_debug_mode("default")
