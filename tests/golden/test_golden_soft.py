"""The methods that change what plain distillation asks of the student, in float64 against loops
over numpy that know nothing of torch; their gradients; and what they refuse.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.autograd import gradcheck

from kdcli import losses
from kdcli.errors import Incompatible, UsageError

N, K = 5, 4
Y = [3, 0, 2, 0, 1]


def rows(seed):
    return np.random.default_rng(seed).normal(scale=2, size=(N, K))


Z, V = rows(0), rows(1)


def soft(x, tau=1.0):
    powers = np.exp(np.asarray(x) / tau)
    return powers / powers.sum()


def kl(q, p):
    return sum(b * np.log(b / a) for a, b in zip(p, q, strict=True))


def ce(z, y):
    return -np.log(soft(z)[y])


def mean(values):
    return sum(values) / len(values)


CE = mean([ce(z, y) for z, y in zip(Z, Y, strict=True)])


def close(**expected):
    return pytest.approx(expected, rel=1e-9)


def pairs(tau):
    """Softmaxes of student and teacher, row by row."""
    return [(soft(z, tau), soft(v, tau)) for z, v in zip(Z, V, strict=True)]


# ---- kd by another divergence --------------------------------------------------------------------

DIVERGENCES = {
    "forward": lambda p, q: kl(q, p),
    "reverse": kl,
    "symmetric": lambda p, q: (kl(q, p) + kl(p, q)) / 2,
    "js": lambda p, q: (kl(q, (p + q) / 2) + kl(p, (p + q) / 2)) / 2,
}


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_kd_by_each_divergence(terms, divergence, tau):
    expected = tau**2 * mean([DIVERGENCES[divergence](p, q) for p, q in pairs(tau)])
    got = terms("kd", Z, V, Y, temperature=tau, weight=0.7, divergence=divergence)
    assert got == close(ce=0.3 * CE, kd=0.7 * expected)


def test_js_is_bounded_and_the_others_have_one_curvature():
    far = torch.tensor([[50.0, 0.0]], dtype=torch.float64)
    assert losses.kd(far, far.flip(1), temperature=1, divergence="js").item() == pytest.approx(
        np.log(2)
    )
    z = torch.from_numpy(Z)
    near = z + 1e-4 * torch.from_numpy(V)
    found = {d: losses.kd(near, z, temperature=2, divergence=d).item() for d in DIVERGENCES}
    assert found["reverse"] == pytest.approx(found["forward"], rel=1e-3)
    assert found["symmetric"] == pytest.approx(found["forward"], rel=1e-3)
    assert found["js"] == pytest.approx(found["forward"] / 4, rel=1e-3)


def test_an_unknown_divergence_is_refused(given):
    with pytest.raises(UsageError, match='"reverse", "symmetric" or "js", got \'backward\''):
        losses.kd(torch.zeros(1, 2), torch.zeros(1, 2), temperature=1, divergence="backward")
    with pytest.raises(ValidationError):
        given("kd", Z, V, divergence="backward")


# ---- hard, ttm, wttm, wsld -----------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_hard(terms, smoothing):
    targets = [np.full(K, smoothing / K) + (1 - smoothing) * np.eye(K)[v.argmax()] for v in V]
    named = mean([-(t * np.log(soft(z))).sum() for z, t in zip(Z, targets, strict=True)])
    assert terms("hard", Z, V, Y, weight=0.3, smoothing=smoothing) == close(
        ce=0.7 * CE, hard=0.3 * named
    )


def test_seqkd(terms):
    # of the likeliest classes it is hard distillation; drawn ones are of the teacher's probability
    likeliest = terms("seqkd", Z, V, Y, weight=0.3, draw="likeliest")
    named = mean([-np.log(soft(z))[v.argmax()] for z, v in zip(Z, V, strict=True)])
    assert likeliest == close(ce=0.7 * CE, seqkd=0.3 * named)
    z, v = np.log([[0.1, 0.2, 0.7]] * 4000), np.log([[0.5, 0.4, 0.1]] * 4000)
    drawn = terms("seqkd", z.tolist(), v.tolist(), [0] * 4000, weight=1.0)["seqkd"]
    expected = -(0.5 * np.log(0.1) + 0.4 * np.log(0.2) + 0.1 * np.log(0.7))
    assert abs(drawn - expected) < 0.05  # 4 standard errors


def powers(tau):
    """The teacher's probabilities to the power 1 / tau, and each row's sum of them."""
    return [(soft(v) ** (1 / tau), (soft(v) ** (1 / tau)).sum()) for v in V]


@pytest.mark.parametrize("tau", [1.0, 2.5, 10.0])
def test_ttm_and_wttm(terms, tau):
    each = [kl(u / norm, soft(z)) for z, (u, norm) in zip(Z, powers(tau), strict=True)]
    got = terms("ttm", Z, V, Y, temperature=tau, weight=3, ce_weight=2)
    assert got == close(ce=2 * CE, ttm=3 * mean(each))
    weighed = mean([norm * one for one, (_, norm) in zip(each, powers(tau), strict=True)])
    got = terms("wttm", Z, V, Y, temperature=tau, weight=3, ce_weight=2)
    assert got == close(ce=2 * CE, wttm=3 * weighed)


def test_ttm_at_temperature_one_is_kd_there(terms):
    plain = terms("kd", Z, V, Y, temperature=1, weight=1)["kd"]
    assert terms("ttm", Z, V, Y, temperature=1, weight=1)["ttm"] == pytest.approx(plain)
    assert terms("wttm", Z, V, Y, temperature=1, weight=1)["wttm"] == pytest.approx(plain)


def wsld_weights():
    return [1 - np.exp(-ce(z, y) / (ce(v, y) + 1e-7)) for z, v, y in zip(Z, V, Y, strict=True)]


def test_wsld(terms):
    tau, w = 4.0, wsld_weights()
    expected = tau**2 * mean([u * kl(q, p) for u, (p, q) in zip(w, pairs(tau), strict=True)])
    assert terms("wsld", Z, V, Y) == close(ce=CE, wsld=2.25 * expected)


def test_wsld_leaves_out_what_the_student_knows_better():
    z = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float64)
    v = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    label = torch.tensor([0])
    assert losses.wsld(z, v, label, temperature=1) < 1e-9
    # and of a student that knows less it asks as kd does
    whole = losses.kd(v, z, temperature=1)
    torch.testing.assert_close(losses.wsld(v, z, label, temperature=1), whole)


# ---- nkd and uskd --------------------------------------------------------------------------------


def without(row, label):
    return np.delete(row, label)


def test_nkd(terms):
    target = mean([-soft(v)[y] * np.log(soft(z)[y]) for z, v, y in zip(Z, V, Y, strict=True)])
    tau = 3.0
    others = tau**2 * mean(
        [
            kl(soft(without(v, y), tau), soft(without(z, y), tau))
            for z, v, y in zip(Z, V, Y, strict=True)
        ]
    )
    assert terms("nkd", Z, V, Y, weight=2) == close(
        ce=CE, target=2 * target, others=2 * 3.5 * others
    )


def uskd_targets(w):
    """s [N], and r [N,K-1] by sorting lists."""
    squares = [soft(z)[y] ** 2 for z, y in zip(Z, Y, strict=True)]
    ranked = []
    for z, a, y in zip(Z, w, Y, strict=True):
        p, early = soft(z), soft(a)
        score = {k: p[k] / (1 - p[y]) + early[k] / (1 - early[y]) for k in range(K)}
        best_first = sorted(score, key=score.__getitem__, reverse=True)
        zipf = [1 / (1 + best_first.index(k)) for k in range(K) if k != y]
        ranked.append(np.array(zipf) / sum(zipf))
    return [square + 1 - mean(squares) for square in squares], ranked


def test_uskd_by_the_definition():
    w = rows(2)
    sure, ranked = uskd_targets(w)
    target = mean([-s * np.log(soft(z)[y]) for s, z, y in zip(sure, Z, Y, strict=True)])
    others = mean([kl(r, soft(without(z, y))) for r, z, y in zip(ranked, Z, Y, strict=True)])
    found = losses.uskd(torch.from_numpy(Z), torch.from_numpy(w), torch.tensor(Y))
    assert [value.item() for value in found] == pytest.approx([target, others], rel=1e-9)


def test_uskd_does_not_follow_its_own_targets():
    z, w = (torch.from_numpy(x).requires_grad_() for x in (Z.copy(), rows(2)))
    sure, ranked = uskd_targets(rows(2))
    sum(losses.uskd(z, w, torch.tensor(Y))).backward()
    assert w.grad is None
    # (s_i - and, of the others, r - ) p, by hand
    expected = np.zeros_like(Z)
    for i, (row, y) in enumerate(zip(Z, Y, strict=True)):
        expected[i] += sure[i] * (soft(row) - np.eye(K)[y]) / N
        others = [k for k in range(K) if k != y]
        expected[i, others] += (soft(without(row, y)) - ranked[i]) / N
    np.testing.assert_allclose(z.grad.numpy(), expected, rtol=1e-9)


def test_the_weak_head_of_uskd_is_there_for_networks_of_two_stages_or_more(given):
    with pytest.raises(Incompatible, match="uskd reads 'stage\\*', which GivenLogits"):
        given("uskd", Z, None)


# ---- mlkd ----------------------------------------------------------------------------------------


def levels(tau):
    p, q = (np.array([soft(row, tau) for row in x]) for x in (Z, V))
    images = sum((sum(p[i] * p[j]) - sum(q[i] * q[j])) ** 2 for i in range(N) for j in range(N))
    classes = sum(
        (sum(p[:, k] * p[:, c]) - sum(q[:, k] * q[:, c])) ** 2 for k in range(K) for c in range(K)
    )
    return images / N, classes / K


@pytest.mark.parametrize("standardize", [False, True])
def test_mlkd(terms, standardize):
    taus = (2.0, 5.0)
    seen = [
        [(row - row.mean()) / row.std(ddof=1) if standardize else row for row in x] for x in (Z, V)
    ]
    single = sum(
        tau**2 * mean([kl(soft(v, tau), soft(z, tau)) for z, v in zip(*seen, strict=True)])
        for tau in taus
    )
    images, classes = (sum(level) for level in zip(*map(levels, taus), strict=True))
    got = terms(
        *("mlkd", Z, V, Y),
        temperatures=taus,
        standardize=standardize,
        weight=2,
        batch_level=3,
        class_level=5,
    )
    expected = {"ce": 0.1 * CE, "kd": 2 * single, "batch": 6 * images, "class": 10 * classes}
    assert got == pytest.approx(expected, rel=1e-9)


def test_mlkd_with_z_scores_shows_the_student_at_the_teachers_spread_and_refuses_two_classes(given):
    z, v = torch.from_numpy(Z), torch.from_numpy(V)
    method = given("mlkd", Z, V, standardize=True)
    aligned, facing = method.aligned(method.options, z, v)
    assert facing is v
    torch.testing.assert_close(aligned.std(-1), v.std(-1))
    plain = given("mlkd", Z, V)
    assert plain.aligned(plain.options, z, v)[0] is z
    assert plain.softening(plain.options) == 4.0
    with pytest.raises(Incompatible, match="mlkd with standardize needs at least 3 classes"):
        given("mlkd", [[0.0, 1.0]], [[1.0, 0.0]], standardize=True)


# ---- dist_plus -----------------------------------------------------------------------------------


def pearson(a, b):
    return np.corrcoef(a, b)[0, 1]


def test_map_correlations_are_those_of_numpy():
    s, t = (np.random.default_rng(seed).normal(size=(3, 4, 2, 2)) for seed in (0, 1))
    places = [(h, w) for h in range(2) for w in range(2)]
    channel = 1 - mean([pearson(s[b, :, h, w], t[b, :, h, w]) for b in range(3) for h, w in places])
    spatial = 1 - mean([pearson(s.sum(1)[:, h, w], t.sum(1)[:, h, w]) for h, w in places])
    found = losses.map_correlations(torch.from_numpy(s), torch.from_numpy(t))
    # 1e-8 stands beside the norms
    assert [value.item() for value in found] == pytest.approx([channel, spatial], rel=1e-6)


def test_map_correlations_want_several_images_and_equal_channels():
    with pytest.raises(Incompatible, match="needs at least two, got one"):
        losses.map_correlations(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))
    with pytest.raises(Incompatible, match="channel by channel, got 2 and 4"):
        losses.map_correlations(torch.zeros(2, 2, 3, 3), torch.zeros(2, 4, 3, 3))


# ---- gradients -----------------------------------------------------------------------------------

LABELS = torch.tensor(Y)
OF_LOGITS = {
    **{
        f"kd {name}": lambda z, v, name=name: losses.kd(z, v, temperature=2, divergence=name)
        for name in DIVERGENCES
    },
    "hard": lambda z, v: losses.hard(z, v, smoothing=0.1),
    "ttm": lambda z, v: losses.ttm(z, v, temperature=3),
    "wttm": lambda z, v: losses.wttm(z, v, temperature=3),
    "nkd target": lambda z, v: losses.nkd(z, v, LABELS, temperature=2)[0],
    "nkd others": lambda z, v: losses.nkd(z, v, LABELS, temperature=2)[1],
    "batch level": lambda z, v: losses.batch_level(z, v, temperature=2),
    "class level": lambda z, v: losses.class_level(z, v, temperature=2),
}


@pytest.mark.parametrize("name", OF_LOGITS)
def test_gradients_are_right_and_reach_the_student_alone(name):
    z, v = (torch.from_numpy(x.copy()).requires_grad_() for x in (Z, V))
    assert gradcheck(lambda z: OF_LOGITS[name](z, v), z)
    OF_LOGITS[name](z, v).backward()
    assert v.grad is None
    assert z.grad.abs().max() > 0
    # half precision is computed in float32
    assert OF_LOGITS[name](z.bfloat16(), v.bfloat16()).dtype == torch.float32


def test_gradients_of_maps_and_of_temperatures_are_right():
    s, t = (torch.from_numpy(np.random.default_rng(i).normal(size=(3, 4, 2, 2))) for i in (0, 1))
    assert gradcheck(lambda s: losses.map_correlations(s, t), s.requires_grad_())
    z, v = torch.from_numpy(Z.copy()).requires_grad_(), torch.from_numpy(V)
    for tau in (torch.tensor(3.0).double(), torch.arange(2.0, 2.0 + N).double()):
        assert gradcheck(lambda z, tau: losses.kd_learnt(z, v, tau), (z, tau.requires_grad_()))


def test_the_weight_of_wsld_gets_no_gradient():
    z = torch.from_numpy(Z.copy()).requires_grad_()
    losses.wsld(z, torch.from_numpy(V), LABELS, temperature=2).backward()
    expected = [2 * u * (p - q) / N for u, (p, q) in zip(wsld_weights(), pairs(2.0), strict=True)]
    np.testing.assert_allclose(z.grad.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in OF_LOGITS if name not in {"hard", "nkd target"}])
def test_a_student_that_equals_its_teacher_has_no_loss(name):
    z = torch.from_numpy(Z)
    other = {"ttm": 3.0, "wttm": 3.0}.get(name, 1.0)
    assert OF_LOGITS[name](z / other, z).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: losses.ttm(x, x, temperature=0),
        lambda x: losses.wttm(x, x, temperature=-1),
        lambda x: losses.wsld(x, x, LABELS, temperature=0),
        lambda x: losses.nkd(x, x, LABELS, temperature=0),
        lambda x: losses.batch_level(x, x, temperature=0),
        lambda x: losses.hard(x, x, smoothing=2),
    ],
)
def test_a_temperature_or_a_share_out_of_bounds_is_refused(loss):
    with pytest.raises(UsageError, match="must be"):
        loss(torch.from_numpy(Z))


def test_a_temperature_for_other_rows_is_refused():
    z = torch.from_numpy(Z)
    with pytest.raises(Incompatible, match=r"one a row, \[N\]: got \[3\]"):
        losses.kd_learnt(z, z, torch.ones(3))
