"""Losses of the methods on features against plain loops in float64, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdcli import losses
from kdcli.core.types import Batch, Output, Progress, Tap
from kdcli.errors import Incompatible
from kdcli.modules.diffusion import Denoiser
from kdcli.modules.layer_attention import ChannelAttention, SemanticAttention
from kdcli.modules.reused_head import Projector
from tests.unit.methods.test_feature_methods import make as make_method

AT = Progress("distill", epoch=1, epochs=2, step=0, steps=4)


def noise(seed: int, *shape: int) -> Tensor:
    """Normal float64 numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: float) -> None:
    torch.testing.assert_close(found.item(), float(expected), rtol=1e-6, atol=1e-9)


def checked(loss, *students: Tensor) -> None:
    """The gradient of a loss with respect to what comes from the student is right."""
    assert torch.autograd.gradcheck(loss, [s.clone().requires_grad_() for s in students])


# ---- simkd ---------------------------------------------------------------------------------------


def test_simkd_projects_by_three_convolutions_as_written_out():
    projector = Projector(Tap(2, 1), Tap(4, 2), inner=3).double().eval()
    for module in projector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(noise(7, module.num_features))
            module.running_var.copy_(noise(8, module.num_features).square() + 0.5)
    x = noise(0, 2, 2, 6, 4)
    # stride 1 against 2: the student's map is averaged over squares of 2x2 first
    small = x.reshape(2, 2, 3, 2, 2, 2).mean((3, 5))
    for conv, norm in ((0, 1), (3, 4), (6, 7)):
        w = projector.layers[conv].weight
        k, pad = w.shape[-1], w.shape[-1] // 2
        wide = torch.zeros(2, w.shape[1], 3 + 2 * pad, 2 + 2 * pad, dtype=torch.float64)
        wide[:, :, pad : pad + 3, pad : pad + 2] = small
        small = torch.stack(
            [
                torch.stack(
                    [
                        torch.einsum("bcij,ocij->bo", wide[:, :, i : i + k, j : j + k], w)
                        for j in range(2)
                    ],
                    -1,
                )
                for i in range(3)
            ],
            -2,
        )
        n = projector.layers[norm]
        mean, var = n.running_mean.view(1, -1, 1, 1), n.running_var.view(1, -1, 1, 1)
        small = ((small - mean) / (var + n.eps).sqrt()).clamp(min=0)
    torch.testing.assert_close(projector(x), small, rtol=1e-6, atol=1e-9)
    checked(projector, x[:1, :, :4])


# ---- srd -----------------------------------------------------------------------------------------


def test_srd_is_the_logarithm_of_the_sum_of_fourth_powers():
    s, t = noise(0, 3, 4), noise(1, 3, 4)
    total = sum(abs(s[b, d].item() - t[b, d].item()) ** 4 for b in range(3) for d in range(4))
    close(losses.srd(s, t), math.log(total))
    close(losses.srd(s, t, exponent=2), math.log((s - t).square().sum().item()))
    checked(lambda x: losses.srd(x, t), s)
    assert losses.srd(t, t).isfinite()  # the logarithm of 0 is not


def test_srd_normalises_both_sides_over_the_batch():
    method = make_method("srd", weight=3.0, kd_weight=0.0)
    h_s, h_t = noise(2, 5, 16).float(), noise(3, 5, 32).float()
    found = method.terms(
        Output(h_s[:, :5], {"pooled": h_s}), Output(h_t[:, :5], {"pooled": h_t}), None, AT
    )["srd"]
    projected = h_s.double() @ method.projector.weight.double().T + method.projector.bias.double()
    s, t = (
        (x - x.mean(0)) / (x.var(0, correction=0) + 1e-4).sqrt() for x in (projected, h_t.double())
    )
    torch.testing.assert_close(found.double(), 3 * (s - t).pow(4).sum().log(), rtol=1e-5, atol=1e-6)


# ---- ickd ----------------------------------------------------------------------------------------


def correlation(x: Tensor) -> list[list[float]]:
    """The rows of one picture's channel products, each divided by its norm, by loops."""
    flat = x.flatten(1).tolist()
    rows = [[sum(a * b for a, b in zip(u, v, strict=True)) for v in flat] for u in flat]
    return [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in rows]


def test_ickd_compares_how_channels_go_together():
    s, t = noise(0, 2, 3, 4, 2), noise(1, 2, 3, 2, 2)
    total = sum(
        (a - b) ** 2
        for i in range(2)
        for ours, theirs in zip(correlation(s[i]), correlation(t[i]), strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )
    close(losses.ickd(s, t), total / (2 * 3))
    checked(lambda x: losses.ickd(x, t), s)
    close(losses.ickd(t * 5, t), 0)  # rows lose their length
    with pytest.raises(Incompatible, match=r"losses\.ickd compares channel by channel"):
        losses.ickd(s[:, :2], t)


# ---- semckd --------------------------------------------------------------------------------------


def test_semckd_weighs_each_pair_of_layers():
    t_maps = [noise(0, 2, 3, 4, 4), noise(1, 2, 2, 2, 2)]
    s_maps = [
        [noise(10 * i + j, 2, t.shape[1], 4, 4) for j, t in enumerate(t_maps)] for i in (1, 2)
    ]
    weights = noise(5, 2, 2, 2).softmax(2)
    total = 0.0
    for b in range(2):
        for i in range(2):
            for j, t in enumerate(t_maps):
                s, target = s_maps[i][j][b], t[b]
                if j == 1:  # 4x4 against 2x2: means of squares of 2x2
                    s = torch.stack(
                        [s[:, y : y + 2, x : x + 2].mean((1, 2)) for y in (0, 2) for x in (0, 2)],
                        1,
                    ).view_as(target)
                errors = [
                    (p - q) ** 2
                    for p, q in zip(s.flatten().tolist(), target.flatten().tolist(), strict=True)
                ]
                total += weights[b, i, j].item() * sum(errors) / len(errors)
    close(losses.semckd(s_maps, t_maps, weights), total / (2 * 2))
    checked(
        lambda x, w: losses.semckd([[x, s_maps[0][1]], s_maps[1]], t_maps, w.softmax(2)),
        s_maps[0][0],
        noise(6, 2, 2, 2),
    )


def test_semckd_attends_by_how_pictures_resemble_each_other():
    attention = SemanticAttention(1, 2, width=4).double()
    s_maps, t_maps = [noise(0, 3, 2, 2, 2)], [noise(1, 3, 2, 2, 2), noise(2, 3, 1, 1, 1)]

    def vector(layer, x, b):
        row = [x[b].flatten().dot(x[other].flatten()).item() for other in range(3)] + [0.0]
        first, _, second = layer
        hidden = (first.weight @ torch.tensor(row, dtype=torch.float64) + first.bias).clamp(min=0)
        out = second.weight @ hidden + second.bias
        return out / out.norm()

    for b in range(3):
        scores = [
            vector(attention.queries[0], s_maps[0], b).dot(vector(key, t, b)).exp().item()
            for key, t in zip(attention.keys, t_maps, strict=True)
        ]
        found = attention(s_maps, t_maps)[b, 0].tolist()
        assert found == pytest.approx([score / sum(scores) for score in scores], rel=1e-6)


# ---- cat_kd --------------------------------------------------------------------------------------


def test_class_activation_maps_average_to_the_logits():
    x, head = noise(0, 2, 3, 2, 4), nn.Linear(3, 5, bias=False).double()
    maps = losses.class_activation(x, head.weight)
    torch.testing.assert_close(maps.mean((2, 3)), head(x.mean((2, 3))))
    checked(losses.class_activation, x, noise(1, 5, 3))


def test_cat_kd_compares_pooled_class_activation_maps():
    s, t = noise(0, 2, 3, 4, 4), noise(1, 2, 3, 2, 2)
    pooled = torch.stack(
        [s[:, :, y : y + 2, x : x + 2].mean((2, 3)) for y in (0, 2) for x in (0, 2)], 2
    )
    theirs = t.flatten(2)
    close(losses.cat_kd(s, t), (pooled - theirs).square().mean())
    ours = pooled / pooled.square().sum(2, keepdim=True).sqrt()
    theirs = theirs / theirs.square().sum(2, keepdim=True).sqrt()
    close(losses.cat_kd(s, t, normalise=True), (ours - theirs).square().mean())
    close(losses.cat_kd(s, t, resolution=1), (s.mean((2, 3)) - t.mean((2, 3))).square().mean())
    for options in ({}, {"normalise": True}, {"resolution": 3}):
        checked(lambda x, options=options: losses.cat_kd(x, t, **options), s)


# ---- mgd -----------------------------------------------------------------------------------------


def test_mgd_is_a_sum_over_the_map_and_a_mean_over_pictures():
    s, t = noise(0, 2, 3, 2, 2), noise(1, 2, 3, 2, 2)
    errors = [(a - b) ** 2 for a, b in zip(s.flatten().tolist(), t.flatten().tolist(), strict=True)]
    close(losses.mgd(s, t), sum(errors) / 2)
    checked(lambda x: losses.mgd(x, t), s)


def test_mgd_masks_channels_by_sample_and_step():
    method = make_method("mgd", masked=0.5).eval()
    seen = []
    method.generator.forward = lambda x: seen.append(x) or x
    s = torch.ones(64, 16, 2, 2)
    t = torch.zeros(64, 32, 2, 2)
    method.align = nn.Identity()
    s = s.repeat(1, 2, 1, 1)
    index = torch.arange(64)

    def kept(index, step):
        batch = Batch(s, index, index, torch.zeros_like(index))
        at = Progress("distill", epoch=1, epochs=2, step=step, steps=4)
        method.terms(
            Output(s, {"stage3": s[: len(index)]}),
            Output(t, {"stage3": t[: len(index)]}),
            batch,
            at,
        )
        return seen.pop()

    first = kept(index, 0)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert first.mean().item() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(first, first[:, :, :1, :1].expand_as(first))  # whole channels
    assert torch.equal(kept(index, 0), first)
    assert torch.equal(kept(index.flip(0), 0), first.flip(0))
    assert torch.equal(kept(index[:5], 0), first[:5])
    assert not torch.equal(kept(index, 1), first)


# ---- cwd -----------------------------------------------------------------------------------------


def test_cwd_is_a_divergence_over_the_positions_of_each_channel():
    s, t, tau = noise(0, 2, 3, 2, 2), noise(1, 2, 3, 2, 2), 4.0
    total = 0.0
    for b in range(2):
        for c in range(3):
            p, q = ([math.exp(v / tau) for v in x[b, c].flatten().tolist()] for x in (s, t))
            p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
            total += sum(y * math.log(y / x) for x, y in zip(p, q, strict=True))
    close(losses.cwd(s, t, temperature=tau), tau**2 * total / 6)
    close(losses.cwd(t + 3, t, temperature=tau), 0)  # how strongly does not count
    checked(lambda x: losses.cwd(x, t, temperature=tau), s)


# ---- afd -----------------------------------------------------------------------------------------


def test_afd_weighs_where_the_energy_of_each_layer_lies():
    s_maps = [noise(0, 2, 3, 4, 4), noise(1, 2, 2, 2, 2)]
    t_maps = [noise(2, 2, 4, 2, 2)]
    weights = noise(3, 2, 1, 2).softmax(2)

    def direction(values):
        return [v / math.sqrt(sum(x * x for x in values)) for v in values]

    total = 0.0
    for b in range(2):
        theirs = direction(t_maps[0][b].square().mean(0).flatten().tolist())
        for layer, s in enumerate(s_maps):
            energy = s[b].square().mean(0)
            if layer == 0:
                energy = torch.stack(
                    [energy[y : y + 2, x : x + 2].mean() for y in (0, 2) for x in (0, 2)]
                )
            ours = direction(energy.flatten().tolist())
            error = sum((x - y) ** 2 for x, y in zip(ours, theirs, strict=True)) / 4
            total += weights[b, 0, layer].item() * error
    close(losses.afd(s_maps, t_maps, weights), total / 2)
    checked(
        lambda x, w: losses.afd([x, s_maps[1]], t_maps, w.softmax(2)),
        s_maps[0],
        noise(4, 2, 1, 2),
    )


def test_afd_attends_by_channels_and_places():
    attention = ChannelAttention([3, 2], [4], width=5).double().eval()
    s_maps, t_maps = [noise(0, 2, 3, 2, 2), noise(1, 2, 2, 1, 1)], [noise(2, 2, 4, 2, 2)]

    def through(layer, x):
        linear, norm = layer
        # fresh running statistics: mean 0, variance 1
        return (linear.weight @ x + linear.bias) / math.sqrt(1 + norm.eps)

    for b in range(2):
        query = through(attention.queries[0], t_maps[0][b].mean((1, 2)))
        scores = []
        for s, x in enumerate(s_maps):
            key = through(attention.keys[s], x[b].mean((1, 2))).clamp(min=0)
            score = through(attention.bilinear, key).dot(query)
            score = score + attention.teacher_places[0].dot(attention.student_places[s])
            scores.append(math.exp(score.item() / math.sqrt(5)))
        found = attention(s_maps, t_maps)[b, 0].tolist()
        assert found == pytest.approx([score / sum(scores) for score in scores], rel=1e-6)


# ---- kdsvd ---------------------------------------------------------------------------------------


def main_direction(x: Tensor, like: Tensor | None, among: int) -> Tensor:
    """The vector of one picture's map that KD-SVD takes, from eigenvectors by numpy."""
    flat = x.flatten(1).numpy()
    _, found = np.linalg.eigh(flat @ flat.T)
    found = torch.from_numpy(found[:, ::-1].copy())[:, :among]
    if like is None:
        return found[:, 0] * found[:, 0].sum().sign()
    cosines = [found[:, i].dot(like).item() for i in range(found.shape[1])]
    best = max(range(len(cosines)), key=lambda i: abs(cosines[i]))
    return found[:, best] * math.copysign(1, cosines[best])


def test_kdsvd_compares_how_main_directions_lie_to_each_other():
    s_maps = [noise(0, 2, 3, 4, 4), noise(1, 2, 5, 3, 3)]
    t_maps = [noise(2, 2, 3, 2, 2), noise(3, 2, 5, 3, 3)]
    total = 0.0
    for b in range(2):
        t_first, t_second = (main_direction(t[b], None, 1) for t in t_maps)
        s_first = main_direction(s_maps[0][b], t_first, 4)
        s_second = main_direction(s_maps[1][b], t_second, 4)
        for c in range(5):
            for d in range(3):
                ours = math.exp(-((s_second[c] - s_first[d]).item() ** 2) / 8)
                theirs = math.exp(-((t_second[c] - t_first[d]).item() ** 2) / 8)
                total += (ours - theirs) ** 2
    close(losses.kdsvd(s_maps, t_maps), total / 2)
    close(losses.kdsvd(t_maps, t_maps), 0)
    checked(lambda x, y: losses.kdsvd([x, y], t_maps), *s_maps)
    checked(lambda x, y: losses.kdsvd([x, y], t_maps, vectors=2), *s_maps)


def test_kdsvd_has_a_gradient_where_singular_values_are_equal_or_0():
    s = torch.zeros(1, 3, 2, 2, dtype=torch.float64).requires_grad_()
    equal = torch.eye(3, 4, dtype=torch.float64).view(1, 3, 2, 2).requires_grad_()
    losses.kdsvd([s, equal], [noise(0, 1, 3, 2, 2), noise(1, 1, 3, 2, 2)]).backward()
    assert s.grad.isfinite().all()
    assert equal.grad.isfinite().all()


# ---- diffkd --------------------------------------------------------------------------------------


def test_diffkd_adds_noise_and_takes_it_back_by_the_equations():
    denoiser = Denoiser(4, steps=5).double().eval()
    nn.init.normal_(denoiser.net[2].weight, std=0.5, generator=torch.Generator().manual_seed(0))
    x, eps = noise(0, 2, 4, 2, 2), noise(1, 2, 4, 2, 2)
    shares, left = [], 1.0
    for step in range(1000):
        left *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        shares.append(left)
    assert denoiser.shares.tolist() == pytest.approx(shares, rel=1e-5)
    shares = denoiser.shares.tolist()

    def found(y, time):
        return denoiser.net(y + denoiser.times.weight[time].view(1, -1, 1, 1))

    times = torch.tensor([3, 700])
    noisy = torch.stack(
        [
            math.sqrt(shares[t]) * x[b] + math.sqrt(1 - shares[t]) * eps[b]
            for b, t in enumerate(times.tolist())
        ]
    )
    errors = [(found(noisy[b : b + 1], t) - eps[b]).square() for b, t in enumerate(times.tolist())]
    expected = torch.cat(errors).mean().item()
    assert denoiser.training_loss(x, eps, times).item() == pytest.approx(expected, rel=1e-6)
    kept = denoiser.choice(denoiser.worth(x)).softmax(1)[:, :1, None, None]
    y = kept * x + (1 - kept) * eps
    for t in (400, 300, 200, 100, 0):
        before = shares[t - 100] if t else 1.0
        e = found(y, t)
        clean = (y - math.sqrt(1 - shares[t]) * e) / math.sqrt(shares[t])
        y = math.sqrt(before) * clean + math.sqrt(1 - before) * e
    torch.testing.assert_close(denoiser.denoised(x, eps), y, rtol=1e-6, atol=1e-9)
    checked(lambda z: denoiser.denoised(z, eps[:1]), x[:1])
    checked(lambda z: denoiser.training_loss(z, eps[:1], times[:1]), x[:1])


def test_diffkd_draws_noise_by_sample_and_step():
    method = make_method("diffkd")
    index = torch.arange(8)
    like = torch.zeros(8, 4, 2, 2)

    def drawn(index, step=0, purpose="diffkd student"):
        batch = Batch(like, index, index, torch.zeros_like(index))
        at = Progress("distill", epoch=1, epochs=2, step=step, steps=4)
        return method._noise(batch, at, purpose, like[: len(index)])

    first = drawn(index)
    assert torch.equal(drawn(index), first)
    assert torch.equal(drawn(index.flip(0)), first.flip(0))
    assert torch.equal(drawn(index[:3]), first[:3])
    assert not torch.equal(drawn(index, 1), first)
    assert not torch.equal(drawn(index, 0, "diffkd teacher"), first)
