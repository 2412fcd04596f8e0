"""Born-again networks: what a generation inherits in each variant, from whom, and what is
shipped.
"""

from __future__ import annotations

from math import log

import pytest
import torch

from kdcli.methods.born_again import BornAgain, Options
from kdcli.modules.composite import Composite
from tests.catalogue.conftest import tiny_setup
from tests.unit.methods.fixed import fixed_setup, run_stage, values

LOG2, LOG3 = log(2), log(3)

# softmaxes: teacher [1 1 2]/4, first generation uniform, second (the student) [1 2 1]/4
V, G1, Z = [[0.0, 0.0, LOG2]], [[0.0, 0.0, 0.0]], [[0.0, LOG2, 0.0]]


def make(**options) -> BornAgain:
    return BornAgain(Options(**{"generations": 2, **options}), fixed_setup(Z, V, {"student": [G1]}))


def close(**expected):
    return pytest.approx(expected, rel=1e-9)


def test_each_generation_learns_from_the_one_before_it():
    method = make(ce_weight=0.25, weight=2)
    kl_teacher, kl_first = LOG3 - 1.5 * LOG2, sum(log(1 / 3 / p) for p in (1 / 4, 1 / 2, 1 / 4)) / 3
    assert values(run_stage(method, 0, [1])) == close(ce=0.25 * LOG3, kd=2 * kl_teacher)
    assert values(run_stage(method, 1, [1])) == close(ce=0.25 * LOG2, kd=2 * kl_first)


def test_a_stage_trains_one_generation_and_the_last_is_the_student():
    method = make()
    first, last = method.stages()
    assert (first.name, first.trains, first.network) == (
        "generation1",
        (method.earlier[0],),
        method.earlier[0],
    )
    assert (last.name, last.trains, last.network) == ("generation2", (method.student,), None)
    assert method.deployable() is method.student
    assert [stage.name for stage in make(generations=1).stages()] == ["generation1"]


def test_generations_start_apart():
    method = BornAgain(Options(), tiny_setup(BornAgain))
    first, second, third = (
        torch.cat([p.flatten() for p in network.parameters()])
        for network in (*method.earlier, method.student)
    )
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_the_ensemble_is_the_mean_of_all_softmaxes():
    method = make(ensemble=True)
    shipped = method.deployable()
    assert isinstance(shipped, Composite)
    expected = torch.tensor([[7 / 24, 10 / 24, 7 / 24]], dtype=torch.float64)
    torch.testing.assert_close(shipped(torch.zeros(1)).logits.softmax(1), expected)
    assert list(shipped.members) == [*method.earlier, method.student]


def test_confidence_alone():
    # teachers' rows are sure by 1/2 and by 1/3: weights 3/5 and 2/5
    setup = fixed_setup([*Z, *G1], [*V, *G1])
    method = BornAgain(Options(generations=1, variant="cwtm", ce_weight=0, weight=1), setup)
    assert values(run_stage(method, 0, [1, 0])) == close(ce=0, cwtm=0.6 * LOG2 + 0.4 * LOG3)


def permuted(z, v, **at):
    method = BornAgain(
        Options(generations=1, variant="dkpp", ce_weight=0, weight=1), fixed_setup(z, v)
    )
    return values(run_stage(method, 0, [0] * len(z), **at))["dkpp"]


def test_permuting_equal_classes_changes_nothing():
    assert permuted(Z, V) == pytest.approx(LOG2 / 4)  # the two others are equal


def test_permutations_change_with_image_and_epoch_and_nothing_else():
    rows = 8
    z, v = [[0.0, 1.0, 2.0, 3.0, 4.0]] * rows, [[9.0, 1.0, 2.0, 3.0, 4.0]] * rows
    found = {epoch: permuted(z, v, epoch=epoch, epochs=9) for epoch in range(1, 6)}
    assert len({round(value, 9) for value in found.values()}) > 1
    assert permuted(z, v, epoch=2, epochs=9) == found[2]
    method = BornAgain(Options(generations=1, variant="dkpp"), fixed_setup(z, v))
    run_stage(method, 0, [0] * rows).losses["dkpp"].backward()
    assert len(method.student.logits.grad.unique(dim=0)) > 1  # equal rows, unequal targets
