"""FitNets: where the hint is, and what each of the paper's two stages trains."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from kdcli import losses
from kdcli.core import random
from kdcli.core.types import Progress
from kdcli.engine.events import StageDone
from kdcli.engine.runtime import Runtime
from kdcli.engine.trainer import Hooks, Trainer
from kdcli.errors import Incompatible, UsageError
from kdcli.methods.fitnet import FitNet, Options
from tests.catalogue.conftest import batch, tiny_setup  # noqa: F401  a fixture
from tests.catalogue.test_methods import phases, total
from tests.catalogue.training import SETTINGS, NoiseFeed

JOINT = Progress("distill", epoch=1, epochs=1, step=0, steps=1)


def make(**options) -> FitNet:
    with random.seeded(0, "method"):
        return FitNet(Options(**options), tiny_setup(FitNet))


def batch_norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def ends_with_relu(module: nn.Module) -> bool:
    return isinstance(list(module.modules())[-1], nn.ReLU)


# ---- the hint ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "taps"),
    [
        ({}, ("stage2", "stage2")),
        ({"hint": "stage1"}, ("stage1", "stage1")),
        ({"hint": "stage1", "teacher_hint": "stage3"}, ("stage1", "stage3")),
        ({"hint": "last", "teacher_hint": "stage1"}, ("stage3", "stage1")),
        ({"hint": "stem"}, ("stem", "stem")),
        ({"hint": "stage3.pre"}, ("stage3.pre", "stage3.pre")),
    ],
)
def test_the_hint_can_be_anywhere(options, taps, batch):  # noqa: F811
    method = make(**options).eval()
    assert method.taps == ((taps[0],), (taps[1],))
    s, t = (output.taps[tap] for output, tap in zip(method.read(batch), taps, strict=True))
    torch.testing.assert_close(
        method.loss(batch, JOINT).losses["hint"], 100 * losses.fitnet(method.regressor(s), t)
    )


def test_maps_before_an_activation_are_met_without_one():
    assert ends_with_relu(make().regressor)
    for options in ({"hint": "stage2.pre"}, {"teacher_hint": "stage2.pre"}):
        assert not ends_with_relu(make(**options).regressor)


def test_a_hint_that_is_not_there_is_named():
    with pytest.raises(
        Incompatible, match="fitnet reads 'stage9', which TinyNet does not have"
    ) as caught:
        make(hint="stage9")
    assert "stage3" in caught.value.hint
    with pytest.raises(Incompatible, match="fitnet reads 'stage7'"):
        make(teacher_hint="stage7")


@pytest.mark.parametrize("tap", ["stage*", "pooled", "Stage2", ""])
def test_a_hint_is_one_map(tap):
    with pytest.raises(ValidationError, match="hint"):
        Options(hint=tap)


def test_a_network_without_the_usual_stage_can_be_guided_elsewhere():
    setup = tiny_setup(FitNet)
    setup.student.taps = {
        name: tap for name, tap in setup.student.taps.items() if not name.startswith("stage2")
    }
    with pytest.raises(Incompatible, match="fitnet reads 'stage2'"):
        FitNet(Options(), setup)
    assert FitNet(Options(hint="stage1"), setup).taps.student == ("stage1",)


# ---- one stage, or two ---------------------------------------------------------------------------


def test_the_usual_form_trains_everything_at_once():
    method = make()
    (stage,) = method.stages()
    assert stage.trains == (method,)
    assert batch_norms(method.regressor) == 1


def test_two_stages_train_what_they_say(batch):  # noqa: F811
    method = make(two_stage=True, hint_epochs=7)
    hint, distill = method.stages()
    assert (hint.name, hint.epochs, distill.name, distill.epochs) == ("hint", 7, "distill", None)
    assert batch_norms(method.regressor) == 0
    # stem, stage1, stage2
    guided = {f"student.{part}.{number}" for part in ("convs", "norms") for number in range(3)}
    trained = [
        {name for name, parameter in method.named_parameters() if parameter.requires_grad}
        for _ in phases(method)
    ]
    assert {name.rpartition(".")[0] for name in trained[0]} == guided | {"regressor.conv"}
    assert trained[1] == {
        name for name, _ in method.named_parameters() if name.startswith("student.")
    }


def test_the_first_stage_is_the_hint_alone(batch):  # noqa: F811
    method = make(two_stage=True, weight=5).eval()
    step = method.stages()[0].loss(batch, Progress("hint", 1, 7, 0, 70))
    student, teacher = method.read(batch)
    expected = losses.fitnet(method.regressor(student.taps["stage2"]), teacher.taps["stage2"])
    assert list(step.losses) == ["hint"]
    torch.testing.assert_close(step.losses["hint"], expected)


def test_the_second_stage_anneals_the_logits(batch):  # noqa: F811
    method = make(two_stage=True, temperature=3).eval()
    z, v = method.student(batch.x).logits, method.teacher(batch).logits
    soft = losses.kd(z, v, temperature=3)
    for step, weight in ((0, 4.0), (5, 2.5), (10, 1.0)):
        got = method.stages()[1].loss(batch, Progress("distill", 1, 1, step, 11)).losses
        torch.testing.assert_close(
            got, {"ce": losses.cross_entropy(z, batch.y), "kd": weight * soft}
        )
    other = make(two_stage=True, kd_anneal=[0.5, 0.5], ce_weight=2, temperature=3).eval()
    got = other.stages()[1].loss(batch, Progress("distill", 1, 1, 0, 1)).losses
    torch.testing.assert_close(got, {"ce": 2 * losses.cross_entropy(z, batch.y), "kd": 0.5 * soft})


def test_under_the_trainer_each_stage_moves_its_own_part_and_nothing_else():
    method = make(two_stage=True, hint_epochs=1)
    states, start = [], copy.deepcopy(method.state_dict())

    def remember(event):
        if isinstance(event, StageDone):
            states.append(copy.deepcopy(method.state_dict()))

    settings = replace(SETTINGS, epochs=1)
    Trainer(
        method,
        NoiseFeed(tiny_setup(FitNet).data),
        Runtime("cpu", precision="fp32"),
        settings,
        hooks=Hooks(listeners=[remember]),
    ).run()
    moved = [
        {name for name in start if not torch.equal(before[name], after[name])}
        for before, after in zip([start, states[0]], states, strict=True)
    ]
    deep = {
        name
        for name in start
        if name.startswith(("student.head", "student.convs.3", "student.norms.3"))
    }
    assert moved[0] == {name for name in start if name not in deep}
    assert moved[1] == {name for name in start if name.startswith("student.")}


def test_a_step_of_the_first_stage_lowers_the_hint(batch):  # noqa: F811
    method = make(two_stage=True)
    stage, at = next(phases(method))
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    before = total(stage.loss(batch, at))
    before.backward()
    torch.optim.SGD(trained, lr=1e-3).step()
    assert total(stage.loss(batch, at)) < before


def test_an_option_that_would_do_nothing_is_refused():
    with pytest.raises(UsageError, match=r"kd_weight = 0\.9 would do nothing") as caught:
        make(two_stage=True, kd_weight=0.9)
    assert "kd_anneal" in caught.value.hint
