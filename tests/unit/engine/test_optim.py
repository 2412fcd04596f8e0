"""Optimisers are torch's own; learning rates are functions of the step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdcli.engine.optim import learning_rate, make_optimiser
from kdcli.engine.separate_momenta import SeparateMomenta
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


# ---- separate momenta ----------------------------------------------------------------------------


def losses_of(parameters, step):
    """A loss on labels of the first two parameters, the rest's of the last two."""
    first, both, last = parameters
    labels = ((first * both).sum() - 1 - step).square()
    rest = (both * last).sin().sum() * (step + 1)
    return labels, rest


def fresh_parameters():
    draw = torch.Generator().manual_seed(3)
    return [
        torch.nn.Parameter(torch.randn(3, dtype=torch.float64, generator=draw)) for _ in range(3)
    ]


@pytest.mark.parametrize("clip", [None, 0.5])
def test_momenta_of_labels_and_of_the_rest_are_kept_apart(clip):
    lr, momentum, dot, decay = 0.01, 0.9, 0.075, 0.1
    ours = fresh_parameters()
    optimiser = SeparateMomenta(ours, lr=lr, momentum=momentum, dot=dot, weight_decay=decay)
    theirs = [parameter.detach().clone() for parameter in ours]
    # by hand: [labels, rest] of each parameter
    held = [[None, None] for _ in theirs]
    for step in range(5):
        optimiser.collect(*losses_of(ours, step))
        if clip is not None:
            optimiser.clip(clip)
        optimiser.step()
        leaves = [parameter.clone().requires_grad_() for parameter in theirs]
        labels, rest = losses_of(leaves, step)
        a = torch.autograd.grad(labels, leaves, allow_unused=True)
        b = torch.autograd.grad(rest, leaves, allow_unused=True)
        norm = sum(
            (u if v is None else v if u is None else u + v).square().sum()
            for u, v in zip(a, b, strict=True)
        ).sqrt()
        factor = 1.0 if clip is None else min(1.0, clip / (norm.item() + 1e-6))
        for place, (u, v) in enumerate(zip(a, b, strict=True)):
            own = momentum if u is None or v is None else None
            for number, gradient in enumerate((u, v)):
                if gradient is None:
                    continue
                first = number == 0 or u is None
                scaled = gradient * factor + (decay * theirs[place] if first else 0)
                rate = own if own is not None else momentum + (-dot, dot)[number]
                before = held[place][number]
                held[place][number] = scaled if before is None else rate * before + scaled
            moved = sum(each for each in held[place] if each is not None)
            theirs[place] = theirs[place] - lr * moved
    for parameter, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-9, atol=1e-12)


def test_momenta_that_do_not_differ_are_one():
    """By linearity the two buffers add up to that of plain SGD."""
    ours, theirs = fresh_parameters(), fresh_parameters()
    apart = SeparateMomenta(ours, lr=0.01, momentum=0.9, dot=0.0, weight_decay=0.1)
    plain = torch.optim.SGD(theirs, lr=0.01, momentum=0.9, weight_decay=0.1)
    for step in range(4):
        for part in (0, 1):  # accumulated
            apart.collect(*(loss / 2 for loss in losses_of(ours, step + part)))
            (sum(losses_of(theirs, step + part)) / 2).backward()
        apart.step()
        plain.step()
        plain.zero_grad()
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
