"""Chains of networks: assistants and dense guidance. Order, sizes, who teaches whom, what is
dropped, what is refused.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import log

import pytest
import torch

from kdcli.core.teacher import Teacher
from kdcli.core.types import Progress
from kdcli.errors import Incompatible
from kdcli.methods.dgkd import DenselyGuided
from kdcli.methods.kd import KnowledgeDistillation
from kdcli.methods.ta import TeacherAssistants
from tests.catalogue.conftest import tiny, tiny_setup
from tests.unit.methods.fixed import batch_of

CHAINS = pytest.mark.parametrize("cls", [TeacherAssistants, DenselyGuided], ids=["ta", "dgkd"])


def size(width: int) -> int:
    return sum(parameter.numel() for parameter in tiny(width, 0).parameters())


def setup_for(cls, between=(), **changes):
    """The tiny world: teacher 8 wide, student 4; `build("w5")` gives a network 5 wide."""
    seeds = iter(range(500, 600))
    found = {f"w{width}": size(width) for width in between}
    world = replace(
        tiny_setup(cls), build=lambda name: tiny(int(name[1:]), next(seeds)), between=lambda: found
    )
    return replace(world, **changes)


def widths(method):
    return [network.head.in_features // 4 for network in method.assistants]


def make(cls, *, between=(), world=None, **options):
    return cls(cls.Options(**options), world or setup_for(cls, between))


# ---- who is in the chain -------------------------------------------------------------------------


@CHAINS
def test_without_names_it_is_the_network_nearest_the_geometric_mean(cls):
    counts = {width: size(width) for width in (5, 6, 7)}
    middle = (log(size(8)) + log(size(4))) / 2
    nearest = min(counts, key=lambda width: abs(log(counts[width]) - middle))
    assert widths(make(cls, between=(7, 6, 5))) == [nearest]
    assert widths(make(cls, between=(7,))) == [7]


@CHAINS
def test_named_assistants_stand_in_their_order_each_with_a_stage_of_its_own(cls):
    method = make(cls, assistants=("w7", "w5"), assistant_epochs=3)
    assert widths(method) == [7, 5]
    first, second, last = method.stages()
    assert [(stage.name, stage.epochs) for stage in (first, second, last)] == [
        ("assistant1", 3),
        ("assistant2", 3),
        ("student", None),
    ]
    assert [stage.trains for stage in (first, second, last)] == [
        (method.assistants[0],),
        (method.assistants[1],),
        (method.student,),
    ]
    assert [stage.network for stage in (first, second, last)] == [
        method.assistants[0],
        method.assistants[1],
        None,
    ]
    assert method.deployable() is method.student


@CHAINS
@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            ("w9",),
            r"the assistant w9 \([\d,]+ parameters\) is not smaller than the teacher TinyNet",
        ),
        (
            ("w5", "w7"),
            r"the assistant w7 \([\d,]+ parameters\) is not smaller than the assistant w5",
        ),
        (
            ("w6", "w6"),
            r"the assistant w6 \([\d,]+ parameters\) is not smaller than the assistant w6",
        ),
        (
            ("w4",),
            r"the student TinyNet \([\d,]+ parameters\) is not smaller than the assistant w4",
        ),
    ],
)
def test_sizes_that_do_not_fall_are_refused_by_name(cls, names, told):
    with pytest.raises(
        Incompatible, match=rf"^{cls.__module__.rpartition('.')[2]}: {told}"
    ) as caught:
        make(cls, assistants=names)
    assert "from large to small" in caught.value.hint


@CHAINS
def test_a_zoo_without_an_assistant_asks_for_one(cls):
    with pytest.raises(
        Incompatible, match="needs an assistant, and the zoo has none of the teacher's family"
    ) as caught:
        make(cls)
    assert "method.assistants" in caught.value.hint


# ---- who teaches whom ----------------------------------------------------------------------------


@pytest.fixture
def batch():
    index = torch.arange(6)
    plain = batch_of([0, 1, 2, 3, 4, 0])
    return replace(
        plain, x=torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), index=index
    )


def losses_of(method, batch, step=0):
    """The terms of every stage, networks in eval mode so that they answer alike each time."""
    method.eval()
    found = []
    for stage in method.stages():
        found.append(
            {
                name: term.item()
                for name, term in stage.loss(
                    batch, Progress(stage.name, 1, 1, step, 9)
                ).losses.items()
            }
        )
    return found


def plain_kd(setup, student, teacher, batch, **options):
    method = KnowledgeDistillation(
        KnowledgeDistillation.Options(**options),
        replace(setup, student=student, teachers=(teacher,)),
    )
    (terms,) = losses_of(method, batch)
    return pytest.approx(terms, rel=1e-6)


def test_each_link_of_assistants_is_plain_distillation_from_the_one_before(batch):
    world = setup_for(TeacherAssistants)
    method = make(
        TeacherAssistants, world=world, assistants=("w7", "w5"), weight=0.7, temperature=3
    )
    found = losses_of(method, batch)
    chain = [
        method.teacher,
        *(Teacher(network) for network in (*method.assistants, method.student)),
    ]
    for terms, before, network in zip(found, chain, chain[1:], strict=False):
        assert terms == plain_kd(world, network.network, before, batch, weight=0.7, temperature=3)


def test_under_one_teacher_dense_guidance_is_plain_distillation(batch):
    world = setup_for(DenselyGuided)
    method = make(DenselyGuided, world=world, assistants=("w6",), drop=0, temperature=4)
    assert losses_of(method, batch)[0] == plain_kd(
        world, method.assistants[0], method.teacher, batch
    )


@pytest.mark.parametrize("how", ["sum", "mean"])
def test_dense_guidance_adds_up_all_larger_networks(batch, how):
    world = setup_for(DenselyGuided)
    method = make(
        DenselyGuided,
        world=world,
        assistants=("w7", "w5"),
        drop=0,
        temperature=4,
        dense_normalise=how,
    )
    guides = [method.teacher, *(Teacher(network) for network in method.assistants)]
    each = [plain_kd(world, method.student, guide, batch).expected["kd"] for guide in guides]
    assert losses_of(method, batch)[2]["kd"] == pytest.approx(
        sum(each) / (3 if how == "mean" else 1), rel=1e-6
    )


def test_weights_of_both_terms_can_be_given(batch):
    halved, given = (
        make(TeacherAssistants, world=setup_for(TeacherAssistants), assistants=("w6",), **options)
        for options in ({}, {"ce_weight": 1})
    )
    given.load_state_dict(halved.state_dict())
    first, second = losses_of(halved, batch)[0], losses_of(given, batch)[0]
    assert second["ce"] == pytest.approx(10 * first["ce"])
    assert second["kd"] == first["kd"]


# ---- what is dropped -----------------------------------------------------------------------------


@pytest.fixture
def dense():
    return lambda **options: make(DenselyGuided, assistants=("w7", "w6", "w5"), **options)


@pytest.mark.parametrize("drop", [0, 1, 2, 3, 9])
def test_so_many_terms_are_dropped_but_never_all(dense, drop):
    method = dense(drop=drop)
    for step in range(20):
        assert len(method.guides(3, step)) == max(4 - drop, 1)
        assert method.guides(0, step) == [0]


def test_every_guide_is_dropped_as_often_as_the_others(dense):
    method = dense(drop=1)
    counts = Counter(guide for step in range(2000) for guide in method.guides(3, step))
    assert all(abs(count - 1500) < 100 for count in counts.values())
    assert len(counts) == 4


def test_survival_keeps_each_term_by_itself(dense):
    method = dense(survival=0.3)
    drawn = [method.guides(3, step) for step in range(2000)]
    assert min(map(len, drawn)) == 1
    lone = 0.7**4  # nothing survives: one is kept all the same
    assert sum(map(len, drawn)) / 2000 == pytest.approx(4 * 0.3 + lone, abs=0.08)
    certain = dense(survival=1.0)
    assert {len(certain.guides(3, step)) for step in range(20)} == {4}


def test_what_is_dropped_follows_from_seed_stage_and_step_alone(dense):
    one, two = dense(), dense()
    assert [one.guides(3, step) for step in range(50)] == [
        two.guides(3, step) for step in range(50)
    ]
    other = make(
        DenselyGuided, world=setup_for(DenselyGuided, seed=1), assistants=("w7", "w6", "w5")
    )
    assert [one.guides(3, step) for step in range(50)] != [
        other.guides(3, step) for step in range(50)
    ]
    assert [one.guides(2, step) for step in range(50)] != [
        [guide for guide in one.guides(3, step) if guide < 3] for step in range(50)
    ]


def test_a_dropped_network_is_not_run(batch, dense):
    method = dense(drop=3)
    calls = Counter()
    for number, network in enumerate((method.teacher.network, *method.assistants)):
        network.register_forward_hook(lambda *_, number=number: calls.update([number]))
    losses_of(method, batch)
    # one guide for each of four networks, and the three assistants as they learn
    assert sum(calls.values()) == 4 + 3
