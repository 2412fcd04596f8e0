"""FSP, AB, FT, SRRL, OFD and ReviewKD: their stages, what each of them trains, their helpers, and
the pairs that they refuse.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdcli import losses
from kdcli.core.teacher import Teacher
from kdcli.core.types import Progress
from kdcli.engine.trainer import set_modes
from kdcli.errors import Incompatible, UsageError
from kdcli.modules.regressor import Regressor
from tests.catalogue.conftest import tiny
from tests.catalogue.test_methods import total
from tests.unit.methods.test_feature_methods import Shown, make, pictures, zoo

AT = Progress("distill", epoch=1, epochs=40, step=0, steps=40)
ON_MAPS = ("ab", "ft", "srrl", "ofd", "reviewkd")


class Before(Shown):
    """Shows the same maps before activation as after."""

    def __init__(self, seed, **shapes):
        super().__init__(seed, **shapes)
        before = {f"{tap}.pre": self.taps[tap] for tap in shapes}
        self.taps = {**self.taps, **before}

    def forward(self, x, taps=()):
        output = super().forward(x, tuple({tap.removesuffix(".pre") for tap in taps}))
        return output._replace(taps={tap: output.taps[tap.removesuffix(".pre")] for tap in taps})


def trained(method, stage):
    """Names of the parameters that a stage trains, as the engine sets modes."""
    set_modes(method, stage)
    return {name for name, parameter in method.named_parameters() if parameter.requires_grad}


def parameters(method, *prefixes):
    return {name for name, _ in method.named_parameters() if name.startswith(prefixes)}


class Counting(Teacher):
    """Counts how often it is asked."""

    calls = 0

    def __call__(self, batch, taps=()):
        self.calls += 1
        return super().__call__(batch, taps)


def counted(method):
    method.teacher_nets = (Counting(method.teacher.network),)
    return method


# ---- two stages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "helpers"), [("fsp", ()), ("ab", ("connectors",))])
def test_the_trunk_learns_first_and_the_head_with_all_of_the_student_second(name, helpers):
    method = make(name, hint_epochs=3, hint_lr=0.2)
    first, second = method.stages()
    assert (first.name, first.epochs, first.optim) == ("hint", 3, {"lr": 0.2})
    assert (second.name, second.epochs, second.optim) == ("distill", None, {})
    assert trained(method, first) == parameters(method, "student.convs", "student.norms", *helpers)
    assert trained(method, second) == parameters(method, "student")
    assert list(first.loss(pictures(4), AT).losses) == [name]
    assert list(second.loss(pictures(4), AT).losses) == ["ce"]
    assert make(name).stages()[0].epochs == 30
    assert make(name).stages()[0].optim == {}


@pytest.mark.parametrize("name", ["fsp", "ab"])
def test_a_teacher_that_no_term_reads_is_not_asked(name):
    method = counted(make(name))
    first, second = method.stages()
    second.loss(pictures(4), AT)
    assert method.teacher.calls == 0
    first.loss(pictures(4), AT)
    assert method.teacher.calls == 1
    both = counted(make(name, kd_weight=0.5, temperature=2)).stages()[1].loss(pictures(4), AT)
    assert list(both.losses) == ["ce", "kd"]


@pytest.mark.parametrize("name", ["fsp", "ab"])
def test_a_second_stage_without_any_weight_is_refused(name):
    with pytest.raises(UsageError, match=f"{name}'s second stage has nothing to learn"):
        make(name, ce_weight=0)
    make(name, ce_weight=0, kd_weight=1)
    make("fsp", ce_weight=0, weight=1)


# ---- FSP -----------------------------------------------------------------------------------------


def test_fsp_reads_the_flow_from_the_stem_on():
    shapes = {"stem": (3, 8), "stage1": (3, 8), "stage2": (5, 4)}
    student, teacher = Shown(0, **shapes), Shown(1, **shapes)
    method = make("fsp", student, teacher, weight=2.0)
    expected = losses.fsp(
        [student.shown[tap] for tap in shapes], [teacher.shown[tap] for tap in shapes]
    )
    hint, second = (stage.loss(pictures(2), AT).losses for stage in method.stages())
    assert list(hint) == ["fsp"]
    assert list(second) == ["ce", "fsp"]
    torch.testing.assert_close(hint["fsp"], expected)
    torch.testing.assert_close(second["fsp"], 2 * expected)


def test_fsp_refuses_other_channels_before_training():
    with pytest.raises(
        Incompatible,
        match=(
            "channel by channel: TinyNet has 4 channels at 'stem', its teacher TinyNet has 8 at "
            "'stem'"
        ),
    ):
        make("fsp", teacher=tiny(8, 0))


def test_fsp_refuses_a_network_that_has_one_map():
    alone = {"stem": (3, 8)}
    with pytest.raises(Incompatible, match="fsp"):
        make("fsp", Shown(0, **alone), Shown(1, **alone))


# ---- AB ------------------------------------------------------------------------------------------


def test_ab_connects_only_what_differs():
    student = Before(0, stage1=(4, 8), stage2=(4, 8), stage3=(6, 4))
    teacher = Before(1, stage1=(4, 8), stage2=(4, 4), stage3=(9, 4))
    method = make("ab", student, teacher)
    kinds = [type(connector) for connector in method.connectors]
    assert kinds == [nn.Identity, Regressor, Regressor]
    assert all(isinstance(connector.activation, nn.Identity) for connector in method.connectors[1:])


def test_ab_compares_maps_before_their_activations():
    shapes = {"stage1": (4, 8), "stage2": (6, 4)}
    student, teacher = Before(0, **shapes), Before(1, **shapes)
    method = make("ab", student, teacher, weight=0.5, margin=2)
    assert method.taps == (("stage1.pre", "stage2.pre"),) * 2
    expected = losses.ab(
        [student.shown[tap] for tap in shapes], [teacher.shown[tap] for tap in shapes], margin=2
    )
    torch.testing.assert_close(
        method.stages()[0].loss(pictures(2), AT).losses["ab"], 0.5 * expected
    )


def test_ab_leaves_its_connectors_alone_in_the_second_stage():
    method = make("ab")
    second = method.stages()[1]
    set_modes(method, second)
    before = {name: value.clone() for name, value in method.connectors.state_dict().items()}
    total(second.loss(pictures(4), AT)).backward()
    assert all(
        torch.equal(value, before[name]) for name, value in method.connectors.state_dict().items()
    )
    assert not any(module.training for module in method.connectors.modules())


# ---- FT ------------------------------------------------------------------------------------------


def test_ft_trains_its_paraphraser_then_freezes_it():
    method = make("ft", paraphraser_epochs=7, paraphraser_lr=0.01)
    first, second = method.stages()
    assert (first.name, first.epochs, first.optim) == ("paraphrase", 7, {"lr": 0.01})
    assert trained(method, first) == parameters(method, "paraphraser")
    assert trained(method, second) == parameters(method, "student", "translator")
    assert not any(module.training for module in method.paraphraser.modules())


def test_ft_pretrains_on_the_teachers_map_without_the_student():
    method = make("ft")
    method.student.forward = None  # nothing may call it
    step = method.stages()[0].loss(pictures(4), AT)
    answer = method.teacher(pictures(4), ("stage3",))
    target = answer.taps["stage3"]
    expected = (method.paraphraser(target) - target).square().mean()
    torch.testing.assert_close(step.losses["reconstruction"], expected)
    assert torch.equal(step.logits, answer.logits)


@pytest.mark.parametrize("options", [{}, {"form": "paper"}, {"form": "paper", "p": 2}])
def test_ft_compares_the_translation_with_the_paraphrase(options):
    student, teacher = Shown(0, stage1=(4, 8)), Shown(1, stage1=(6, 4))
    method = make("ft", student, teacher, weight=3.0, **options).eval()
    s, t = (
        method.translator(student.shown["stage1"]),
        method.paraphraser.encode(teacher.shown["stage1"]),
    )
    assert t.shape == (2, 3, 4, 4)
    assert s.shape == (2, 3, 8, 8)
    torch.testing.assert_close(
        method.loss(pictures(2), AT).losses["ft"], 3 * losses.ft(s, t, **options)
    )


def test_the_factor_has_a_share_of_the_teachers_channels():
    for rate, channels in ((0.5, 16), (0.25, 8), (0.001, 1), (2.0, 64)):
        assert make("ft", rate=rate).translator.body[-3].out_channels == channels


# ---- SRRL ----------------------------------------------------------------------------------------


def test_srrl_reads_the_students_features_with_the_teachers_head():
    student, teacher = Shown(0, stage1=(4, 8)), Shown(1, stage1=(6, 4))
    method = make("srrl", student, teacher, weight=2.0, feature_weight=3.0).eval()
    h_s, h_t = (
        method.connector(student.shown["stage1"]).mean((2, 3)),
        teacher.shown["stage1"].mean((2, 3)),
    )
    got = method.loss(pictures(2), AT).losses
    torch.testing.assert_close(got["fm"], 3 * (h_s - h_t).square().mean())
    torch.testing.assert_close(
        got["sr"], 2 * (teacher.head(h_s) - teacher.head(h_t)).square().mean()
    )


def test_srrl_takes_a_teacher_whose_head_reads_more_than_its_last_map_has():
    teacher = zoo("mobilenet_v2", (3, 16, 16))
    method = make("srrl", zoo("resnet8", (3, 16, 16)), teacher).train()
    assert teacher.head.in_features != teacher.taps["stage4"].channels
    assert total(method.loss(pictures(4, (3, 16, 16)), AT)).isfinite()


# ---- OFD -----------------------------------------------------------------------------------------


def test_ofd_takes_the_margins_of_the_norms_before_the_activations():
    teacher = tiny(8, 5)
    for norm in teacher.norms:
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    method = make("ofd", teacher=teacher).eval()
    margins = [losses.ofd_margins(norm.weight, norm.bias) for norm in teacher.norms[1:]]
    batch = pictures(4)
    student, answer = (
        method.student(batch.x, method.taps.student),
        method.teacher(batch, method.taps.teacher),
    )
    connected = [
        connector(student.taps[tap])
        for connector, tap in zip(method.connectors, method.taps.student, strict=True)
    ]
    expected = losses.ofd(connected, [answer.taps[tap] for tap in method.taps.teacher], margins)
    torch.testing.assert_close(method.loss(batch, AT).losses["ofd"], 0.001 * expected)


def test_ofd_lets_the_teachers_statistics_be():
    method = make("ofd").train()
    before = [norm.running_mean.clone() for norm in method.teacher.network.norms]
    total(method.loss(pictures(4), AT)).backward()
    assert all(
        torch.equal(norm.running_mean, mean)
        for norm, mean in zip(method.teacher.network.norms, before, strict=True)
    )


def test_ofd_refuses_a_teacher_without_batch_norms():
    teacher = Before(0, stage1=(4, 8))
    teacher.name = "plain"
    with pytest.raises(
        Incompatible, match=r"ofd computes margins .* and plain has none at 'stage1\.pre'"
    ):
        make("ofd", teacher=teacher)


# ---- ReviewKD ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({}, {1: 0.05, 10: 0.5, 20: 1.0, 40: 1.0}),
        ({"warmup_epochs": 0}, {1: 1.0, 40: 1.0}),
        ({"warmup_epochs": 1}, {1: 1.0}),
    ],
)
def test_reviewkd_grows_to_its_weight(options, factors):
    method = make("reviewkd", weight=3.0, **options).eval()
    full = (
        make("reviewkd", weight=3.0, warmup_epochs=0).eval().loss(pictures(4), AT).losses["review"]
    )
    for epoch, factor in factors.items():
        at = Progress("distill", epoch=epoch, epochs=40, step=0, steps=40)
        torch.testing.assert_close(method.loss(pictures(4), at).losses["review"], factor * full)


def test_reviewkd_fuses_from_the_deepest_level_on():
    student, teacher = (
        Before(0, stage1=(4, 8), stage2=(6, 4)),
        Before(1, stage1=(5, 4), stage2=(7, 8)),
    )
    method = make("reviewkd", student, teacher, warmup_epochs=0).eval()
    one, two, three = method.fusions
    assert [fusion.attention is None for fusion in (one, two, three)] == [False, False, True]
    levels = [*student.shown.values(), student.shown["stage2"].mean((2, 3), keepdim=True)]
    targets = [*teacher.shown.values(), teacher.shown["stage2"].mean((2, 3), keepdim=True)]
    passed, third = three(levels[2], None, torch.Size((1, 1)))
    passed, second = two(levels[1], passed, torch.Size((8, 8)))
    _, first = one(levels[0], passed, torch.Size((4, 4)))
    expected = losses.hcl([first, second, third], targets)
    torch.testing.assert_close(method.loss(pictures(2), AT).losses["review"], expected)


def test_the_width_of_the_review_is_bounded_by_the_pooled_vector_and_by_an_option():
    assert make("reviewkd").fusions[0].reduce[0].out_channels == 16
    assert make("reviewkd", max_width=5).fusions[0].reduce[0].out_channels == 5


def test_reviewkd_takes_the_students_maps_before_their_activations_too():
    stages = ("stage1.pre", "stage2.pre", "stage3.pre", "pooled")
    assert make("reviewkd", preact=True).taps == (stages, stages)
    assert make("reviewkd").taps == (("stage1", "stage2", "stage3", "pooled"), stages)


def test_reviewkd_can_be_trained_on_an_only_image():
    assert total(make("reviewkd").train().loss(pictures(1), AT)).isfinite()


# ---- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ON_MAPS)
@pytest.mark.parametrize(
    ("student", "teacher", "shape"),
    [
        ("resnet8", "vgg8", (3, 28, 28)),  # three stages of 28 14 7 against four of 14 7 4 4
        pytest.param("vgg8", "resnet8x4", (3, 32, 32), marks=pytest.mark.slow),
        ("resnet8x4", "mobilenet_v2", (3, 20, 36)),
    ],
)
def test_networks_of_two_families_teach_each_other(name, student, teacher, shape):
    method = make(name, zoo(student, shape), zoo(teacher, shape, seed=1))
    for stage in method.stages():
        set_modes(method, stage)
        method.zero_grad()
        total(stage.loss(pictures(4, shape), AT)).backward()
        assert all(
            parameter.grad.isfinite().all()
            for parameter in method.parameters()
            if parameter.requires_grad
        )


@pytest.mark.parametrize("name", ON_MAPS)
def test_vectors_are_refused(name):
    # an MLP's stages are vectors
    with pytest.raises(
        Incompatible,
        match=rf"{name} compares feature maps, and 'stage[12](\.pre)?' of mlp is a vector",
    ):
        make(name, zoo("mlp", (3, 8, 8), hidden=[16, 12]))
