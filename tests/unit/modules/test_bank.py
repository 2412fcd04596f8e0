"""The memory of contrastive distillation, and what is drawn from it."""

from __future__ import annotations

import math

import pytest
import torch

from kdcli.core import random
from kdcli.modules.bank import ClassSampler, MemoryBank

# classes of 6, 3 and 3 samples, in no order
TARGETS = torch.tensor([2, 0, 1, 0, 0, 2, 1, 0, 0, 1, 2, 0])


def bank(samples=7, width=4):
    with random.seeded(0, "bank"):
        return MemoryBank(samples, width).double()


def vectors(seed, rows=3, width=4):
    drawn = torch.randn(
        rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return drawn / drawn.norm(dim=1, keepdim=True)


def alone(tensor):
    return tensor


INDEX = torch.tensor([[0, 3, 6, 2], [1, 0, 5, 4], [2, 6, 1, 3]])


# ---- the bank ------------------------------------------------------------------------------------


def scores(memory, e, tau):
    return [
        [
            math.exp(sum(m * x for m, x in zip(memory[j].tolist(), row, strict=True)) / tau)
            for j in line
        ]
        for row, line in zip(e.tolist(), INDEX.tolist(), strict=True)
    ]


def test_ratios_are_scores_over_a_constant_that_the_first_minibatch_sets():
    memory, e = bank(), vectors(0)
    expected = scores(memory.memory, e, 0.5)
    z = sum(map(sum, expected)) / 12 * 7
    torch.testing.assert_close(
        memory.ratios(e, INDEX, 0.5, alone), torch.tensor(expected, dtype=torch.float64) / z
    )
    assert memory.normaliser.item() == pytest.approx(z)
    later = scores(memory.memory, vectors(1), 0.5)
    torch.testing.assert_close(
        memory.ratios(vectors(1), INDEX, 0.5, alone), torch.tensor(later, dtype=torch.float64) / z
    )
    assert memory.normaliser.item() == pytest.approx(z)


def test_the_constant_is_the_mean_over_ranks():
    e = vectors(0)
    one, two = bank(), bank()
    one.ratios(e, INDEX, 0.5, alone)
    two.ratios(e, INDEX, 0.5, lambda mean: torch.cat([mean, 3 * mean]))
    torch.testing.assert_close(two.normaliser, 2 * one.normaliser)


def test_the_gradient_is_that_of_the_vectors_although_rows_move_before_it_is_taken():
    memory = bank().eval()

    def ratios(e):
        return memory.ratios(e, INDEX, 0.5, alone)

    memory.normaliser.fill_(3.0)
    assert torch.autograd.gradcheck(ratios, vectors(0).requires_grad_())
    e, same = vectors(0).requires_grad_(), vectors(0).requires_grad_()
    ratios(e).sum().backward()
    memory.train()
    later = ratios(same).sum()
    memory.update(torch.tensor([0, 1, 2]), vectors(1), 0.5)
    later.backward()
    torch.testing.assert_close(same.grad, e.grad)


def test_rows_follow_their_vectors():
    memory, e = bank(), vectors(0)
    before = memory.memory.clone()
    memory.update(torch.tensor([4, 0, 5]), e, 0.3)
    for row, vector in ((4, e[0]), (0, e[1]), (5, e[2])):
        mixed = 0.3 * before[row] + 0.7 * vector
        torch.testing.assert_close(memory.memory[row], mixed / math.hypot(*mixed.tolist()))
    for row in (1, 2, 3, 6):
        assert torch.equal(memory.memory[row], before[row])


def test_of_a_sample_that_comes_twice_the_last_vector_is_kept():
    memory, other, e = bank(), bank(), vectors(0)
    memory.update(torch.tensor([4, 2, 4]), e, 0.5)
    other.update(torch.tensor([2, 4]), e[1:], 0.5)
    assert torch.equal(memory.memory, other.memory)


def test_nothing_moves_in_eval_mode():
    memory = bank().eval()
    before = memory.memory.clone()
    memory.ratios(vectors(0), INDEX, 0.5, alone)
    memory.update(torch.tensor([4, 0, 5]), vectors(0), 0.5)
    assert torch.equal(memory.memory, before)
    assert memory.normaliser == 0


def test_memory_and_constant_are_saved():
    memory, other = bank(), MemoryBank(7, 4).double()
    memory.ratios(vectors(0), INDEX, 0.5, alone)
    memory.update(torch.tensor([4, 0, 5]), vectors(0), 0.5)
    other.load_state_dict(memory.state_dict())
    assert set(memory.state_dict()) == {"memory", "normaliser"}
    assert torch.equal(
        other.ratios(vectors(1), INDEX, 0.5, alone), memory.ratios(vectors(1), INDEX, 0.5, alone)
    )


def test_rows_begin_with_a_norm_of_about_one():
    squares = bank(2000, 128).memory.square().sum(1)
    assert squares.mean().item() == pytest.approx(1, abs=0.01)
    assert bank(2000, 128).memory.abs().max() <= (3 / 128) ** 0.5


def test_autocast_changes_nothing():
    memory, e = bank().float().eval(), vectors(0).float()
    expected = memory.ratios(e, INDEX, 0.07, alone)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(memory.ratios(e, INDEX, 0.07, alone), expected)


# ---- the draws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 6])
def test_others_are_of_other_classes_and_none_comes_twice(count):
    sampler, everyone = ClassSampler(TARGETS), torch.arange(12)
    assert sampler.others == 6
    for step in range(50):
        drawn = sampler.sample_others(everyone, count, random.key(0, "test", step))
        assert drawn.shape == (12, count)
        assert (TARGETS[drawn] != TARGETS.unsqueeze(1)).all()
        assert all(len(set(line)) == count for line in drawn.tolist())


def test_a_draw_is_a_function_of_the_key_and_of_the_sample():
    sampler = ClassSampler(TARGETS)
    whole = sampler.sample_others(torch.arange(12), 3, 5)
    assert torch.equal(sampler.sample_others(torch.tensor([7, 2]), 3, 5), whole[[7, 2]])
    assert not torch.equal(sampler.sample_others(torch.arange(12), 3, 6), whole)
    same = sampler.sample_same(torch.arange(12), 5)
    assert torch.equal(sampler.sample_same(torch.tensor([7, 2]), 5), same[[7, 2]])


def test_every_sample_of_another_class_is_as_likely():
    sampler, steps, count = ClassSampler(TARGETS), 1500, 2
    index = torch.tensor([1, 2])  # of the classes of six and of three
    drawn = torch.stack(
        [sampler.sample_others(index, count, random.key(1, "test", step)) for step in range(steps)]
    )
    for line, others in ((0, 6), (1, 9)):
        counts = torch.bincount(drawn[:, line].flatten(), minlength=12)
        possible = counts[TARGETS[index[line]] != TARGETS]
        expected = steps * count / others
        assert len(possible) == others
        assert (possible - expected).abs().max() < 5 * expected**0.5


def test_pairs_of_others_are_as_likely_as_each_other():
    # without replacement, two of six: each of the 15 pairs once in 15
    sampler, steps = ClassSampler(TARGETS), 1500
    pairs = [
        tuple(
            sorted(
                sampler.sample_others(torch.tensor([1]), 2, random.key(2, "test", step))[0].tolist()
            )
        )
        for step in range(steps)
    ]
    counts = [pairs.count(pair) for pair in set(pairs)]
    assert len(counts) == 15
    assert max(abs(count - steps / 15) for count in counts) < 5 * (steps / 15) ** 0.5


def test_a_positive_is_of_the_same_class_and_any_of_it():
    sampler, everyone = ClassSampler(TARGETS), torch.arange(12)
    drawn = torch.stack(
        [sampler.sample_same(everyone, random.key(0, "test", step)) for step in range(300)]
    )
    assert (TARGETS[drawn] == TARGETS).all()
    for sample in range(12):
        assert set(drawn[:, sample].tolist()) == set(
            torch.nonzero(TARGETS[sample] == TARGETS).flatten().tolist()
        )


def test_what_follows_from_the_data_is_not_saved():
    assert not ClassSampler(TARGETS).state_dict()


@pytest.mark.gpu
def test_nothing_waits_for_the_device():
    memory, sampler = MemoryBank(12, 4).cuda(), ClassSampler(TARGETS).cuda()
    e, index = vectors(0).float().cuda().requires_grad_(), torch.tensor([4, 0, 4]).cuda()

    def step():
        drawn = torch.cat(
            [sampler.sample_same(index, 1).unsqueeze(1), sampler.sample_others(index, 5, 1)], 1
        )
        memory.ratios(e, drawn, 0.07, alone).sum().backward()
        memory.update(index, e, 0.5)

    step()  # the first call sets libraries up
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
