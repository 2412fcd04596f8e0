"""CRD: what it compares, draws, remembers and refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from kdcli.core import random
from kdcli.core.types import Batch, Progress
from kdcli.engine.trainer import set_modes
from kdcli.errors import Incompatible
from kdcli.methods.crd import ContrastiveRepresentation
from tests.catalogue.conftest import tiny_setup

CLASSES = torch.arange(20) % 5  # of the tiny world


def pictures(count):
    """Pictures of four squares in colours of their own, so that a small network tells them
    apart.
    """
    colours = torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    x = 3 * colours.repeat_interleave(4, 2).repeat_interleave(4, 3)
    index = torch.arange(count)
    return Batch(x, CLASSES[:count], index, torch.zeros_like(index))


def at(step):
    return Progress("distill", epoch=1 + step // 3, epochs=2, step=step, steps=6)


def crd(gather=None, targets=None, **options):
    setup = tiny_setup(ContrastiveRepresentation)
    if gather is not None:
        setup = replace(setup, gather=gather)
    if targets is not None:
        setup = replace(setup, data=replace(setup.data, targets=targets, num_train=len(targets)))
    with random.seeded(0, "method"):
        method = ContrastiveRepresentation(ContrastiveRepresentation.Options(**options), setup)
    set_modes(method, method.stages()[0])
    return method


def remembered(method):
    return [method.student_memory.memory.clone(), method.teacher_memory.memory.clone()]


def embedded(method, batch):
    """Unit vectors of both networks by plain arithmetic, as lists of rows."""
    found = []
    for network, layer in (
        (method.student, method.embed_student),
        (method.teacher.network, method.embed_teacher),
    ):
        h = network(batch.x, ("pooled",)).taps["pooled"].detach()
        rows = [
            [
                sum(w * x for w, x in zip(weights, row, strict=True)) + b
                for weights, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            ]
            for row in h.tolist()
        ]
        found.append([[x / math.hypot(*row) for x in row] for row in rows])
    return found


def test_each_side_is_scored_against_the_others_memory():
    method, batch = crd(negatives=6, width=8, weight=0.5), pictures(4)
    method.eval()
    e_s, e_t = embedded(method, batch)
    drawn = method._sample(batch, at(0)).tolist()
    total = 0.0
    for vectors, memory in ((e_s, method.teacher_memory), (e_t, method.student_memory)):
        rows = memory.memory.tolist()
        scores = [
            [math.exp(sum(m * x for m, x in zip(rows[j], e, strict=True)) / 0.07) for j in line]
            for e, line in zip(vectors, drawn, strict=True)
        ]
        z, c = sum(map(sum, scores)) / (4 * 7) * 20, 6 / 20
        for first, *others in scores:
            total -= math.log(first / z / (first / z + c)) + sum(
                math.log(c / (o / z + c)) for o in others
            )
    assert method.loss(batch, at(0)).losses["crd"].item() == pytest.approx(
        0.5 * total / 4, rel=1e-4
    )


@pytest.mark.parametrize("mode", ["exact", "relax"])
def test_the_positive_is_the_image_or_one_of_its_class_and_negatives_are_of_others(mode):
    method, batch = crd(mode=mode, negatives=9), pictures(16)
    positives = set()
    for step in range(20):
        drawn = method._sample(batch, at(step))
        assert drawn.shape == (16, 10)
        assert (CLASSES[drawn[:, 0]] == batch.y).all()
        assert (CLASSES[drawn[:, 1:]] != batch.y.unsqueeze(1)).all()
        positives.add(tuple(drawn[:, 0].tolist()))
    assert (positives == {tuple(range(16))}) == (mode == "exact")


def test_every_step_draws_anew_and_the_same_again():
    batch = pictures(4)
    draws = [crd(negatives=5)._sample(batch, at(step)) for step in range(4)]
    assert all(not torch.equal(draws[a], draws[b]) for a in range(4) for b in range(a))
    assert torch.equal(crd(negatives=5)._sample(batch, at(2)), draws[2])
    half = Batch(batch.x[2:], batch.y[2:], batch.index[2:], batch.view[2:])
    assert torch.equal(crd(negatives=5)._sample(half, at(2)), draws[2][2:])


def test_a_step_moves_the_rows_of_its_images_and_sets_z_once():
    method, batch = crd(), pictures(4)
    before = remembered(method)
    vectors = [torch.tensor(rows) for rows in embedded(method.eval(), batch)]
    method.loss(batch, at(0))
    # in eval mode nothing moves
    assert all(torch.equal(a, b) for a, b in zip(remembered(method), before, strict=True))
    method.train()
    method.student.eval()  # so that its vectors are those above
    method.loss(batch, at(0))
    for after, old, e in zip(remembered(method), before, vectors, strict=True):
        mixed = 0.5 * old[:4] + 0.5 * e
        torch.testing.assert_close(after[:4], mixed / mixed.norm(dim=1, keepdim=True))
        assert torch.equal(after[4:], old[4:])
    z = method.student_memory.normaliser.clone()
    assert z > 0
    method.loss(pictures(8), at(1))
    assert method.student_memory.normaliser == z


def test_memories_and_z_are_resumed():
    method, other = crd(), crd()
    for step in range(2):
        method.loss(pictures(8), at(step))
    state = {name: value.clone() for name, value in method.state_dict().items()}
    assert {
        f"{side}_memory.{what}"
        for side in ("student", "teacher")
        for what in ("memory", "normaliser")
    } <= set(state)
    other.load_state_dict(state)
    for step in range(2, 5):
        assert torch.equal(
            method.loss(pictures(8), at(step)).losses["crd"],
            other.loss(pictures(8), at(step)).losses["crd"],
        )


def test_the_vectors_of_all_ranks_are_remembered():
    def two_ranks(tensor):  # the other rank has the images eight further on, and the same vectors
        return torch.cat([tensor, tensor + 8 if tensor.dtype == torch.int64 else tensor])

    alone, method = crd(), crd(gather=two_ranks)
    before = remembered(method)
    alone.loss(pictures(4), at(0))
    method.loss(pictures(4), at(0))
    for one, both, old in zip(remembered(alone), remembered(method), before, strict=True):
        assert torch.equal(both[:4], one[:4])
        assert torch.equal(both[4:8], old[4:8])
        assert not torch.isclose(both[8:12], old[8:12]).all(1).any()


def test_what_it_rewards_is_that_vectors_of_one_image_are_near_and_of_other_classes_are_not():
    method, batch = crd(negatives=8, width=8), pictures(20)
    free = torch.randn(
        2, 20, 8, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()  # instead of what networks would give
    optimiser = torch.optim.Adam([free], lr=0.05)
    for step in range(60):
        e_s, e_t = functional.normalize(free, dim=-1)
        drawn = method._sample(batch, at(step))
        optimiser.zero_grad()
        (
            method._side(method.teacher_memory, e_s, drawn)
            + method._side(method.student_memory, e_t, drawn)
        ).backward()
        optimiser.step()
        method.student_memory.update(batch.index, e_s, 0.5)
        method.teacher_memory.update(batch.index, e_t, 0.5)
    cosines = e_s @ e_t.T
    assert cosines.diagonal().mean() > 0.8
    assert cosines[batch.y.unsqueeze(1) != batch.y].mean() < 0.1


def test_negatives_are_all_that_there_are_or_16384():
    assert crd().negatives == 16
    assert crd(targets=torch.arange(40_000) % 10).negatives == 16_384
    # an image of the large class has one image of another
    assert crd(targets=torch.tensor([0, 0, 0, 1])).negatives == 1


def test_more_negatives_than_there_are_images_of_other_classes_are_refused_by_name():
    assert crd(negatives=16).negatives == 16
    with pytest.raises(
        Incompatible,
        match=(
            "crd is to draw 17 negatives, and images of the largest class of tiny have 16 of other"
        ),
    ) as caught:
        crd(negatives=17)
    assert caught.value.hint == "method.negatives = 16 or less"


def test_one_class_is_refused():
    with pytest.raises(
        Incompatible,
        match="crd needs images of other classes, and all that tiny trains on are of one",
    ):
        crd(targets=torch.zeros(6, dtype=torch.int64))
