"""Optimisers are torch's own; learning rates are functions of the step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdcli.engine.optim import learning_rate, make_optimiser
from kdcli.engine.settings import OptimSettings, ScheduleSettings


def rates(
    schedule: ScheduleSettings, *, epochs: int, steps_per_epoch: int, base: float = 1.0
) -> list[float]:
    steps = epochs * steps_per_epoch
    return [
        learning_rate(base, schedule, step=step, steps_per_epoch=steps_per_epoch, steps=steps)
        for step in range(steps)
    ]


def test_multistep_drops_after_its_milestones_counted_in_whole_epochs():
    found = rates(
        ScheduleSettings("multistep", milestones=(2, 3), gamma=0.1),
        epochs=4,
        steps_per_epoch=2,
        base=0.05,
    )
    assert found == pytest.approx([0.05] * 4 + [0.005] * 2 + [0.0005] * 2)


def test_cosine_falls_from_the_rate_to_its_floor():
    found = rates(ScheduleSettings("cosine", floor=0.1), epochs=10, steps_per_epoch=10)
    assert found[0] == 1.0
    assert found[50] == pytest.approx(0.55)
    assert found[-1] == pytest.approx(0.1, abs=1e-3)
    assert found == sorted(found, reverse=True)


def test_warm_up_rises_linearly_and_then_hands_over():
    found = rates(ScheduleSettings("constant", warmup_epochs=0.5), epochs=2, steps_per_epoch=8)
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert found[4:] == [1.0] * 12


def test_constant_is_constant():
    assert set(rates(ScheduleSettings("constant"), epochs=3, steps_per_epoch=3)) == {1.0}


def test_a_cosine_that_is_longer_than_the_training_stops_on_its_way():
    whole = rates(ScheduleSettings("cosine", floor=0.1), epochs=10, steps_per_epoch=3)
    assert (
        rates(ScheduleSettings("cosine", floor=0.1, epochs=10), epochs=4, steps_per_epoch=3)
        == whole[:12]
    )


@pytest.mark.parametrize(
    ("name", "theirs", "arguments"),
    [
        ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        ("adamw", torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.01}),
    ],
)
def test_without_the_compiler_a_step_and_a_state_are_those_of_torch(name, theirs, arguments):
    def trained(make):
        weight = nn.Parameter(torch.linspace(-1, 1, 6))
        optimiser = make([weight])
        for step in range(6):
            if step == 3:  # as a run that is resumed
                state, optimiser = optimiser.state_dict(), make([weight])
                optimiser.load_state_dict(state)
            (weight.sin().sum() * (step + 1)).backward()
            optimiser.step()
            optimiser.zero_grad()
            assert weight.grad is None
        assert weight.is_leaf
        return weight, optimiser.state_dict()

    ours, state = trained(lambda found: make_optimiser(found, OptimSettings(name, arguments)))
    expected, their_state = trained(lambda found: theirs(found, fused=True, **arguments))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    torch.testing.assert_close(state, their_state, rtol=0, atol=0)
