"""Scores of a teacher's answers, against their definitions written out sample by sample in
float64.
"""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.advice import METHODS, SCORES, answer_scores
from kdcli.errors import BadData, Incompatible, UsageError

N, K = 60, 5


def answers(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(N) % K
    v = torch.randn(N, K, generator=generator) + 2 * torch.nn.functional.one_hot(y, K)
    return v, y


def by_hand(v: torch.Tensor, y: torch.Tensor, tau: float) -> dict[str, float]:
    rows = [[math.exp(x / tau) for x in row] for row in v.double().tolist()]
    q = [[x / sum(row) for x in row] for row in rows]
    labels = y.tolist()
    n = len(q)
    entropy = sum(-p * math.log(p) for row in q for p in row) / n
    means = {
        c: [
            sum(row[k] for row, label in zip(q, labels, strict=True) if label == c)
            / labels.count(c)
            for k in range(K)
        ]
        for c in range(K)
    }
    beyond = (
        sum(
            p * math.log(p / m)
            for row, label in zip(q, labels, strict=True)
            for p, m in zip(row, means[label], strict=True)
        )
        / n
    )
    brier = (
        sum(
            (p - (k == label)) ** 2
            for row, label in zip(q, labels, strict=True)
            for k, p in enumerate(row)
        )
        / n
    )
    spread = sum(float(torch.std(row)) for row in v.double()) / n
    errors = (
        100
        * sum(
            max(range(K), key=row.__getitem__) != label
            for row, label in zip(q, labels, strict=True)
        )
        / n
    )
    return {
        "beyond_class": beyond,
        "in_the_loss": tau**2 * beyond,
        "truth": -brier,
        "shortness": -spread / tau,
        "promise kd": -0.3 * errors - 0.6 * math.log(tau**2 * (math.log(K) - entropy)),
        "promise skd": -0.3 * errors - 0.6 * math.log(1 + spread / tau),
    }


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_each_score_is_what_it_is_said_to_be(tau):
    v, y = answers()
    found, expected = answer_scores(v, y, [tau]), by_hand(v, y, tau)
    for method in METHODS:
        scores = found[method, tau]
        assert scores.keys() == SCORES.keys()
        assert scores["promise"] == pytest.approx(expected[f"promise {method}"], rel=1e-6)
        for name in ("beyond_class", "in_the_loss", "truth", "shortness"):
            assert scores[name] == pytest.approx(expected[name], rel=1e-6)


def test_samples_classes_and_a_shift_of_the_logits_may_come_in_any_order():
    v, y = answers()
    order, classes = (
        torch.randperm(N, generator=torch.Generator().manual_seed(1)),
        torch.tensor([3, 1, 4, 0, 2]),
    )
    moved = (v + torch.linspace(-5, 5, N)[:, None])[order][:, classes]
    found, expected = (
        answer_scores(moved, classes.argsort()[y[order]], [4.0]),
        answer_scores(v, y, [4.0]),
    )
    for where, scores in expected.items():
        assert found[where] == pytest.approx(scores, rel=1e-5)


def test_longer_logits_promise_less_by_kd_and_lose_less_by_skd():
    v, y = answers()
    short, long = (answer_scores(scale * v, y, [9.0]) for scale in (1, 5))
    loss = {
        method: short[method, 9.0]["promise"] - long[method, 9.0]["promise"] for method in METHODS
    }
    assert loss["kd"] > loss["skd"] > 0


def test_what_cannot_be_scored_is_refused():
    v, y = answers()
    with pytest.raises(UsageError, match="temperature"):
        answer_scores(v, y, [0.0])
    with pytest.raises(Incompatible, match="2 classes"):
        answer_scores(v[:, :2], y % 2, [1.0])
    with pytest.raises(BadData, match="sample 3"):
        answer_scores(v.index_fill(0, torch.tensor([3]), math.nan), y, [1.0])
    with pytest.raises(BadData, match="constant"):
        answer_scores(torch.ones(N, K), y, [1.0])
