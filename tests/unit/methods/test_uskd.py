"""Universal self-distillation: which stage its weak head reads, and that nothing of it is shipped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdcli.core.types import Batch, Progress
from kdcli.errors import Incompatible
from kdcli.methods.uskd import Options, UniversalSelfDistillation
from tests.catalogue.conftest import batch, tiny_setup  # noqa: F401  a fixture


def test_the_weak_head_reads_the_stage_before_the_last(batch):  # noqa: F811
    method = UniversalSelfDistillation(Options(), tiny_setup(UniversalSelfDistillation))
    assert method.taps == (("stage2",), ())
    assert method.weak.in_features == method.student.taps["stage2"].channels
    step = method.loss(batch, Progress("train", 1, 2, 0, 2))
    step.losses["weak"].backward()
    early, last = method.student.convs[2], method.student.convs[3]
    assert early.weight.grad is not None
    assert last.weight.grad is None


def test_a_network_of_one_stage_is_refused():
    setup = tiny_setup(UniversalSelfDistillation)
    setup.student.taps = {"stage1": setup.student.taps["stage1"]}
    with pytest.raises(Incompatible, match="the stage before the last, and TinyNet has one stage"):
        UniversalSelfDistillation(Options(), setup)


def test_of_two_classes_nothing_is_left_to_rank():
    setup = tiny_setup(UniversalSelfDistillation)
    setup = replace(setup, data=replace(setup.data, num_classes=2))
    setup.student.head = torch.nn.Linear(setup.student.head.in_features, 2)
    method = UniversalSelfDistillation(Options(), setup)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    two = Batch(x, torch.tensor([0, 1, 1, 0]), torch.arange(4), torch.zeros(4).long())
    step = method.loss(two, Progress("train", 1, 2, 0, 2))
    assert step.losses["others"] == 0
    assert all(value.isfinite() for value in step.losses.values())
