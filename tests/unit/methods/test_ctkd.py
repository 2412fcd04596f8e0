"""Curriculum temperature: where it starts, whom its gradient serves, how the curriculum rises, and
that no temperature leaves its bounds.
"""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from kdcli import losses
from kdcli.core.types import Progress
from kdcli.engine.checkpoint import digest, load_state
from kdcli.engine.trainer import Hooks
from kdcli.errors import Interrupted, KdError
from kdcli.methods import ctkd
from kdcli.modules.temperature import LearntTemperature
from kdcli.recipe.resolve import resolve
from tests.catalogue.conftest import batch, tiny_setup  # noqa: F401  a fixture
from tests.catalogue.training import make_trainer

Z, V = (
    torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
    for i in (0, 1)
)


class InstanceOptions(ctkd.Options):
    """As they are in the catalogue, but for the kind."""

    kind: Literal["global", "instance"] = "instance"


class Instance(ctkd.CurriculumTemperature):
    options: InstanceOptions


def make(**options) -> ctkd.CurriculumTemperature:
    return ctkd.CurriculumTemperature(
        ctkd.Options(**options), tiny_setup(ctkd.CurriculumTemperature)
    )


def at(epoch: int) -> Progress:
    return Progress("distill", epoch, 100, 0, 100)


# where x is 1: the sigmoid of it lies 0.731 of the way
START = 1 + 20 / (1 + math.exp(-1))


def test_every_image_starts_at_the_published_temperature():
    tau = LearntTemperature(1, 21)(Z, V, 1.0)
    assert tau.item() == pytest.approx(START)
    each = LearntTemperature(1, 21, classes=5, width=7)(Z, V, 1.0)
    torch.testing.assert_close(each, torch.full((6,), START))


def test_its_loss_is_that_of_kd_at_this_temperature(batch):  # noqa: F811
    method = make()
    got = method.loss(batch, at(3))
    z, v = method.student(batch.x).logits, method.teacher(batch).logits
    torch.testing.assert_close(got.losses["kd"], 0.9 * losses.kd(z, v, temperature=START))
    torch.testing.assert_close(got.losses["ce"], 0.1 * losses.cross_entropy(z, batch.y))


@pytest.mark.parametrize("kind", ["global", "instance"])
def test_what_lowers_the_students_loss_raises_it_by_the_temperature(kind):
    learnt = LearntTemperature(1, 21, **({} if kind == "global" else {"classes": 5, "width": 7}))
    tau = learnt(Z, V, 0.25)
    losses.kd_learnt(Z, V, tau).backward()
    # dL/dtau by differences, for all images together
    h = 1e-6
    up, down = (losses.kd(Z, V, temperature=START + d) for d in (h, -h))
    slope = (up - down).item() / (2 * h) * 20 * 0.731058 * (1 - 0.731058)
    parameter = learnt.x if kind == "global" else learnt.last.bias
    assert parameter.grad.item() == pytest.approx(-0.25 * slope, rel=1e-4)


def test_a_temperature_of_an_image_sends_no_gradient_to_the_student():
    learnt = LearntTemperature(1, 21, classes=5, width=7)
    torch.nn.init.normal_(learnt.last.weight, generator=torch.Generator().manual_seed(0))
    z = Z.clone().requires_grad_()
    losses.kd_learnt(z, V, learnt(z, V, 1.0)).backward()
    other = Z.clone().requires_grad_()
    losses.kd_learnt(other, V, learnt(Z, V, 1.0).detach()).backward()
    assert torch.equal(z.grad, other.grad)
    assert learnt(Z, V, 1.0).std() > 0.1  # so that there would be one


@pytest.mark.parametrize("x", [-1e30, -100.0, 100.0, 1e30])
@pytest.mark.parametrize("bounds", [(1.0, 21.0), (0.1, 0.3)])
def test_no_temperature_leaves_its_bounds(x, bounds):
    learnt = LearntTemperature(*bounds)
    torch.nn.init.constant_(learnt.x, x)
    tau = learnt(Z, V, 1.0)
    assert tau == torch.tensor(bounds[x > 0])
    losses.kd_learnt(Z, V, tau).backward()
    assert learnt.x.grad.isfinite()


def test_the_curriculum_rises_along_a_cosine_or_a_line_and_may_be_none():
    cosine, line, none = (
        make(**options)._reversal
        for options in (
            {"reversal": 2.0},
            {"reversal": 2.0, "curriculum": "linear"},
            {"reversal": 2.0, "curriculum_epochs": 0},
        )
    )
    for epoch in (1, 4, 10, 11, 99):
        share = min(epoch / 10, 1)
        assert cosine(at(epoch)) == pytest.approx(1 - math.cos(math.pi * share))
        assert line(at(epoch)) == pytest.approx(2 * share)
        assert none(at(epoch)) == 2


def test_temperatures_of_images_are_saved_and_go_on_to_the_very_same_bits(tmp_path):
    straight = make_trainer(Instance, tiny_setup)
    straight.run()
    whole = digest(straight.method.state_dict())
    assert straight.method.temperature.last.bias.item() != 1  # it has learnt
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        make_trainer(
            Instance,
            tiny_setup,
            folder=tmp_path,
            hooks=Hooks(stop=lambda: Interrupted("stop") if next(asked) == 1 else None),
        ).run()
    resumed = make_trainer(Instance, tiny_setup, resume=load_state(tmp_path))
    resumed.run()
    assert digest(resumed.method.state_dict()) == whole


@pytest.mark.parametrize(
    ("given", "key", "message"),
    [
        (
            {"temperature_least": 5, "temperature_most": 5},
            "temperature_least",
            "temperature_least (5) must be below temperature_most (5)",
        ),
        (
            {"width": 64},
            "width",
            (
                'kind "global" has no hidden units, and width would do nothing: leave it out, or '
                'take kind "instance"'
            ),
        ),
        ({"kind": "instance", "width": 0}, "width", "must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_anything_runs(given, key, message):
    sets = [f"method.{key}={value}" for key, value in {"name": "ctkd", **given}.items()]
    with pytest.raises(KdError) as caught:
        resolve("distill", sets=sets, environ={})
    (found,) = caught.value.diagnostics
    assert (found.key, found.problem) == (f"method.{key}", message)
