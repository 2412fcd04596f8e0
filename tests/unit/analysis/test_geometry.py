"""Penultimate features: the draw, the projection on three classes, t-SNE, PCA, the silhouette; what
is refused.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_samples

from kdcli.analysis.geometry import (
    check_features,
    choose_classes,
    project,
    sample_of_each_class,
    silhouette,
    tsne,
)
from kdcli.errors import BadData, Incompatible, UsageError

K, D = 5, 7


def clusters(each=12, classes=K, dimensions=D, spread=1.0, seed=0):
    """(features, targets, class means), the samples in no order."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(classes).repeat_interleave(each)[
        torch.randperm(classes * each, generator=generator)
    ]
    means = torch.randn(classes, dimensions, generator=generator, dtype=torch.float64) * 3
    noise = torch.randn(len(targets), dimensions, generator=generator, dtype=torch.float64)
    return means[targets] + noise * spread, targets, means


@pytest.fixture(scope="module")
def data():
    return clusters()


# ---- the draw ------------------------------------------------------------------------------------


def test_every_class_gives_as_many_as_it_has_up_to_the_limit():
    targets = torch.tensor([0] * 40 + [1] * 3 + [3] * 20)[
        torch.randperm(63, generator=torch.Generator().manual_seed(1))
    ]
    found = sample_of_each_class(targets, 10, seed=0, purpose="test")
    assert torch.bincount(targets[found]).tolist() == [10, 3, 0, 10]
    assert found.tolist() == sorted(set(found.tolist()))
    assert torch.equal(found, sample_of_each_class(targets, 10, seed=0, purpose="test"))
    assert not torch.equal(found, sample_of_each_class(targets, 10, seed=1, purpose="test"))
    assert not torch.equal(found, sample_of_each_class(targets, 10, seed=0, purpose="other"))
    assert torch.equal(sample_of_each_class(targets, 40, seed=0, purpose="test"), torch.arange(63))


def test_every_sample_of_a_class_is_drawn_as_often():
    targets = torch.arange(40) % 2
    times = sum(
        torch.bincount(sample_of_each_class(targets, 5, seed=seed, purpose="test"), minlength=40)
        for seed in range(400)
    )
    assert times.sum() == 400 * 10
    assert (times - 100).abs().max() < 40  # 4.6 standard deviations


# ---- three classes -------------------------------------------------------------------------------


def test_the_most_confused_pair_and_the_class_nearest_to_it():
    response = torch.full((5, 5), 0.01)
    response.fill_diagonal_(0.9)
    response[4, 1], response[1, 4] = 0.20, 0.05
    response[2, 0] = 0.22  # larger, one way only
    response[3, 1], response[0, 4], response[2, 4] = 0.06, 0.03, 0.02
    classes, why = choose_classes(response, ("cat", "birch", "dog", "willow", "oak"))
    assert classes == (1, 4, 3)
    assert why == (
        "birch and oak are the pair that is confused most (their mean similarity labels add "
        "up to 0.25), "
        "willow is the class nearest to both"
    )
    order = torch.tensor([3, 0, 4, 1, 2])
    again, _ = choose_classes(response[order][:, order], ("",) * 5)
    assert {order[number].item() for number in again} == {1, 4, 3}
    assert order[again[2]] == 3


def test_classes_cannot_be_chosen_from_fewer_than_three():
    with pytest.raises(
        Incompatible, match=r"three or more and their names, got \[2, 2\] and 2 names"
    ):
        choose_classes(torch.eye(2), ("a", "b"))
    with pytest.raises(Incompatible, match="and 2 names"):
        choose_classes(torch.eye(3), ("a", "b"))


def by_hand(features, targets, weight, classes):
    """Points by Gram and Schmidt, centres and spread with loops."""
    a, b, c = (weight[number].numpy() for number in classes)
    e1 = (b - a) / np.linalg.norm(b - a)
    off = (c - a) - ((c - a) @ e1) * e1
    e2 = off / np.linalg.norm(off)
    points = {number: [] for number in classes}
    for h, y in zip(features.numpy(), targets.tolist(), strict=True):
        if y in points:
            points[y].append(((h - a) @ e1, (h - a) @ e2))
    centres = {
        number: tuple(map(statistics.fmean, zip(*kept, strict=True)))
        for number, kept in points.items()
    }
    within = statistics.fmean(
        statistics.fmean(math.dist(point, centres[number]) ** 2 for point in kept)
        for number, kept in points.items()
    )
    between = statistics.fmean(
        math.dist(p, q) ** 2 for p, q in itertools.combinations(centres.values(), 2)
    )
    return points, centres, within / between


def test_the_projection_is_its_definition(data):
    features, targets, means = data
    classes = (3, 0, 4)
    found = project(features, targets, means, classes, chosen="asked for")
    points, centres, spread = by_hand(features, targets, means, classes)
    for number in classes:
        mine = [
            (x, y)
            for label, x, y in zip(found.points.label, found.points.x, found.points.y, strict=True)
            if label == number
        ]
        assert np.allclose(mine, points[number], rtol=0, atol=1e-9)
    assert np.allclose(found.centres, [centres[number] for number in classes])
    assert found.spread.value == pytest.approx(spread)
    assert found.spread.low < spread < found.spread.high
    assert found.n == (12, 12, 12)
    assert found.classes == classes
    assert found.chosen == "asked for"
    assert all(
        targets[sample] == label
        for sample, label in zip(found.points.sample, found.points.label, strict=True)
    )
    (x, y), (right, low), (_, high) = found.templates
    assert (x, y) == (0, 0)
    assert right == pytest.approx((means[0] - means[3]).norm().item())
    assert low == pytest.approx(0, abs=1e-9)
    assert high > 0


def test_the_projection_keeps_its_shape_when_features_and_weights_turn_or_grow(data):
    features, targets, means = data
    rotation = torch.linalg.qr(
        torch.randn(D, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ).Q
    before = project(features, targets, means, (0, 1, 2))
    after = project(features @ rotation * 3, targets, means @ rotation * 3, (0, 1, 2))
    assert np.allclose(np.array(after.points.x), 3 * np.array(before.points.x))
    assert np.allclose(np.array(after.points.y), 3 * np.array(before.points.y))
    assert dataclasses.astuple(after.spread) == pytest.approx(dataclasses.astuple(before.spread))


def test_the_spread_does_not_depend_on_the_order_of_samples_or_of_the_three(data):
    features, targets, means = data
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(3))
    expected = project(features, targets, means, (0, 1, 2)).spread.value
    assert project(features[order], targets[order], means, (0, 1, 2)).spread.value == pytest.approx(
        expected
    )
    assert project(features, targets, means, (2, 0, 1)).spread.value == pytest.approx(expected)


def test_tighter_clusters_have_less_spread():
    wide, tight = (
        project(*clusters(spread=spread), (0, 1, 2)).spread.value for spread in (1.0, 0.25)
    )
    assert tight < wide / 8


def test_the_interval_of_the_spread_is_as_wide_as_repeated_sampling_says():
    found = []
    for seed in range(200):
        features, targets, _ = clusters(each=40, seed=99)
        noise = torch.randn(
            features.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        means = clusters(seed=99)[2]
        found.append(project(means[targets] + 2 * noise, targets, means, (0, 1, 2)).spread)
    width = statistics.fmean(each.high - each.low for each in found) / (2 * 1.96)
    assert width == pytest.approx(statistics.stdev(each.value for each in found), rel=0.2)


def test_a_projection_draws_up_to_so_many_of_each_class(data):
    features, targets, means = data
    found = project(features, targets, means, (0, 1, 2), most=5)
    assert found.n == (5, 5, 5)
    assert found.points == project(features, targets, means, (0, 1, 2), most=5).points
    assert (
        found.points.sample
        != project(features, targets, means, (0, 1, 2), most=5, seed=1).points.sample
    )


def test_projections_that_are_refused(data):
    features, targets, means = data
    with pytest.raises(
        Incompatible, match=r"weights of shape \[5, 6\] for features of shape \[60, 7\]"
    ):
        project(features, targets, means[:, :6], (0, 1, 2))
    for classes in ((0, 1, 1), (0, 1, 5), (-1, 0, 1)):
        with pytest.raises(UsageError, match="three different classes from 0 to 4, got"):
            project(features, targets, means, classes)
    with pytest.raises(BadData, match="class 2 has no samples to project"):
        project(features[targets != 2], targets[targets != 2], means, (0, 1, 2))
    line = means.clone()
    line[2] = 2 * line[1] - line[0]
    with pytest.raises(Incompatible, match="classes 0, 1, 2 in teacher big lie on one line"):
        project(features, targets, line, (0, 1, 2), label="teacher big")
    with pytest.raises(Incompatible, match="lie on one line"):
        project(features, targets, torch.zeros(K, D), (0, 1, 2))
    with pytest.raises(Incompatible, match="lie on one line"):
        project(features[:, :1], targets, means[:, :1], (0, 1, 2))
    with pytest.raises(BadData, match="centres are in one place"):
        project(torch.ones(60, D), targets, means, (0, 1, 2))


# ---- pictures of all classes ---------------------------------------------------------------------


def test_tsne_is_the_same_for_the_same_seed_and_keeps_clusters_together():
    features, targets, _ = clusters(each=15, classes=3, spread=0.3)
    found = tsne(features, targets, perplexity=10)
    assert found == tsne(features, targets, perplexity=10)
    assert found.points.sample != tsne(features, targets, most=30, perplexity=5).points.sample
    assert (found.kind, found.of, found.perplexity) == ("tsne", 45, 10)
    points = np.stack([found.points.x, found.points.y], axis=1)
    assert silhouette_samples(points, found.points.label).mean() > 0.5
    json.dumps(dataclasses.asdict(found))


def test_the_perplexity_fits_few_points():
    features, targets, _ = clusters(each=3, classes=3)
    assert tsne(features, targets).perplexity == pytest.approx(8 / 3)
    with pytest.raises(UsageError, match="perplexity of t-SNE"):
        tsne(features, targets, perplexity=0.0)


def test_pictures_have_a_limit_of_points_and_five_of_each_class_at_least():
    features, targets, _ = clusters(each=12)
    assert len(tsne(features, targets, most=40, perplexity=5).points.x) == 40
    assert len(tsne(features, targets, most=3, perplexity=5).points.x) == 25
    assert silhouette(features, targets, most=40).n == 40
    assert silhouette(features, targets, most=40).of == 60


# ---- the silhouette ------------------------------------------------------------------------------


def silhouette_by_hand(features, targets):
    points, found = features.tolist(), []
    for i, (h, y) in enumerate(zip(points, targets, strict=True)):
        distances = {}
        for j, (other, label) in enumerate(zip(points, targets, strict=True)):
            if i != j:
                distances.setdefault(label, []).append(math.dist(h, other))
        own = statistics.fmean(distances.pop(y, [0.0]))
        nearest = min(statistics.fmean(each) for each in distances.values())
        found.append((nearest - own) / max(nearest, own) if targets.count(y) > 1 else 0.0)
    return found


def test_the_silhouette_is_its_definition():
    features, targets, _ = clusters(each=6, spread=3.0)
    targets[targets == 4] = 6  # no samples of 4 and 5
    targets[int((targets == 3).nonzero()[0])] = 7  # one alone
    found = silhouette(features, targets, classes=9)
    expected = silhouette_by_hand(features, targets.tolist())
    assert found.value.value == pytest.approx(statistics.fmean(expected))
    assert np.allclose(silhouette_samples(features.numpy(), targets.numpy()), expected)
    half = 1.959964 * statistics.stdev(expected) / math.sqrt(len(expected))
    assert found.value.high - found.value.value == pytest.approx(half, rel=1e-6)
    for number, value in enumerate(found.by_class):
        mine = [s for s, y in zip(expected, targets.tolist(), strict=True) if y == number]
        assert value == (pytest.approx(statistics.fmean(mine)) if mine else None)
    assert len(found.by_class) == 9
    assert found.by_class[7] == 0


def test_the_silhouette_does_not_see_place_turn_scale_or_order():
    features, targets, _ = clusters(spread=3.0)
    generator = torch.Generator().manual_seed(4)
    rotation = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    order = torch.randperm(len(targets), generator=generator)
    moved = (features @ rotation * 100 + 1000)[order]
    expected = silhouette(features, targets)
    found = silhouette(moved, (K - 1 - targets)[order])
    assert found.value.value == pytest.approx(expected.value.value)
    assert found.by_class[::-1] == pytest.approx(expected.by_class)


def test_separate_clusters_have_a_silhouette_near_one_and_mixed_ones_near_zero():
    features, targets, means = clusters(each=40, spread=0.01)
    assert silhouette(features, targets).value.value > 0.98
    assert silhouette(means[targets], targets).value.value == pytest.approx(1)  # a = 0
    shuffled = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(5))]
    assert abs(silhouette(clusters(each=40, spread=30.0)[0], shuffled).value.value) < 0.1


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [tsne, silhouette])
def test_features_that_are_refused(data, function):
    features, targets, _ = data
    with pytest.raises(BadData, match="features of teacher big are constant"):
        function(torch.ones(60, D), targets, label="teacher big")
    with pytest.raises(BadData, match="there are 3 samples of teacher big"):
        function(features[:3], targets[:3], label="teacher big")
    bad = features.clone()
    bad[17, 2] = math.nan
    with pytest.raises(
        BadData,
        match=(
            r"teacher big are not finite for 1 of 60 samples, first for sample 17 \(counted from "
            r"0\)"
        ),
    ):
        function(bad, targets, label="teacher big")


def test_shapes_that_are_refused(data):
    features, targets, _ = data
    with pytest.raises(Incompatible, match=r"shape \[60, 7\] for targets of shape \[59\]"):
        check_features(features, targets[1:])
    with pytest.raises(Incompatible, match=r"not \[n, D\] for \[n\]"):
        check_features(features[:, :, None], targets)
    with pytest.raises(BadData, match="no samples"):
        check_features(features[:0], targets[:0])
    with pytest.raises(BadData, match="are of one class"):
        silhouette(features, torch.zeros_like(targets))
