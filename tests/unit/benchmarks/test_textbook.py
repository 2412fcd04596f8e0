"""The rival is a loop that works: it learns, and its loss is the one that kd's is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.pairs import BATCH, Noise
from benchmarks.textbook import (
    Textbook,
    TextbookRuns,
    accuracies,
    make_loader,
)
from benchmarks.textbook_step import TEMPERATURE, WEIGHT, distillation_loss
from kdcli import losses
from kdcli.jobs import build_network

CPU = torch.device("cpu")


def networks(pair):
    return [
        build_network(name, num_classes=pair.classes, input_shape=pair.shape)
        for name in (pair.student, pair.teacher)
    ]


def test_it_learns_what_can_be_learnt(pair, noise):
    brightness = np.broadcast_to((noise.y * 25)[:, None, None], noise.x.shape).astype(np.uint8)
    learnable = Noise(noise.path, brightness, noise.y, noise.x_test, noise.y_test)
    loop = Textbook(pair, *networks(pair), make_loader(pair, learnable, 0, train=True), CPU)
    epochs = [loop.epoch() for _ in range(4)]
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].top1 > 10.0
    assert {epoch.images for epoch in epochs} == {4 * BATCH}
    assert all(epoch.seconds > 0 for epoch in epochs)


def test_a_warm_up_takes_the_steps_it_is_given_and_empties_its_workers(pair, noise):
    loader = make_loader(pair, noise, 0, train=True)
    assert Textbook(pair, *networks(pair), loader, CPU).epoch(steps=1).images == BATCH


def test_its_teacher_answers_in_eval_mode_and_stays_as_it_is(pair, noise):
    student, teacher = networks(pair)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    Textbook(pair, student, teacher, make_loader(pair, noise, 0, train=True), CPU).epoch()
    assert not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_its_loss_is_that_of_kd():
    z, v, y = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    ours = (1 - WEIGHT) * losses.cross_entropy(z, y) + WEIGHT * losses.kd(
        z, v, temperature=TEMPERATURE
    )
    assert distillation_loss(z, v, y).item() == pytest.approx(ours.item(), rel=1e-5)


def test_accuracies_count_the_first_and_the_first_five():
    logits = torch.arange(10.0).repeat(4, 1)  # the last class is the first choice
    assert accuracies(logits, torch.tensor([9, 5, 4, 0])) == (25.0, 50.0)
    assert accuracies(logits[:, :3], torch.tensor([2, 0, 1, 0])) == (25.0, 100.0)


def test_pictures_come_cropped_and_normalised_to_one(pair, noise):
    x, y = next(iter(make_loader(pair, noise, 0, train=True)))
    assert x.shape == (BATCH, *pair.shape)
    assert y.dtype == torch.int64
    assert -1.0 <= x.min() <= x.max() <= 1.0


def test_the_best_number_of_workers_is_found_by_trial(pair, noise, teacher, monkeypatch):
    monkeypatch.setattr("benchmarks.textbook.WORKERS", 2)
    monkeypatch.setattr("benchmarks.textbook.TRIED_WORKERS", (0, 1))
    runs = TextbookRuns(pair, noise, teacher)
    assert runs.speeds.keys() == {0, 1, 2}
    assert runs.best == max((0, 1), key=runs.speeds.get)
    assert [segment().images for segment in runs.segments().values()] == [4 * BATCH] * 2
