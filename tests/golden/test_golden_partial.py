"""DKD, DIST, the partial methods and teacher-free distillation against numbers worked out by hand,
and what they refuse.

Logits are multiples of log 2, so that softmaxes are fractions: softmax(2 log [1, 2, 1] / 2) = [1,
2, 1] / 4.
"""

from __future__ import annotations

from dataclasses import replace
from math import e as E  # noqa: N812
from math import log, sqrt

import pytest
import torch

from kdcli import catalog
from kdcli.core.method import Method
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Progress
from kdcli.errors import Incompatible, UsageError
from tests.golden.conftest import GivenLogits, _setup

LOG2, LOG3 = log(2), log(3)

# at temperature 2 p = [1 2 1]/4 and q = [1 1 2]/4
Z = [[0, 2 * LOG2, 0]]
V = [[0, 0, 2 * LOG2]]
CE_LABEL_2 = log(6)  # softmax of the raw student is [1 4 1]/6


def close(**expected):
    return pytest.approx(expected, rel=1e-6)  # tables of targets are float32


def kl(rho, p):
    return sum(r * log(r / s) for r, s in zip(rho, p, strict=True) if r)


P = [1 / 4, 1 / 2, 1 / 4]


# ---- dkd and dist --------------------------------------------------------------------------------


def test_dkd(terms):
    # label 2: b_q = [1/2 1/2], b_p = [1/4 3/4]; the other classes: q-hat = [1/2 1/2], p-hat = [1/3
    # 2/3]
    tckd = 4 * kl([1 / 2, 1 / 2], [1 / 4, 3 / 4])
    nckd = 4 * kl([1 / 2, 1 / 2], [1 / 3, 2 / 3])
    got = terms("dkd", Z, V, [2], temperature=2, alpha=3, beta=5, warmup_epochs=0)
    assert got == close(ce=CE_LABEL_2, tckd=3 * tckd, nckd=5 * nckd)


def test_dkd_weights_rise_over_the_warm_up_and_no_warm_up_is_none(terms):
    full = terms("dkd", Z, V, [2], warmup_epochs=0)
    for epoch, share in ((1, 1 / 20), (10, 1 / 2), (20, 1), (21, 1), (99, 1)):
        got = terms("dkd", Z, V, [2], epoch=epoch)
        assert got == close(ce=full["ce"], tckd=share * full["tckd"], nckd=share * full["nckd"])


def test_dist(terms):
    # rows: centred p = [-1 2 -1]/12, q = [2 -1 -1]/12 and [-1 -1 2]/12: r = -1/2 twice.
    # columns of p do not vary; nothing correlates with what does not vary
    z, v = [*Z, *Z], [[2 * LOG2, 0, 0], *V]
    got = terms("dist", z, v, [2, 2], temperature=2, beta=3, gamma=5, ce_weight=0.5)
    assert got == close(ce=0.5 * CE_LABEL_2, inter=2 * 3 * 4 * 1.5, intra=2 * 5 * 4)


def test_dist_over_the_images_of_a_class(terms):
    # two images: the columns of p and q rise and fall together in classes 1 and 2, against each
    # other in class 0
    z, v = [[0, 2 * LOG2, 0], [2 * LOG2, 0, 2 * LOG3]], [[2 * LOG2, 2 * LOG3, 0], [0, 0, 2 * LOG2]]
    got = terms("dist", z, v, [2, 2], temperature=2, weight=1)
    assert got["intra"] == pytest.approx(4 * (1 - (-1 + 1 + 1) / 3), rel=1e-5)


# ---- partial methods -----------------------------------------------------------------------------


def build(name, z=Z, v=V, *, superclass=None, head=None, **options) -> Method:
    module = catalog.load(catalog.entry("method", name))
    cls = next(
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, Method)
        and thing.__module__ == module.__name__
    )
    setup = _setup(z, v)
    setup = replace(
        setup,
        data=replace(
            setup.data, superclass=None if superclass is None else torch.tensor(superclass)
        ),
    )
    if head is not None:
        layer = torch.nn.Linear(len(head[0]), len(head))
        layer.weight.data = torch.tensor(head, dtype=torch.float64)
        setup.teachers[0].network.head = layer
    return cls(cls.Options(**options), setup)


def values(method, y, epoch=1):
    positions = torch.arange(len(y))
    step = method.loss(
        Batch(positions, torch.tensor(y), positions, positions),
        Progress("distill", epoch, 100, 0, 100),
    )
    return {key: value.item() for key, value in step.losses.items()}


def partial(rho, weight=0.9, ce=CE_LABEL_2):
    """The terms of a partial method at temperature 2 whose target is rho."""
    return close(ce=(1 - weight) * ce, kd=weight * 4 * kl(rho, P))


def test_kd_pt():
    assert values(build("kd_pt", temperature=2), [2]) == partial([1 / 4, 1 / 4, 1 / 2])
    assert values(build("kd_pt", temperature=2, weight=0.3), [0]) == partial(
        [1 / 4, 3 / 8, 3 / 8], 0.3
    )


def test_kd_topk():
    assert values(build("kd_topk", temperature=2, k=1), [0]) == partial([1 / 4, 1 / 4, 1 / 2])
    assert values(build("kd_topk", temperature=2, k=0), [0]) == partial([1 / 3, 1 / 3, 1 / 3])


def test_kd_topk_of_all_classes_is_kd(terms):
    assert values(build("kd_topk", k=3), [0]) == pytest.approx(terms("kd", Z, V, [0]), rel=1e-12)


# the first two rows are alike with a cosine of 3/5, the third is against the first and has -3/5
# with the second
ROWS = [[2.0, 0.0], [3.0, 4.0], [-7.0, 0.0]]


def test_kd_sim():
    # label 0: cosines 1, 3/5, -1; with power 2 and temperature 1/2: exponents 2, 18/25, -2
    powers = [E**2, E**0.72, E**-2]
    rho = [power / sum(powers) for power in powers]
    assert values(
        build("kd_sim", head=ROWS, temperature=2, sim_temperature=0.5, power=2), [0]
    ) == partial(rho)


def test_kd_sim_keeps_no_teacher_in_its_state():
    method = build("kd_sim", head=ROWS)
    assert method.table.shape == (3, 3)
    assert set(method.state_dict()) == {f"student.{key}" for key in method.student.state_dict()}
    assert not method.table.requires_grad


def test_kd_rel():
    # label 0 and its sibling 1 against 2: 1/2 for the label, b3 (4 + 1) = 1/2
    method = build(
        "kd_rel", v=None, superclass=[0, 0, 1], temperature=2, label_probability=0.5, ratio=4
    )
    assert values(method, [0]) == partial([0.5, 0.4, 0.1])
    assert values(method, [2]) == partial([0.25, 0.25, 0.5])


def test_superclasses_that_are_given_come_before_the_datasets():
    method = build(
        "kd_rel",
        v=None,
        superclass=[0, 0, 1],
        superclasses=[[1], [2, 0]],
        temperature=2,
        label_probability=0.5,
        ratio=4,
    )
    assert values(method, [0]) == partial([0.5, 0.1, 0.4])


def test_kd_pt_sim_mixes_two_targets():
    powers = [E**1, E**0.6, E**-1]
    alike = [power / sum(powers) for power in powers]
    rho = [0.7 * a + 0.3 * b for a, b in zip([1 / 4, 3 / 8, 3 / 8], alike, strict=True)]
    assert values(
        build("kd_pt_sim", head=ROWS, temperature=2, sim_temperature=1, mix=0.3), [0]
    ) == partial(rho)


def test_kd_pt_rel_mixes_two_targets():
    rho = [0.7 * a + 0.3 * b for a, b in zip([1 / 4, 3 / 8, 3 / 8], [0.5, 0.4, 0.1], strict=True)]
    got = build(
        "kd_pt_rel",
        superclasses=[[0, 1], [2]],
        temperature=2,
        mix=0.3,
        label_probability=0.5,
        ratio=4,
    )
    assert values(got, [0]) == partial(rho)


@pytest.mark.parametrize("other", ["sim", "rel"])
def test_mixtures_end_in_their_parts(other):
    extra = {"head": ROWS} if other == "sim" else {"superclass": [0, 0, 1]}
    of_one = values(build("kd_pt"), [0])
    assert values(build(f"kd_pt_{other}", mix=0, **extra), [0]) == pytest.approx(of_one, rel=1e-6)
    alone = build(f"kd_{other}", **(extra if other == "sim" else {**extra, "v": None}))
    assert values(build(f"kd_pt_{other}", mix=1, **extra), [0]) == pytest.approx(
        values(alone, [0]), rel=1e-6
    )


# ---- teacher-free --------------------------------------------------------------------------------


def test_tf_kd_reg(terms):
    # u = [1/8 1/8 3/4]; at temperature 2 its roots are in the ratio 1 : 1 : sqrt 6
    total = 2 + sqrt(6)
    rho = [1 / total, 1 / total, sqrt(6) / total]
    got = terms("tf_kd", Z, None, [2], temperature=2, label_probability=0.75)
    assert got == close(ce=0.9 * CE_LABEL_2, kd=0.1 * 4 * kl(rho, P))


def test_tf_kd_reg_of_the_released_code(terms):
    # a softmax of probabilities against the untempered student, divided by three classes
    powers = [E**0.0625, E**0.0625, E**0.375]
    rho = [power / sum(powers) for power in powers]
    got = terms(
        "tf_kd", Z, None, [2], temperature=2, label_probability=0.75, form="code", multiplier=50
    )
    assert got == close(ce=0.9 * CE_LABEL_2, kd=0.1 * 50 * kl(rho, [1 / 6, 4 / 6, 1 / 6]) / 3)


def test_tf_kd_self_is_distillation_from_a_copy(terms):
    got = terms("tf_kd", Z, V, [2], mode="self", temperature=2, weight=0.9)
    assert got == pytest.approx(terms("kd", Z, V, [2], temperature=2), rel=1e-12)
    code = terms(
        "tf_kd", Z, V, [2], mode="self", temperature=2, weight=0.9, form="code", multiplier=3
    )
    assert code == pytest.approx(got, rel=1e-12)  # the mean over three classes, times 3


def test_tf_kd_reg_does_not_ask_a_teacher_that_is_given(terms):
    assert terms("tf_kd", Z, V, [2]) == terms("tf_kd", Z, None, [2])


# ---- kd that stops -------------------------------------------------------------------------------


def test_kd_that_stops_is_plain_cross_entropy_afterwards(terms):
    always = terms("kd", Z, V, [2])
    assert terms("kd", Z, V, [2], kd_stop_epoch=30, epoch=30) == always
    assert terms("kd", Z, V, [2], kd_stop_epoch=30, epoch=31) == terms("none", Z, None, [2])
    assert terms("kd", Z, V, [2], kd_stop_epoch=30, epoch=31, ce_weight=0.1) == terms(
        "none", Z, None, [2]
    )


def test_kd_that_has_stopped_does_not_ask_its_teacher():
    method = build("kd", kd_stop_epoch=1)
    method.teacher_nets = ()
    assert values(method, [2], epoch=2)


# ---- refusals ------------------------------------------------------------------------------------


def test_kd_topk_cannot_keep_more_than_there_is():
    with pytest.raises(
        Incompatible, match="kd_topk keeps k = 5 probabilities, and given has 3 classes"
    ) as caught:
        build("kd_topk")
    assert "method.k" in caught.value.hint


@pytest.mark.parametrize("name", ["kd_rel", "kd_pt_rel"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs superclasses, and given has none"),
        (
            {"superclasses": [[0, 1]]},
            "superclasses must hold each class of given once, 0 to 2: a .number 2. is missing",
        ),
        ({"superclasses": [[0, 1], [1, 2]]}, "is there 2 times"),
        (
            {"superclass": [0, 0, 1], "label_probability": 0.2, "ratio": 9},
            r"another class of given gets 0\.72, as much as the label or more",
        ),
    ],
)
def test_a_hierarchy_must_be_one_and_favour_the_label(name, options, says):
    with pytest.raises(Incompatible, match=f"{name}.*{says}") as caught:
        build(name, v=None if name == "kd_rel" else V, **options)
    assert options or "method.superclasses" in caught.value.hint


@pytest.mark.parametrize("name", ["kd_rel", "kd_pt_rel"])
@pytest.mark.parametrize(
    ("groups", "says"),
    [([[0, 1], [2, 7]], "there is no class 7"), ([[0, 1], ["x"]], "no class is called 'x'")],
)
def test_a_hierarchy_is_of_classes_that_there_are(name, groups, says):
    with pytest.raises(UsageError, match=f"method.superclasses: {says}"):
        build(name, v=None if name == "kd_rel" else V, superclasses=groups)


def test_tf_kd_self_needs_a_teacher_and_one_of_its_own_kind():
    with pytest.raises(
        Incompatible, match='tf_kd in mode "self" needs a teacher: a checkpoint of the same network'
    ) as caught:
        build("tf_kd", v=None, mode="self")
    assert "--teacher" in caught.value.hint
    setup = _setup(Z, V)
    wider = GivenLogits(V)
    wider.head = torch.nn.Linear(2, 3)
    cls = type(build("tf_kd", v=None))
    with pytest.raises(
        Incompatible, match="own architecture, GivenLogits; its teacher is a GivenLogits"
    ):
        cls(cls.Options(mode="self"), replace(setup, teachers=(Teacher(wider),)))


def test_a_target_that_could_never_favour_the_label_is_refused_with_the_options():
    for name in ("kd_rel", "kd_pt_rel"):
        options = catalog.options_class(catalog.entry("method", name))
        for wrong in ({"ratio": 1}, {"label_probability": 0}, {"label_probability": 1}):
            with pytest.raises(ValueError, match=r"greater than|less than"):
                options(**wrong)
