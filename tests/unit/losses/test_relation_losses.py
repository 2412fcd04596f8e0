"""The losses on relations against plain loops, and the identities that they must keep."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from kdcli import losses
from kdcli.errors import Incompatible, UsageError


def features(seed, rows=5, width=4):
    return torch.randn(
        rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


# student first, teacher second, any widths
RELATIONS = {
    "sp": losses.sp,
    "rkd_distance": losses.rkd_distance,
    "rkd_angle": losses.rkd_angle,
    "rkd": lambda s, t: losses.rkd(s, t, distance=25, angle=50),
    "pkt": losses.pkt,
    "cc paper": lambda s, t: losses.cc(s, t, form="paper"),
}
EVERY = RELATIONS | {"cc": losses.cc}
every_relation = pytest.mark.parametrize("loss", RELATIONS.values(), ids=RELATIONS)
every_loss = pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / math.hypot(*a) / math.hypot(*b)


def smooth_l1(x, y):
    difference = abs(x - y)
    return difference**2 / 2 if difference < 1 else difference - 0.5


# ---- values --------------------------------------------------------------------------------------


def test_sp_compares_rows_of_products():
    def gram(rows):
        products = [[dot(a, b) for b in rows] for a in rows]
        return [[value / math.hypot(*row) for value in row] for row in products]

    s, t = gram(features(0).tolist()), gram(features(1, width=7).tolist())
    expected = sum((s[i][j] - t[i][j]) ** 2 for i, j in product(range(5), range(5))) / 25
    assert losses.sp(features(0), features(1, width=7)).item() == pytest.approx(expected, rel=1e-9)


def test_sp_takes_maps_of_any_shape():
    maps = features(0, width=24)
    assert torch.equal(losses.sp(maps.view(5, 2, 3, 4), features(1)), losses.sp(maps, features(1)))


def test_cc_multiplies_the_differences_of_neighbours():
    s, t = features(0).tolist(), features(1).tolist()
    delta = [[abs(x - y) for x, y in zip(a, b, strict=True)] for a, b in zip(s, t, strict=True)]
    expected = sum(dot(delta[i], delta[i + 1]) for i in range(4)) / 4
    assert losses.cc(features(0), features(1)).item() == pytest.approx(expected, rel=1e-12)


def test_cc_as_printed_compares_expanded_kernels():
    def kernel(a, b):
        c = cosine(a, b)
        return math.exp(-0.8) * (1 + 0.8 * c + 0.8**2 / 2 * c**2)

    s, t = features(0).tolist(), features(1, width=7).tolist()
    expected = (
        sum((kernel(s[i], s[j]) - kernel(t[i], t[j])) ** 2 for i, j in product(range(5), range(5)))
        / 25
    )
    assert losses.cc(features(0), features(1, width=7), form="paper").item() == pytest.approx(
        expected, rel=1e-9
    )


def test_the_kernel_of_cc_becomes_gaussian():
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (features(0), features(1))]
    gaussian = [torch.exp(-0.7 * torch.cdist(x, x).square()) for x in unit]
    expected = (gaussian[0] - gaussian[1]).square().mean()
    torch.testing.assert_close(
        losses.cc(features(0), features(1), form="paper", gamma=0.7, order=20), expected
    )


def distances(rows):
    every = [[math.dist(a, b) for b in rows] for a in rows]
    positive = [value for row in every for value in row if value > 0]
    return [[value * len(positive) / sum(positive) for value in row] for row in every]


def test_rkd_compares_distances_over_their_mean():
    s, t = distances(features(0).tolist()), distances((9 * features(1, width=7)).tolist())
    expected = sum(smooth_l1(s[i][j], t[i][j]) for i, j in product(range(5), range(5))) / 25
    assert losses.rkd_distance(features(0), 9 * features(1, width=7)).item() == pytest.approx(
        expected, rel=1e-9
    )


def test_rkd_compares_the_angles_of_triangles():
    def angle(rows, i, j, k):
        if i in {j, k}:
            return 0.0
        return cosine(
            *([x - y for x, y in zip(rows[corner], rows[i], strict=True)] for corner in (j, k))
        )

    s, t = features(0).tolist(), features(1, width=7).tolist()
    triples = list(product(range(5), repeat=3))
    expected = sum(smooth_l1(angle(s, *triple), angle(t, *triple)) for triple in triples) / 125
    assert losses.rkd_angle(features(0), features(1, width=7)).item() == pytest.approx(
        expected, rel=1e-9
    )


def test_rkd_weighs_distances_and_angles():
    s, t = features(0), features(1)
    together = 3 * losses.rkd_distance(s, t) + 7 * losses.rkd_angle(s, t)
    torch.testing.assert_close(losses.rkd(s, t, distance=3, angle=7), together)
    torch.testing.assert_close(losses.rkd(s, t, distance=3, angle=0), 3 * losses.rkd_distance(s, t))
    torch.testing.assert_close(losses.rkd(s, t, distance=0, angle=7), 7 * losses.rkd_angle(s, t))


def test_pkt_compares_the_chances_of_neighbours():
    def chances(rows):
        shares = [
            [(dot(a, b) / (math.hypot(*a) + 1e-7) / (math.hypot(*b) + 1e-7) + 1) / 2 for b in rows]
            for a in rows
        ]
        return [[share / sum(row) for share in row] for row in shares]

    p, q = chances(features(0).tolist()), chances(features(1, width=7).tolist())
    terms = [
        q[i][j] * math.log((q[i][j] + 1e-7) / (p[i][j] + 1e-7))
        for i, j in product(range(5), range(5))
    ]
    assert losses.pkt(features(0), features(1, width=7)).item() == pytest.approx(
        sum(terms) / 25, rel=1e-9
    )


# ---- identities ----------------------------------------------------------------------------------


@every_loss
def test_equal_features_are_at_no_distance(loss):
    s = features(0)
    assert abs(loss(s, s.clone()).item()) < 1e-14
    assert loss(s, features(1)) > 1e-5


@every_relation
def test_a_rotation_or_reflection_changes_nothing(loss):
    s, t = features(0), features(1, width=7)
    turn, other = (
        torch.linalg.qr(
            torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(d))
        )[0]
        for d in (4, 7)
    )
    torch.testing.assert_close(loss(s @ turn, t @ other), loss(s, t), rtol=1e-9, atol=0)


@every_relation
def test_more_dimensions_of_zeros_change_nothing(loss):
    s, t = features(0), features(1)
    torch.testing.assert_close(
        loss(torch.nn.functional.pad(s, (0, 3)), t), loss(s, t), rtol=1e-9, atol=0
    )


@every_relation
@pytest.mark.parametrize("scale", [0.01, 300.0])
def test_the_scale_of_the_features_does_not_matter(loss, scale):
    s, t = features(0), features(1)
    # its eps of 1e-7 beside norms of 0.01
    tolerance = 1e-3 if loss is losses.pkt and scale < 1 else 1e-5
    torch.testing.assert_close(loss(scale * s, t), loss(s, t), rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "rkd"])
def test_a_shift_changes_no_distance_and_no_angle(name):
    s, t = features(0), features(1)
    torch.testing.assert_close(
        RELATIONS[name](s + features(2, rows=1), t), RELATIONS[name](s, t), rtol=1e-9, atol=0
    )


@every_relation
def test_the_order_of_the_samples_does_not_matter(loss):
    s, t, order = features(0), features(1), torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(loss(s[order], t[order]), loss(s, t), rtol=1e-9, atol=0)


def test_the_order_of_the_samples_matters_to_the_code_of_cc():
    s, t, order = features(0), features(1), torch.tensor([3, 0, 4, 2, 1])
    assert not torch.isclose(losses.cc(s[order], t[order]), losses.cc(s, t), rtol=0.01)


# ---- gradients and numbers at the edge -----------------------------------------------------------


@every_loss
def test_gradients_are_those_of_the_value(loss):
    t = features(1)
    assert torch.autograd.gradcheck(lambda s: loss(s, t), features(0).requires_grad_())


@every_loss
def test_no_gradient_reaches_the_teacher_unless_its_embedding_is_trained(loss):
    s, t = features(0).requires_grad_(), features(1).requires_grad_()
    loss(s, t).backward()
    assert s.grad.norm() > 0
    assert (t.grad is None) == (loss not in {EVERY["cc"], EVERY["cc paper"]})


@pytest.mark.parametrize("form", ["code", "paper"], ids=["as coded", "as printed"])
def test_both_embeddings_of_cc_are_trained(form):
    pair = features(0).requires_grad_(), features(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: losses.cc(s, t, form=form), pair)


@every_loss
@pytest.mark.parametrize(
    "spoil",
    [
        torch.zeros_like,
        torch.ones_like,
        lambda x: x.index_fill(0, torch.tensor([1]), 0.0),
        lambda x: x[torch.tensor([0, 0, 2, 3, 3])],
    ],
    ids=["zeros", "all equal", "one zero row", "twins"],
)
def test_samples_without_relations_have_small_gradients(loss, spoil):
    s, t = spoil(features(0).float()).requires_grad_(), features(1).float()
    value = loss(s, t)
    value.backward()
    assert value.isfinite()
    assert s.grad.abs().max() < 100
    assert loss(t, spoil(t)).isfinite()


@every_loss
def test_two_samples_are_enough(loss):
    s = features(0, rows=2).requires_grad_()
    value = loss(s, features(1, rows=2))
    value.backward()
    assert value.isfinite()
    assert s.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    s, t = (100 * features(0)).to(dtype), (100 * features(1)).to(dtype)
    assert loss(s, t).dtype == torch.float32
    assert torch.equal(loss(s, t), loss(s.float(), t.float()))


@every_loss
def test_autocast_changes_nothing(loss):
    s, t = features(0).float(), features(1).float()
    expected = loss(s, t)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(s, t), expected)


@every_loss
@pytest.mark.parametrize("shift", [0, 100])
def test_float32_is_near_float64(loss, shift):
    s, t = (shift + features(0, rows=8, width=16)).float(), features(1, rows=8, width=16).float()
    assert loss(s, t).dtype == torch.float32
    assert loss(s.double(), t.double()).dtype == torch.float64
    assert loss(s, t).item() == pytest.approx(loss(s.double(), t.double()).item(), rel=1e-4)


# ---- arguments that make no sense ----------------------------------------------------------------


@every_loss
def test_a_batch_of_one_is_refused(loss):
    with pytest.raises(
        Incompatible,
        match=r"losses\.\w+ compares images with each other and needs at least 2, got 1",
    ):
        loss(features(0, rows=1), features(1, rows=1))


@every_loss
def test_both_sides_must_be_of_the_same_images(loss):
    with pytest.raises(
        Incompatible,
        match=(
            r"needs student and teacher features \[B, D\] of the same images, got \[5, 4\] and "
            r"\[3, 4\]"
        ),
    ):
        loss(features(0), features(1, rows=3))


def test_the_code_of_cc_needs_embeddings_of_one_width():
    with pytest.raises(
        Incompatible,
        match=r"losses\.cc needs embeddings of one shape \[N, D\], got \[5, 4\] and \[5, 7\]",
    ):
        losses.cc(features(0), features(1, width=7))


def test_unknown_words_and_ranges_are_refused():
    s, t = features(0), features(1)
    with pytest.raises(UsageError, match='form must be "code" or "paper"'):
        losses.cc(s, t, form="rbf")
    with pytest.raises(UsageError, match=r"losses\.cc: gamma must be a number above 0"):
        losses.cc(s, t, form="paper", gamma=0)
    with pytest.raises(UsageError, match=r"losses\.cc: order must be at least 1"):
        losses.cc(s, t, form="paper", order=0)
    for weights in ({"distance": -1, "angle": 2}, {"distance": 0, "angle": 0}):
        with pytest.raises(
            UsageError, match=r"losses\.rkd: distance and angle must be at least 0 and not both 0"
        ):
            losses.rkd(s, t, **weights)


@pytest.mark.gpu
@every_loss
def test_no_loss_waits_for_the_device(loss):
    s, t = features(0).float().cuda().requires_grad_(), features(1).float().cuda()
    loss(s, t).backward()  # the first call sets libraries up
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(s, t).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
