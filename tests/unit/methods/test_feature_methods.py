"""Methods on features and relations: which taps they compare, in which networks, with what weights,
and what else they train.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kdcli import catalog, losses
from kdcli.core import random
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Output, Progress, Tap
from kdcli.errors import Incompatible, UsageError
from tests.catalogue.conftest import tiny_setup
from tests.catalogue.test_methods import method_class, total

ON_MAPS = ("fitnet", "at", "vid", "nst")
ON_ANYTHING = ("sp", "cc", "rkd", "pkt")
EVERY = (*ON_MAPS, *ON_ANYTHING)
AT = Progress("distill", epoch=1, epochs=2, step=0, steps=4)


class Shown(Network):
    """Answers with given maps by tap, [2,C,H,W], and with their means as "pooled"."""

    def __init__(self, seed: int, **shapes: tuple[int, int]) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.shown = nn.ParameterDict(
            {
                tap: torch.randn(2, c, side, side, generator=draw)
                for tap, (c, side) in shapes.items()
            }
        )
        self.last = list(shapes)[-1]
        channels = shapes[self.last][0]
        self.head = nn.Linear(channels, 5)
        self.taps = {tap: Tap(c, 32 // side) for tap, (c, side) in shapes.items()} | {
            "pooled": Tap(channels, None)
        }

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        pooled = self.shown[self.last].mean((2, 3))
        return Output(
            self.head(pooled), {tap: pooled if tap == "pooled" else self.shown[tap] for tap in taps}
        )

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        return ()


def make(name, student: Network | None = None, teacher: Network | None = None, **options):
    """A method by name; its networks are the tiny ones of the catalogue tests unless given."""
    cls = method_class(name)
    setup = tiny_setup(cls)
    setup = replace(
        setup,
        student=student or setup.student,
        teachers=(Teacher(teacher),) if teacher else setup.teachers,
    )
    with random.seeded(0, "method"):
        return cls(cls.Options(**options), setup)


def pictures(count: int, shape: tuple[int, ...] = (3, 8, 8)) -> Batch:
    x = (
        random.uniform(1, torch.arange(count * torch.Size(shape).numel())).view(count, *shape) * 2
        - 1
    )
    index = torch.arange(count)
    return Batch(x, index % 5, index, torch.zeros_like(index))


def zoo(name: str, shape: tuple[int, int, int], seed: int = 0, **arguments) -> Network:
    found = catalog.entry("model", name)
    with random.seeded(seed, "init"):
        return catalog.load(found).build(
            name, num_classes=5, input_shape=shape, arguments=found.facts["arguments"] | arguments
        )


# ---- what is compared ----------------------------------------------------------------------------


def test_where_depths_differ_the_last_stages_are_paired():
    student = Shown(0, stem=(3, 32), stage1=(4, 16), stage2=(6, 8))
    teacher = Shown(1, stage1=(5, 32), stage2=(8, 16), stage3=(9, 8), stage4=(10, 4))
    expected = losses.at(
        [student.shown["stage1"], student.shown["stage2"]],
        [teacher.shown["stage3"], teacher.shown["stage4"]],
    )
    method = make("at", student, teacher, weight=2)
    assert method.taps == (("stage1", "stage2"), ("stage3", "stage4"))
    torch.testing.assert_close(method.loss(pictures(2), AT).losses["at"], 2 * expected)
    assert make("at", teacher, student).taps == (("stage3", "stage4"), ("stage1", "stage2"))
    assert make("vid", student, teacher).channels() == [(4, 9), (6, 10)]
    assert make("sp", student, teacher).taps == (("stage2",), ("stage4",))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("student", "teacher", "shape"),
    [
        ("resnet8", "vgg8", (3, 28, 28)),  # 28 14 7 against 7 4 4
        # 8 4 4 against 32 16 8
        pytest.param("vgg8", "resnet8x4", (3, 32, 32), marks=pytest.mark.slow),
        ("resnet8x4", "mobilenet_v2", (3, 20, 36)),
    ],
)
def test_networks_of_two_families_teach_each_other(name, student, teacher, shape):
    method = make(name, zoo(student, shape), zoo(teacher, shape, seed=1)).train()
    total(method.loss(pictures(4, shape), AT)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())


@pytest.mark.parametrize("name", ON_MAPS)
def test_vectors_are_refused_by_methods_on_maps(name):
    mlp, tiny = (
        (lambda: zoo("mlp", (3, 8, 8), hidden=[16, 12])),
        (lambda: tiny_setup(method_class(name)).student),
    )
    for student, teacher in ((mlp(), tiny()), (tiny(), mlp())):
        with pytest.raises(
            Incompatible, match=rf"{name} compares feature maps, and 'stage[12]' of mlp is a vector"
        ):
            make(name, student, teacher)


@pytest.mark.parametrize("name", ON_ANYTHING)
def test_vectors_serve_methods_on_relations(name):
    small, large = (
        zoo("mlp", (3, 8, 8), hidden=[12]),
        zoo("mlp", (3, 8, 8), seed=1, hidden=[20, 16]),
    )
    assert total(make(name, small, large).loss(pictures(4), AT)).isfinite()


@pytest.mark.parametrize("name", ["fitnet", "at", "vid", "nst", "sp"])
def test_a_network_with_nothing_but_a_pooled_vector_is_refused(name):
    bare = Shown(0, stage1=(4, 8))
    bare.taps, bare.name = {"pooled": Tap(4, None)}, "theirs"
    with pytest.raises(Incompatible, match=f"{name} reads '.*', which theirs does not have"):
        make(name, bare)


@pytest.mark.parametrize("name", ON_ANYTHING)
def test_a_batch_of_one_has_no_relations(name):
    with pytest.raises(
        Incompatible,
        match=rf"losses\.{name} compares images with each other and needs at least 2, got 1",
    ):
        make(name).eval().loss(pictures(1), AT)


# ---- weights -------------------------------------------------------------------------------------

PUBLISHED = {
    "fitnet": {"hint": 100},
    "at": {"at": 1000},
    "sp": {"sp": 3000},
    "cc": {"cc": 0.02},
    "vid": {"vid": 1},
    "rkd": {"rkd_distance": 25, "rkd_angle": 50},
    "pkt": {"pkt": 30000},
    "nst": {"nst": 50},
}


@pytest.mark.parametrize("name", EVERY)
def test_terms_bear_their_published_weights_beside_the_labels(name):
    batch = pictures(8)
    step = make(name).eval().loss(batch, AT)
    plain = {"distance": 1, "angle": 1} if name == "rkd" else {"weight": 1}
    bare = make(name, ce_weight=0, **plain).eval().loss(batch, AT).losses
    assert set(bare) == set(PUBLISHED[name])
    torch.testing.assert_close(step.losses.pop("ce"), losses.cross_entropy(step.logits, batch.y))
    for term, weight in PUBLISHED[name].items():
        torch.testing.assert_close(step.losses.pop(term), weight * bare[term])
    assert not step.losses


@pytest.mark.parametrize("name", EVERY)
def test_hintons_term_can_stand_beside_them(name):
    batch = pictures(8)
    method = make(name, kd_weight=0.5, temperature=2).eval()
    step, v = method.loss(batch, AT), method.teacher(batch).logits
    torch.testing.assert_close(step.losses["kd"], 0.5 * losses.kd(step.logits, v, temperature=2))


# ---- what single methods have of their own -------------------------------------------------------


def test_the_power_of_attention_is_an_option():
    student, teacher = Shown(0, stage1=(4, 16)), Shown(1, stage1=(4, 16))
    got = make("at", student, teacher, weight=1, p=3).loss(pictures(2), AT).losses["at"]
    torch.testing.assert_close(
        got, losses.at([student.shown["stage1"]], [teacher.shown["stage1"]], p=3)
    )


def test_vid_starts_at_a_variance_of_five_and_learns_it():
    method = make("vid")
    for scale, (_, theirs) in zip(method.log_scales, method.channels(), strict=True):
        assert scale.shape == (theirs,)
        torch.testing.assert_close(nn.functional.softplus(scale) + 1e-5, torch.full((theirs,), 5.0))
    convs = [module for module in method.regressors.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 3 * 3
    assert all(conv.kernel_size == (1, 1) and conv.bias is None for conv in convs)
    parameters = {id(parameter) for parameter in method.parameters()}
    assert all(id(scale) in parameters for scale in method.log_scales)  # else they would stay at 5
    total(method.loss(pictures(8), AT)).backward()
    assert all(scale.grad.norm() > 0 for scale in method.log_scales)


def test_vid_pools_the_student_before_its_regressor():
    student, teacher = Shown(0, stage1=(4, 16)), Shown(1, stage1=(6, 8))
    method = make("vid", student, teacher)
    (regressor,), (scale,) = method.regressors, method.log_scales
    expected = losses.vid(
        regressor(nn.functional.avg_pool2d(student.shown["stage1"], 2)),
        scale,
        teacher.shown["stage1"],
    )
    torch.testing.assert_close(method.loss(pictures(2), AT).losses["vid"], expected)


@pytest.mark.parametrize("form", ["code", "paper"], ids=["as coded", "as printed"])
def test_both_embeddings_of_cc_are_trained(form):
    method = make("cc", form=form, embedding=7)
    assert (method.embed_student.out_features, method.embed_teacher.out_features) == (7, 7)
    batch = pictures(8)
    step = method.eval().loss(batch, AT)
    step.losses["cc"].backward()
    assert method.embed_student.weight.grad.norm() > 0
    assert method.embed_teacher.weight.grad.norm() > 0
    student, teacher = method.read(batch)
    e_s, e_t = (
        method.embed_student(student.taps["pooled"]),
        method.embed_teacher(teacher.taps["pooled"]),
    )
    torch.testing.assert_close(step.losses["cc"], 0.02 * losses.cc(e_s, e_t, form=form))


def test_the_kernel_of_cc_is_an_option():
    method, batch = make("cc", form="paper", weight=1, gamma=1.5, order=4).eval(), pictures(8)
    student, teacher = method.read(batch)
    e_s, e_t = (
        method.embed_student(student.taps["pooled"]),
        method.embed_teacher(teacher.taps["pooled"]),
    )
    got = method.loss(batch, AT).losses["cc"]
    assert got.item() == pytest.approx(
        losses.cc(e_s, e_t, form="paper", gamma=1.5, order=4).item(), rel=1e-6
    )
    assert got.item() != pytest.approx(losses.cc(e_s, e_t, form="paper").item(), rel=1e-2)


def test_rkd_leaves_out_what_weighs_nothing():
    assert set(make("rkd", angle=0).loss(pictures(4), AT).losses) == {"ce", "rkd_distance"}
    assert set(make("rkd", distance=0).loss(pictures(4), AT).losses) == {"ce", "rkd_angle"}
    with pytest.raises(
        UsageError, match="rkd with distance = 0 and angle = 0 has no term of its own"
    ):
        make("rkd", distance=0, angle=0)
