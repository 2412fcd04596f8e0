"""Every number of Measures against a loop that spells its definition out in numpy."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from kdcli.analysis.metrics import correct, mcnemar, measure, per_class_accuracy, rank
from kdcli.core import random
from kdcli.errors import BadData, Incompatible
from kdcli.results.intervals import wilson


def answers(n=60, classes=7, *, scale=2.0, seed=0):
    """Logits off centre, of a network that is right more often than not, and targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64) * scale + 5.0
    logits[torch.arange(n), targets] += scale
    return logits, targets


def by_hand(logits, targets):
    """Measures' means, one sample at a time."""
    sums = dict.fromkeys(("accuracy", "top5", "nll", "entropy", "free_energy", "logit_norm"), 0.0)
    for row, target in zip(logits.numpy(), targets.tolist(), strict=True):
        x = row - row.mean()
        partition = sum(math.exp(value) for value in x)
        p = [math.exp(value) / partition for value in x]
        order = sorted(range(len(x)), key=lambda k: -x[k])
        sums["accuracy"] += order[0] == target
        sums["top5"] += target in order[:5]
        sums["nll"] -= math.log(p[target])
        sums["entropy"] -= sum(share * math.log(share) for share in p)
        sums["free_energy"] += math.log(partition)
        sums["logit_norm"] += math.sqrt(sum(value * value for value in x))
    return {name: value / len(targets) for name, value in sums.items()}


def ece_by_hand(logits, targets, bins=15):
    p = np.exp(logits.numpy() - logits.numpy().max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    error = 0.0
    for low in np.arange(bins) / bins:
        members = [i for i in range(len(p)) if low <= p[i].max() < low + 1 / bins]
        if members:
            accuracy = np.mean([p[i].argmax() == targets[i].item() for i in members])
            error += len(members) / len(p) * abs(accuracy - np.mean([p[i].max() for i in members]))
    return error


@pytest.mark.parametrize(("n", "classes"), [(1, 6), (60, 7), (33, 100)])
def test_every_mean_is_its_definition(n, classes):
    logits, targets = answers(n, classes)
    found, expected = measure(logits, targets), by_hand(logits, targets)
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, abs=1e-9)
    assert found.ece == pytest.approx(ece_by_hand(logits, targets), abs=1e-12)
    assert (found.n, found.split, found.selected) == (n, "test", "last")


def test_top5_says_nothing_with_five_classes_or_fewer():
    assert measure(*answers(classes=5)).top5 is None
    assert measure(*answers(classes=6)).top5 is not None


def test_float32_logits_are_summed_in_float64():
    logits, targets = answers(500, 10)
    single = logits.float()
    assert measure(single, targets) == measure(single.double(), targets)


def test_a_constant_added_to_a_sample_changes_nothing():
    logits, targets = answers()
    moved = logits + torch.linspace(-100, 100, len(logits), dtype=torch.float64)[:, None]
    first, second = measure(logits, targets), measure(moved, targets)
    for name in ("accuracy", "nll", "entropy", "free_energy", "logit_norm"):
        assert getattr(second, name) == pytest.approx(getattr(first, name), abs=1e-9)


def test_the_order_of_samples_and_of_classes_changes_nothing():
    logits, targets = answers()
    samples, classes = (random.permutation(7, size) for size in (60, 7))
    shuffled = measure(logits[samples][:, classes], classes.argsort()[targets[samples]])
    for name in ("accuracy", "top5", "nll", "ece", "entropy", "free_energy", "logit_norm"):
        assert getattr(shuffled, name) == pytest.approx(
            getattr(measure(logits, targets), name), abs=1e-6
        )


def test_scaling_each_sample_leaves_accuracy_and_moves_the_rest():
    logits, targets = answers()
    scales = torch.linspace(0.2, 0.6, len(logits), dtype=torch.float64)[:, None]
    plain, scaled = measure(logits, targets), measure(logits * scales, targets)
    assert (scaled.accuracy, scaled.top5) == (plain.accuracy, plain.top5)
    assert scaled.entropy > plain.entropy
    assert scaled.nll != pytest.approx(plain.nll, rel=0.01)
    assert scaled.ece != pytest.approx(plain.ece, rel=0.01)


def test_ties_go_to_the_first_class_as_in_argmax():
    logits = torch.zeros(6, 6)
    targets = torch.arange(6)
    assert rank(logits, targets).tolist() == [0, 1, 2, 3, 4, 5]
    assert correct(logits, targets).tolist() == (logits.argmax(dim=1) == targets).tolist()
    assert measure(logits, targets).top5 == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_against_published_values(hits, n, low, high):
    interval = wilson(hits, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("only_a", "only_b"), [(1, 6), (10, 10), (3, 0), (0, 0), (25, 8)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    a = torch.tensor([True] * only_a + [False] * only_b + [True] * 5 + [False] * 3)
    b = torch.tensor([False] * only_a + [True] * only_b + [True] * 5 + [False] * 3)
    total, tail = only_a + only_b, min(only_a, only_b)
    expected = min(1.0, 2 * sum(math.comb(total, k) for k in range(tail + 1)) / 2**total)
    assert mcnemar(a, b) == pytest.approx(expected, abs=1e-12)
    assert mcnemar(b, a) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_needs_the_same_samples():
    with pytest.raises(Incompatible, match="2 and 3 samples"):
        mcnemar(torch.ones(2).bool(), torch.ones(3).bool())


def test_per_class_accuracy_names_classes_and_leaves_out_empty_ones():
    logits = torch.eye(4)[torch.tensor([0, 1, 1, 3])]
    targets = torch.tensor([0, 0, 1, 3])
    assert per_class_accuracy(logits, targets, ("cat", "dog", "owl", "fox")) == {
        "cat": 0.5,
        "dog": 1.0,
        "fox": 1.0,
    }


def test_classes_of_one_name_stay_apart():
    logits = torch.eye(3)[torch.tensor([0, 1, 1])]
    assert per_class_accuracy(logits, torch.tensor([0, 1, 2]), ("crane", "ox", "crane")) == {
        "crane (0)": 1.0,
        "ox": 1.0,
        "crane (2)": 0.0,
    }


def test_class_names_must_be_one_a_class():
    with pytest.raises(Incompatible, match="predicts 7 classes, the data has 2"):
        per_class_accuracy(*answers(), ("a", "b"))


@pytest.mark.parametrize(
    ("logits", "targets", "error", "message"),
    [
        (
            torch.zeros(3, 4),
            torch.zeros(2).long(),
            Incompatible,
            r"shape \[3, 4\] for targets of shape \[2\]",
        ),
        (torch.zeros(3), torch.zeros(3).long(), Incompatible, r"not \[n, K\]"),
        (torch.zeros(3, 1), torch.zeros(3).long(), Incompatible, "fewer than 2 classes"),
        (torch.zeros(0, 4), torch.zeros(0).long(), BadData, "no samples to measure net on"),
        (
            torch.zeros(3, 4),
            torch.tensor([0, 4, 1]),
            BadData,
            "labels run from 0 to 4, but net predicts classes 0 to 3",
        ),
        (torch.zeros(3, 4), torch.tensor([0, -1, 1]), BadData, "labels run from -1 to 1"),
        (
            torch.tensor([[0.0, 1.0], [math.nan, 0.0], [0.0, math.inf]]),
            torch.zeros(3).long(),
            BadData,
            "logits of net .* 2 of 3 .* sample 1 ",
        ),
    ],
)
def test_unusable_logits_are_refused_by_name(logits, targets, error, message):
    with pytest.raises(error, match=message):
        measure(logits, targets, label="net")


def test_measuring_does_not_slow_an_epoch_down():
    logits, targets = answers(10_000, 100)
    measure(logits[:10], targets[:10])  # imports
    started = time.process_time()
    measure(logits.float(), targets)
    assert time.process_time() - started < 1.0  # 0.1 s on a free core; the margin is for busy ones


@pytest.mark.parametrize("seen", [range(7), (0, 2, 3)])
def test_balanced_accuracy_and_macro_f1_are_scikit_learns(seen):
    from sklearn.metrics import balanced_accuracy_score, f1_score

    logits, targets = answers(classes=7)
    kept = torch.isin(targets, torch.tensor(list(seen)))  # classes without samples, but predicted
    logits, targets = logits[kept], targets[kept]
    found, said = measure(logits, targets), logits.argmax(1)
    assert len(set(targets.tolist())) == len(seen)
    # scikit-learn's own number warns of classes that are predicted only, and leaves them out
    by_class = [(said[targets == k] == k).double().mean().item() for k in seen]
    assert found.balanced_accuracy == pytest.approx(np.mean(by_class), abs=1e-12)
    if len(seen) == 7:
        assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(targets, said))
    assert found.macro_f1 == pytest.approx(f1_score(targets, said, average="macro"), abs=1e-12)
