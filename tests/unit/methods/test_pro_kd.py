"""Progressive distillation: which checkpoint teaches when, what is loaded when, the two losses, and
orders that are refused.
"""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch

from kdcli.core.teacher import Teacher
from kdcli.core.types import Progress
from kdcli.errors import Incompatible
from kdcli.methods.pro_kd import Options, ProgressiveDistillation
from tests.golden.conftest import GivenLogits
from tests.unit.methods.fixed import fixed_setup, run_stage, values

LOG2 = log(2)
ROWS = {"c1": [[0.0, 0.0, 0.0]], "c2": [[0.0, 0.0, LOG2]], "teacher": [[0.0, 0.0, 2 * LOG2]]}
EPOCHS = {"c1": 10, "c2": 20, "teacher": 30}


class World:
    """A teacher with checkpoints; remembers what was loaded."""

    def __init__(self, epochs=EPOCHS, history=("c1", "c2", "teacher")):
        self.loaded: list[str] = []
        self.epochs = epochs
        plain = fixed_setup([[0.0, LOG2, 0.0]], ROWS["teacher"])
        teacher = Teacher(GivenLogits(ROWS["teacher"]), epoch=epochs["teacher"])
        self.setup = replace(plain, teachers=(teacher,), load=self.load, history=history)

    def load(self, path):
        self.loaded.append(path)
        return Teacher(GivenLogits(ROWS[path]), epoch=self.epochs[path])

    def method(self, **options) -> ProgressiveDistillation:
        return ProgressiveDistillation(Options(**options), self.setup)


def at(epoch, epochs, stage="follow"):
    return Progress(stage, epoch, epochs, 0, 1)


# ---- who teaches when ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "places"),
    [
        (3, [0, 1, 2]),
        (6, [0, 0, 1, 1, 2, 2]),
        (4, [0, 1, 2, 2]),
        (7, [0, 0, 1, 1, 2, 2, 2]),
        (2, [1, 2]),
        (1, [2]),
    ],
)
def test_checkpoints_share_the_epochs_and_the_last_epoch_is_the_teachers(epochs, places):
    method = World().method()
    assert [method.place(at(epoch, epochs)) for epoch in range(1, epochs + 1)] == places


def test_epochs_for_each_checkpoint_make_the_length_of_the_stage():
    method = World().method(epochs_per_checkpoint=4, final_ce_epochs=5, final_lr=0.01)
    follow, labels = method.stages()
    assert (follow.name, follow.epochs, follow.trains) == ("follow", 12, (method.student,))
    assert (labels.name, labels.epochs, labels.trains, labels.optim) == (
        "labels",
        5,
        (method.student,),
        {"lr": 0.01},
    )
    assert [method.place(at(epoch, 12)) for epoch in range(1, 13)] == [0] * 4 + [1] * 4 + [2] * 4
    assert World().method().stages()[0].epochs is None


def test_the_phase_on_labels_can_be_left_out():
    assert [stage.name for stage in World().method(final_ce_epochs=0).stages()] == ["follow"]


def test_a_checkpoint_is_loaded_when_its_turn_comes_and_once():
    world = World()
    method = world.method()
    assert world.loaded == ["c1", "c2"]  # looked at before anything is trained
    world.loaded.clear()
    for epoch in range(1, 7):
        method.on_epoch(at(epoch, 6))
    assert world.loaded == ["c1", "c2"]
    method.on_epoch(at(1, 2, "labels"))
    assert world.loaded == ["c1", "c2"]


def test_resuming_in_the_middle_loads_the_right_one():
    world = World()
    method = world.method()
    world.loaded.clear()
    method.on_epoch(at(4, 6))
    assert world.loaded == ["c2"]
    assert torch.equal(
        method._loaded[1].network.logits, torch.tensor(ROWS["c2"], dtype=torch.float64)
    )


def test_named_checkpoints_come_before_the_teacher():
    world = World(history=())
    method = world.method(checkpoints=("c2",))
    assert [method.place(at(epoch, 2)) for epoch in (1, 2)] == [0, 1]
    assert world.loaded == ["c2"]


# ---- losses --------------------------------------------------------------------------------------


def test_the_share_of_the_logits_grows_to_the_whole():
    method = World().method(weight=2)
    found = [values(run_stage(method, 0, [1], epoch=epoch, epochs=3)) for epoch in (1, 2, 3)]
    # z = [0 1 0] log 2 against 1/3 [0 0 0], 2/3 [0 0 1] and 3/3 [0 0 2] log 2
    expected = [2 * LOG2**2 * square / 3 for square in (1, 1 + 4 / 9, 1 + 4)]
    assert found == [pytest.approx({"pro_kd": value}) for value in expected]


def test_the_temperature_falls_to_one():
    method = World().method(loss="kl", max_temperature=3, ce_weight=0.5)
    found = [values(run_stage(method, 0, [1], epoch=epoch, epochs=3)) for epoch in (1, 2, 3)]

    def kl(v, tau):
        p, q = (
            torch.tensor(row, dtype=torch.float64).div(tau).softmax(0)
            for row in ([0.0, LOG2, 0.0], v)
        )
        return tau**2 * (q * (q / p).log()).sum().item()

    for terms, name, tau in zip(found, ("c1", "c2", "teacher"), (3, 2, 1), strict=True):
        assert terms == pytest.approx({"pro_kd": kl(ROWS[name][0], tau), "ce": 0.5 * LOG2})


def test_the_last_phase_is_cross_entropy_and_asks_no_teacher():
    method = World().method()
    method.teacher_nets = ()
    assert values(run_stage(method, 1, [1])) == pytest.approx({"ce": LOG2})


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [(), ("teacher",)])
def test_a_teacher_that_kept_nothing_is_refused(history):
    with pytest.raises(
        Incompatible, match="pro_kd follows the checkpoints along its teacher's training"
    ) as caught:
        World(history=history).method()
    assert "-s train.keep_every" in caught.value.hint


def test_an_order_that_goes_back_is_refused_by_name():
    with pytest.raises(
        Incompatible, match=r"c2 had 20 epochs of training, and c1, which comes after it, had 10"
    ):
        World().method(checkpoints=("c2", "c1"))
    with pytest.raises(
        Incompatible,
        match=r"c2 had 50 epochs of training, and the teacher itself, which comes after it, had 30",
    ):
        World(epochs={**EPOCHS, "c2": 50}).method()


def test_checkpoints_that_do_not_say_are_taken_as_they_come():
    assert World(epochs={**EPOCHS, "c1": None}).method(checkpoints=("c1", "c2"))
