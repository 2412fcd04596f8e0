"""SLKD: its terms against numbers worked out by hand, whom each stage trains, and whom a gradient
reaches.
"""

from __future__ import annotations

from math import log

import pytest
import torch

from kdcli.errors import UsageError
from kdcli.methods.slkd import Options, SelfLearningTeachers
from tests.catalogue.conftest import tiny_setup
from tests.unit.methods.fixed import fixed_setup, run_stage, values

LOG2 = log(2)

# at temperature 2 the softmaxes are fractions: student and A2 [1 2 1]/4, teacher [1 1 2]/4, A1
# uniform
Z, V = [[0.0, 2 * LOG2, 0.0]], [[0.0, 0.0, 2 * LOG2]]
A1, A2 = [[0.0, 0.0, 0.0]], [[0.0, 2 * LOG2, 0.0]]
KL_V_Z = LOG2 / 4  # (1/4 1/4 1/2) against (1/4 1/2 1/4)
KL_V_A1 = log(3) - 1.5 * LOG2  # log 3 minus the teacher's entropy
CE = log(6 / 4)  # of [1 4 1]/6 with label 1; A2 the same
CE_A1 = log(3)


def make(**options) -> SelfLearningTeachers:
    return SelfLearningTeachers(
        Options(**{"temperature": 2, **options}), fixed_setup(Z, V, {"teacher": [A1, A2]})
    )


def close(**expected):
    return pytest.approx(expected, rel=1e-9)


def kl(p, q):
    return sum(a * log(a / b) for a, b in zip(p, q, strict=True))


def test_two_self_learning_teachers():
    # fused logits at temperature 2: log 2 [0 1/2 0], so softmax [1 sqrt2 1] / (2 + sqrt2)
    root = 2**0.5
    fused = [1 / (2 + root), root / (2 + root), 1 / (2 + root)]
    assert values(run_stage(make(), 0, [1])) == close(
        ce=0.1 * CE,
        kd=0.9 * 4 * KL_V_Z,
        self_ce=CE,
        self_kd=4 * kl(fused, [0.25, 0.5, 0.25]),
        slt1_ce=0.1 * CE_A1,
        slt1_kd=0.9 * 4 * KL_V_A1,
        slt2_ce=0.1 * CE,
        slt2_kd=0.9 * 4 * KL_V_Z,
    )


def test_one_self_learning_teacher_is_followed_as_it_is():
    found = values(
        run_stage(make(self_teachers=1, teacher_weight=2, self_teacher_weight=3), 0, [1])
    )
    assert found == close(
        ce=2 * 0.1 * CE,
        kd=2 * 0.9 * 4 * KL_V_Z,
        self_ce=3 * CE,
        self_kd=3 * 4 * kl([1 / 3] * 3, [0.25, 0.5, 0.25]),
        slt1_ce=0.1 * CE_A1,
        slt1_kd=0.9 * 4 * KL_V_A1,
    )


def test_fusion_is_the_share_of_the_first():
    # A2 answers like the student
    assert values(run_stage(make(fusion=0.0), 0, [1]))["self_kd"] == pytest.approx(0, abs=1e-12)
    assert values(run_stage(make(fusion=1.0), 0, [1]))["self_kd"] == pytest.approx(
        4 * kl([1 / 3] * 3, [0.25, 0.5, 0.25])
    )


def test_without_the_teacher_the_student_follows_the_self_learning_ones_alone():
    found = values(run_stage(make(teacher_weight=0), 0, [1]))
    assert set(found) == {"self_ce", "self_kd", "slt1_ce", "slt1_kd", "slt2_ce", "slt2_kd"}
    assert set(values(run_stage(make(self_teacher_weight=0), 0, [1]))) == {
        "ce",
        "kd",
        "slt1_ce",
        "slt1_kd",
        "slt2_ce",
        "slt2_kd",
    }


@pytest.mark.parametrize("detach", [True, False])
def test_the_released_code_lets_the_student_pull_at_them(detach):
    method = make(detach=detach)
    terms = run_stage(method, 0, [1]).losses
    terms["self_kd"].backward(retain_graph=True)
    pulled = [
        network.logits.grad is not None and bool(network.logits.grad.abs().sum() > 0)
        for network in method.self_teachers
    ]
    assert pulled == [not detach] * 2
    assert method.student.logits.grad.abs().sum() > 0
    method.zero_grad()
    (terms["slt1_kd"] + terms["slt2_ce"]).backward()
    assert method.student.logits.grad is None or method.student.logits.grad.abs().sum() == 0


def test_the_value_does_not_depend_on_detaching():
    assert values(run_stage(make(detach=False), 0, [1])) == values(run_stage(make(), 0, [1]))


def test_sequential_is_the_same_terms_in_two_stages():
    together = values(run_stage(make(), 0, [1]))
    method = make(sequential=True)
    first, second = method.stages()
    assert (first.name, first.trains, first.network) == (
        "self_teachers",
        (method.self_teachers,),
        method.self_teachers[0],
    )
    assert (second.name, second.trains, second.network) == ("student", (method.student,), None)
    before, after = values(run_stage(method, 0, [1])), values(run_stage(method, 1, [1]))
    assert before.keys().isdisjoint(after)
    assert before | after == together


def test_networks_of_one_architecture_start_apart():
    method = SelfLearningTeachers(Options(), tiny_setup(SelfLearningTeachers))
    one, two = (
        torch.cat([parameter.flatten() for parameter in network.parameters()])
        for network in method.self_teachers
    )
    assert (
        one.shape
        == two.shape
        == torch.cat([p.flatten() for p in method.teacher.network.parameters()]).shape
    )
    assert not torch.equal(one, two)
    assert method.deployable() is method.student


def test_a_student_that_would_learn_nothing_is_refused():
    with pytest.raises(
        UsageError, match=r"slkd: method\.teacher_weight and method\.self_teacher_weight are both 0"
    ):
        make(teacher_weight=0, self_teacher_weight=0)


def test_its_teachers_are_watched_by_the_names_of_their_terms():
    method = make()
    assert dict(method.watched()) == {
        "slt1": method.self_teachers[0],
        "slt2": method.self_teachers[1],
    }
    assert list(make(self_teachers=1).watched()) == ["slt1"]
