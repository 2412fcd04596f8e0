"""Residual distillation: two stages, the second on the sum of both networks, and what is
shipped.
"""

from __future__ import annotations

from math import log

import pytest
import torch

from kdcli.methods.residual_kd import Options, ResidualDistillation
from kdcli.modules.composite import Composite
from tests.unit.methods.fixed import fixed_setup, run_stage, values

LOG2 = log(2)

# softmaxes at temperature 1: teacher [1 1 2]/4, student [1 2 1]/4, student + assistant [2 2 1]/5
V, Z, A = [[0.0, 0.0, LOG2]], [[0.0, LOG2, 0.0]], [[LOG2, 0.0, 0.0]]
KL_SUM = sum(
    q * log(q / p) for q, p in zip((1 / 4, 1 / 4, 1 / 2), (2 / 5, 2 / 5, 1 / 5), strict=True)
)


def make(**options) -> ResidualDistillation:
    return ResidualDistillation(
        Options(**{"temperature": 1, **options}), fixed_setup(Z, V, {"student": [A]})
    )


def test_the_student_learns_by_plain_distillation():
    assert values(run_stage(make(weight=0.7), 0, [1])) == pytest.approx(
        {"ce": 0.3 * LOG2, "kd": 0.7 * LOG2 / 4}
    )


def test_the_assistant_learns_what_the_sum_still_lacks():
    assert values(run_stage(make(), 1, [1])) == pytest.approx({"rest": KL_SUM})
    assert values(run_stage(make(assistant_ce_weight=2), 1, [1])) == pytest.approx(
        {"rest": KL_SUM, "ce": 2 * log(5 / 2)}
    )


def test_an_assistant_that_is_the_difference_leaves_nothing():
    rest = [[v - z for v, z in zip(V[0], Z[0], strict=True)]]
    method = ResidualDistillation(Options(), fixed_setup(Z, V, {"student": [rest]}))
    assert values(run_stage(method, 1, [1]))["rest"] == pytest.approx(0, abs=1e-12)


def test_the_student_stays_as_it_is_in_the_second_stage():
    method = make(assistant_epochs=3)
    first, second = method.stages()
    assert (first.trains, first.network, first.epochs) == ((method.student,), method.student, None)
    assert (second.trains, second.network, second.epochs) == ((method.assistant,), None, 3)
    sum(run_stage(method, 1, [1]).losses.values()).backward()
    assert method.student.logits.grad is None
    assert method.assistant.logits.grad.abs().sum() > 0


def test_both_are_shipped_as_the_sum():
    method = make()
    shipped = method.deployable()
    assert isinstance(shipped, Composite)
    torch.testing.assert_close(
        shipped(torch.zeros(1)).logits, torch.tensor([[LOG2, LOG2, 0.0]], dtype=torch.float64)
    )
    assert torch.equal(run_stage(method, 1, [1]).logits, shipped(torch.zeros(1)).logits)
