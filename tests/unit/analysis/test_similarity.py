"""Similarity labels and variance in response: the paper's own rows, loops, streams, invariances,
intervals, refusals; the verdict.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics

import pytest
import torch

from kdcli.analysis.hypothesis import effect, hypothesis
from kdcli.analysis.similarity import similarity, similarity_and_responses
from kdcli.errors import BadData, Incompatible, UsageError
from kdcli.results.intervals import Estimate, Interval
from kdcli.results.teacher import Thresholds

# tables 2 and 3 of paper 001: what a small and a large teacher answer to five pictures of digit 6
# at temperature 9
SMALL = (
    (0.087, 0.048, 0.095, 0.093, 0.077, 0.144, 0.206, 0.051, 0.122, 0.078),
    (0.087, 0.048, 0.089, 0.1, 0.090, 0.119, 0.177, 0.056, 0.114, 0.095),
    (0.090, 0.078, 0.089, 0.097, 0.115, 0.091, 0.179, 0.071, 0.108, 0.082),
    (0.107, 0.068, 0.089, 0.076, 0.104, 0.1, 0.229, 0.070, 0.086, 0.071),
    (0.118, 0.079, 0.095, 0.075, 0.101, 0.081, 0.210, 0.069, 0.098, 0.073),
)
LARGE = (
    (0.078, 0.069, 0.063, 0.059, 0.070, 0.135, 0.356, 0.039, 0.078, 0.053),
    (0.083, 0.077, 0.073, 0.056, 0.078, 0.107, 0.339, 0.042, 0.090, 0.053),
    (0.077, 0.067, 0.068, 0.047, 0.073, 0.086, 0.425, 0.034, 0.079, 0.044),
    (0.076, 0.062, 0.057, 0.039, 0.059, 0.090, 0.485, 0.027, 0.065, 0.039),
    (0.077, 0.067, 0.061, 0.043, 0.068, 0.089, 0.450, 0.031, 0.075, 0.041),
)
SMOOTHED = ((0.06, 0.06, 0.06, 0.06, 0.06, 0.06, 0.46, 0.06, 0.06, 0.06),) * 5  # table 1
SCALARS = (
    "confidence",
    "entropy",
    "row_variance",
    "column_variance",
    "column_cv",
    "similarity_entropy",
)
K = 6


def of_rows(rows, temperature=9.0):
    """A network that answers every class as the paper's rows answer a six, the classes rotated."""
    table = torch.tensor(rows, dtype=torch.float64).log() * temperature
    logits = torch.cat([table.roll(digit - 6, dims=1) for digit in range(10)])
    return similarity(
        logits, torch.arange(10).repeat_interleave(len(rows)), temperatures=(temperature,)
    )[0]


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(3)
    targets = torch.tensor([0] * 9 + [1] * 5 + [2] * 12 + [3] * 7 + [4] * 2 + [5] * 10)
    logits = torch.randn(len(targets), K, generator=generator, dtype=torch.float64) * 3
    logits[torch.arange(len(targets)), targets] += 5
    order = torch.randperm(len(targets), generator=generator)
    return logits[order], targets[order]


def by_hand(logits, targets, temperature):
    """From the definitions, with loops: (overall, by class), each a dict of SCALARS."""
    per_class = {c: {"q": [], "r": [], "s": []} for c in range(logits.shape[1])}
    for row, y in zip(logits.tolist(), targets.tolist(), strict=True):
        weights = [math.exp((x - max(row)) / temperature) for x in row]
        q = [w / sum(weights) for w in weights]
        others = [q[k] for k in range(len(q)) if k != y]
        r = [each / (1 - q[y]) for each in others]
        entropy = -sum(p * math.log(p) for p in q)
        relative = -sum(p * math.log(p) for p in r) / math.log(len(r))
        per_class[y]["q"].append(others)
        per_class[y]["r"].append(r)
        per_class[y]["s"].append((q[y], entropy, statistics.pvariance(others), relative))
    found = {}
    for c, kept in per_class.items():
        confidence, entropy, row, relative = (
            statistics.fmean(column) for column in zip(*kept["s"], strict=True)
        )
        variance = statistics.fmean(
            statistics.pvariance(column) for column in zip(*kept["q"], strict=True)
        )
        cv = statistics.fmean(
            statistics.pstdev(column) / statistics.fmean(column)
            for column in zip(*kept["r"], strict=True)
        )
        found[c] = dict(
            zip(SCALARS, (confidence, entropy, row, variance, cv, relative), strict=True)
        )
    rows = [s for kept in per_class.values() for s in kept["s"]]
    confidence, entropy, row, relative = (
        statistics.fmean(column) for column in zip(*rows, strict=True)
    )
    variance, cv = (
        statistics.fmean(each[name] for each in found.values())
        for name in ("column_variance", "column_cv")
    )
    return dict(
        zip(SCALARS, (confidence, entropy, row, variance, cv, relative), strict=True)
    ), found


def value(at, name):
    found = getattr(at, name)
    return found.value if isinstance(found, Estimate) else found


def same(one, other, names=SCALARS):
    for name in names:
        assert value(one, name) == pytest.approx(value(other, name), rel=1e-9, abs=1e-14), name


@pytest.mark.parametrize(
    ("rows", "expected"),
    # entropy, row variance, column variance, CV of the scale-free labels, as worked out from the
    # printed rows
    [
        (SMALL, (2.236, 3.95e-4, 1.62e-4, 0.131)),
        (LARGE, (1.938, 3.91e-4, 0.70e-4, 0.063)),
        (SMOOTHED, (1.876, 0.0, 0.0, 0.0)),
    ],
)
def test_the_rows_of_paper_001(rows, expected):
    at = of_rows(rows)
    assert (
        at.entropy.value,
        at.row_variance.value,
        at.column_variance,
        at.column_cv,
    ) == pytest.approx(expected, rel=7e-3, abs=1e-12)
    mean_confidence = statistics.fmean(row[6] / sum(row) for row in rows)
    assert at.confidence.value == pytest.approx(mean_confidence, rel=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 9.0])
def test_every_scalar_is_its_definition(data, temperature):
    (at,) = similarity(*data, temperatures=(temperature,))
    overall, by_class = by_hand(*data, temperature)
    for name in SCALARS:
        assert value(at, name) == pytest.approx(overall[name], rel=1e-9), name
        for each in at.by_class:
            assert getattr(each, name) == pytest.approx(by_class[each.number][name], rel=1e-9), (
                name,
                each.number,
            )
    assert [each.n for each in at.by_class] == torch.bincount(data[1]).tolist()
    assert at.relative_entropy.value == pytest.approx(overall["entropy"] / math.log(K), rel=1e-9)


def test_blocks_add_up_to_the_whole(data, monkeypatch):
    whole = similarity(*data, temperatures=(1.0, 9.0))
    monkeypatch.setattr("kdcli.analysis.similarity._ROWS", 4)
    for one, other in zip(whole, similarity(*data, temperatures=(1.0, 9.0)), strict=True):
        same(one, other)
        assert one.column_cv_interval.high == pytest.approx(other.column_cv_interval.high, rel=1e-9)
        for a, b in zip(one.by_class, other.by_class, strict=True):
            same(a, b)
            assert [k for k, _ in a.alike] == [k for k, _ in b.alike]


def test_a_constant_added_to_the_logits_of_a_sample_changes_nothing(data):
    logits, targets = data
    shift = (
        torch.randn(
            len(targets), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        * 50
    )
    same(similarity(logits, targets)[0], similarity(logits + shift, targets)[0])


def test_scaling_logits_and_temperature_together_changes_nothing(data):
    logits, targets = data
    same(
        similarity(logits, targets, temperatures=(9.0,))[0],
        similarity(logits * 3, targets, temperatures=(27.0,))[0],
    )


def test_the_order_of_samples_and_of_classes_changes_nothing(data):
    logits, targets = data
    generator = torch.Generator().manual_seed(7)
    samples, classes = (
        torch.randperm(len(targets), generator=generator),
        torch.randperm(K, generator=generator),
    )
    before = similarity(logits, targets)[0]
    after = similarity(logits[samples][:, classes], classes.argsort()[targets[samples]])[0]
    same(before, after)
    for number, old in enumerate(classes.tolist()):
        same(before.by_class[old], after.by_class[number])
        assert [
            (classes[k].item(), pytest.approx(label)) for k, label in after.by_class[number].alike
        ] == list(before.by_class[old].alike)


def test_scale_free_labels_do_not_see_the_confidence(data):
    """What is left of a response when only the true class's logit moves: r, and all that is made of
    it.
    """
    logits, targets = data
    bolder = logits.clone()
    bolder[torch.arange(len(targets)), targets] += 7
    same(
        similarity(logits, targets)[0],
        similarity(bolder, targets)[0],
        ("column_cv", "similarity_entropy"),
    )
    assert (
        similarity(bolder, targets)[0].column_variance
        < similarity(logits, targets)[0].column_variance
    )


def test_a_network_that_is_sure_to_the_last_bit_is_still_measured(data):
    logits, targets = data
    sure = logits.clone()
    sure[torch.arange(len(targets)), targets] += 4000
    (at,) = similarity(sure, targets, temperatures=(1.0,))
    assert at.confidence.value == 1
    assert at.entropy.value == 0
    assert at.column_cv == pytest.approx(
        similarity(logits, targets, temperatures=(1.0,))[0].column_cv
    )
    # all other labels underflow too
    (colder,) = similarity(sure * 1000, targets, temperatures=(0.01,))
    assert math.isfinite(colder.column_cv)
    assert math.isfinite(colder.column_cv_interval.high)


def test_half_precision_and_parts_of_float32_are_computed_in_float64(data):
    logits, targets = data
    halves = logits.half()
    same(similarity(halves, targets)[0], similarity(halves.double(), targets)[0])


def test_the_most_alike_classes_have_the_largest_mean_labels(data):
    logits, targets = data
    ((at, response),) = similarity_and_responses(logits, targets, temperatures=[9.0])
    q = (logits / 9).softmax(dim=1)
    for c in range(K):
        expected = q[targets == c].mean(dim=0)
        assert torch.allclose(response[c], expected, rtol=1e-12)
        expected[c] = -1
        found = at.by_class[c].alike
        assert [k for k, _ in found] == expected.argsort(descending=True)[:3].tolist()
        assert [label for _, label in found] == pytest.approx(
            expected.sort(descending=True).values[:3].tolist()
        )


def test_with_three_classes_two_are_alike():
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    assert len(similarity(logits, torch.arange(12) % 3)[0].by_class[0].alike) == 2


def test_intervals_are_as_wide_as_repeated_sampling_says():
    """Standard errors from the linearisation, beside the spread of the numbers over 300 draws of
    the samples.
    """
    classes, each = 4, 150
    targets = torch.arange(classes).repeat_interleave(each)
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(classes, classes, generator=generator, dtype=torch.float64) * 2
    draws = [
        means[targets]
        + torch.randn(len(targets), classes, generator=generator, dtype=torch.float64) * 2
        for _ in range(300)
    ]
    found = [similarity(logits, targets, temperatures=(4.0,))[0] for logits in draws]
    for name, interval in (
        ("column_cv", "column_cv_interval"),
        ("column_variance", "column_variance_interval"),
    ):
        spread = statistics.stdev(getattr(at, name) for at in found)
        width = statistics.fmean(
            getattr(at, interval).high - getattr(at, interval).low for at in found
        )
        assert width / (2 * 1.96) == pytest.approx(spread, rel=0.15), name
    spread = statistics.stdev(at.by_class[2].column_cv for at in found)
    assert statistics.fmean(at.by_class[2].column_error for at in found) == pytest.approx(
        spread, rel=0.15
    )


def test_intervals_of_means_are_normal_ones(data):
    (at,) = similarity(*data, temperatures=(1.0,))
    confidence = data[0].softmax(dim=1).gather(1, data[1][:, None]).squeeze(1).tolist()
    half = 1.959964 * statistics.stdev(confidence) / math.sqrt(len(confidence))
    assert at.confidence.high - at.confidence.value == pytest.approx(half, rel=1e-6)
    assert at.confidence.value - at.confidence.low == pytest.approx(half, rel=1e-6)


def test_everything_can_be_written_as_json(data):
    text = json.dumps(
        [dataclasses.asdict(at) for at in similarity(*data)]
        + [dataclasses.asdict(hypothesis(similarity(*data)[0]))]
    )
    assert "NaN" not in text
    assert "Infinity" not in text


@pytest.mark.parametrize("temperatures", [(0.0,), (1.0, -2.0), (math.nan,), ()])
def test_temperatures_must_be_positive(temperatures):
    with pytest.raises(UsageError, match="temperature"):
        similarity(torch.randn(12, K), torch.arange(12) % K, temperatures=temperatures)


def test_two_classes_have_no_similarity_labels():
    with pytest.raises(Incompatible, match=r"teacher big has 2 classes.*from 3 on"):
        similarity(torch.randn(6, 2), torch.arange(6) % 2, label="teacher big")


@pytest.mark.parametrize(("drop", "found"), [(10, "no samples"), (9, "only one sample")])
def test_a_class_needs_two_samples(data, drop, found):
    keep = torch.ones(len(data[1]), dtype=torch.bool)
    keep[(data[1] == 5).nonzero().flatten()[:drop]] = False
    names = ("a", "b", "c", "d", "e", "otter")
    with pytest.raises(BadData, match=rf"class otter \(5\) has {found}.*1 of 6 classes"):
        similarity(data[0][keep], data[1][keep], class_names=names)


def test_constant_logits_are_refused():
    with pytest.raises(BadData, match=r"logits of the network are constant.*each of 12 samples"):
        similarity(torch.arange(12.0)[:, None].expand(12, 4), torch.arange(12) % 4)


def test_a_sample_with_equal_logits_is_not(data):
    logits, targets = data[0].clone(), data[1]
    logits[3] = 2.0
    assert math.isfinite(similarity(logits, targets)[0].column_cv)


def test_a_bad_sample_is_named(data, monkeypatch):
    monkeypatch.setattr("kdcli.analysis.similarity._ROWS", 4)
    logits = data[0].clone()
    logits[23, 2] = math.nan
    with pytest.raises(
        BadData, match=r"teacher big are not finite.*first for sample 23 \(counted from 0\)"
    ):
        similarity(logits, data[1], label="teacher big")
    with pytest.raises(BadData, match="no samples"):
        similarity(logits[:0], data[1][:0])


# ---- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(SMALL, "distillation"), (LARGE, "regularisation"), (SMOOTHED, "label smoothing")],
)
def test_the_verdict_on_the_teachers_of_paper_001(rows, expected):
    verdict = hypothesis(of_rows(rows))
    assert verdict.effect == expected
    assert verdict.temperature == 9
    assert [(each.effect, each.n) for each in verdict.by_class] == [(expected, 5)] * 10
    assert verdict.counts == {expected: 10}
    assert verdict.thresholds == Thresholds(0.01, 0.10, 0.9)
    assert verdict.by_class[0].relative_entropy == pytest.approx(verdict.relative_entropy.value)


def test_label_smoothing_is_known_whatever_its_entropy():
    for share in (0.05, 0.5, 0.99):
        rows = torch.full((5, 10), share / 10)
        rows[:, 6] += 1 - share
        assert hypothesis(of_rows(rows.tolist())).effect == "label smoothing"


@pytest.mark.parametrize(
    ("entropy", "cv", "expected"),
    [
        (0.90, 0.10, "distillation"),  # limits belong to the better side
        (0.89, 0.50, "regularisation"),
        (0.99, 0.0999, "regularisation"),
        (0.99, 0.01, "regularisation"),
        (0.99, 0.0099, "label smoothing"),
    ],
)
def test_the_rule(entropy, cv, expected):
    assert effect(entropy, cv, Thresholds()) == expected


@pytest.mark.parametrize(
    ("cv", "settled"),
    [
        (Interval(0.12, 0.14), True),
        (Interval(0.08, 0.18), False),
        (Interval(0.0, 0.2), False),
        (None, None),
    ],
)
def test_a_verdict_is_settled_where_the_intervals_leave_no_other(cv, settled):
    at = dataclasses.replace(of_rows(SMALL), column_cv_interval=cv)
    assert hypothesis(at).settled is settled


def test_a_verdict_is_not_settled_where_the_entropy_may_be_lower():
    at = dataclasses.replace(
        of_rows(SMALL),
        relative_entropy=Estimate(0.91, 0.89, 0.93),
        column_cv_interval=Interval(0.12, 0.14),
    )
    assert hypothesis(at).settled is False
