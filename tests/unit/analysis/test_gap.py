"""The gap report: signs, pairs, intervals, classes, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from kdcli.analysis.gap import Responses, compare
from kdcli.analysis.metrics import measure
from kdcli.core import random
from kdcli.errors import BadData, Incompatible, UsageError
from kdcli.losses import match_spread

N, K = 240, 8
TARGETS = torch.arange(N) % K
NAMES = tuple(f"class {k}" for k in range(K))


def network(label, *, scale=1.0, seed=0, aligned=None, targets=TARGETS):
    logits = torch.randn(len(targets), K, generator=torch.Generator().manual_seed(seed)) * scale
    logits[torch.arange(len(targets)), targets] += 2 * scale
    return responses(label, logits, aligned, targets)


def responses(label, logits, aligned=None, targets=TARGETS):
    return Responses(
        label, f"runs/{label}", "cnn-small", 123, "kd", logits, aligned, measure(logits, targets)
    )


def report(teacher, *students, targets=TARGETS, temperatures=(1.0, 4.0), bootstrap=200, **more):
    arguments = {"targets": targets, "class_names": NAMES, "data": "toy", "split": "test", **more}
    return compare(teacher, students, temperatures=temperatures, bootstrap=bootstrap, **arguments)


@pytest.fixture(scope="module")
def teacher():
    return network("big", scale=3.0, seed=1)


@pytest.fixture(scope="module")
def student():
    return network("small", scale=1.0, seed=2)


def by_hand(logits, temperature):
    """(entropy, free energy) of each sample, from the definitions."""
    rows = []
    for row in logits.double().tolist():
        x = [(value - sum(row) / len(row)) / temperature for value in row]
        partition = sum(math.exp(value) for value in x)
        p = [math.exp(value) / partition for value in x]
        rows.append(
            (-sum(share * math.log(share) for share in p), temperature * math.log(partition))
        )
    return rows


def mean(values):
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize("position", [0, 1])
def test_gaps_are_their_definitions(teacher, student, position):
    found = report(teacher, student)
    at, temperature = found.pairs[0].at[position], found.temperatures[position]
    z, v = by_hand(student.logits, temperature), by_hand(teacher.logits, temperature)
    assert at.temperature == temperature
    assert at.entropy.value == pytest.approx(
        mean(s[0] for s in z) - mean(t[0] for t in v), abs=1e-9
    )
    assert at.free_energy.value == pytest.approx(
        mean(t[1] for t in v) - mean(s[1] for s in z), abs=1e-9
    )
    for k in (0, K - 1):
        assert at.entropy_by_class[k] == pytest.approx(
            mean(z[i][0] - v[i][0] for i in range(k, N, K)), abs=1e-9
        )
        assert at.free_energy_by_class[k] == pytest.approx(
            mean(v[i][1] - z[i][1] for i in range(k, N, K)), abs=1e-9
        )
    centred = [
        x.logits.double() - x.logits.double().mean(1, keepdim=True) for x in (teacher, student)
    ]
    difference = (centred[0].square().sum(1) - centred[1].square().sum(1)).mean().item()
    assert at.entropy_second_order == pytest.approx(difference / (2 * K * temperature**2), abs=1e-9)
    assert at.free_energy_second_order == pytest.approx(
        difference / (2 * K * temperature), abs=1e-9
    )
    assert at.entropy_ratio == pytest.approx(at.entropy.value / at.entropy_second_order, abs=1e-9)
    assert at.free_energy_ratio == pytest.approx(
        at.free_energy.value / at.free_energy_second_order, abs=1e-9
    )
    p, q = ((x.logits.double() / temperature).softmax(1) for x in (student, teacher))
    assert at.kl == pytest.approx((q * (q.log() - p.log())).sum(1).mean().item(), abs=1e-9)


def test_a_student_less_sure_than_its_teacher_has_positive_gaps(teacher, student):
    at = report(teacher, student).pairs[0].at[0]
    assert at.entropy.low > 0
    assert at.free_energy.low > 0


def test_responses_hold_each_network_and_gaps_are_their_differences(teacher, student):
    found = report(teacher, student)
    assert (found.teacher.label, found.teacher.form, found.teacher.measures) == (
        "big",
        "raw",
        teacher.measures,
    )
    assert (found.n, found.class_names, found.temperatures) == (N, NAMES, (1.0, 4.0))
    for v, z, gap in zip(found.teacher.at, found.students[0].at, found.pairs[0].at, strict=True):
        assert gap.entropy.value == pytest.approx(z.entropy.value - v.entropy.value, abs=1e-12)
        assert gap.free_energy.value == pytest.approx(
            v.free_energy.value - z.free_energy.value, abs=1e-12
        )
    assert found.teacher.at[0].entropy.value == pytest.approx(teacher.measures.entropy, abs=1e-12)
    assert found.teacher.at[0].free_energy.value == pytest.approx(
        teacher.measures.free_energy, abs=1e-12
    )


def test_a_network_has_no_gap_to_itself(teacher):
    pair = report(teacher, teacher).pairs[0]
    assert pair.agreement == 1.0
    for at in pair.at:
        assert (at.entropy.value, at.entropy.low, at.entropy.high, at.free_energy.value, at.kl) == (
            0,
            0,
            0,
            0,
            0,
        )
        assert at.entropy_ratio is None
        assert at.free_energy_ratio is None


def test_gaps_are_bootstrapped_in_pairs(teacher):
    """A student that is nearly its teacher has a gap known far better than either entropy."""
    student = responses("near", teacher.logits * 0.99)
    found = report(teacher, student)
    gap, alone = found.pairs[0].at[0].entropy, found.teacher.at[0].entropy
    assert gap.high - gap.low < 0.1 * (alone.high - alone.low)


def test_intervals_are_at_95_percent(teacher, student):
    gap = report(teacher, student, bootstrap=2000).pairs[0].at[0].entropy
    differences = torch.tensor(
        [
            z[0] - v[0]
            for z, v in zip(by_hand(student.logits, 1.0), by_hand(teacher.logits, 1.0), strict=True)
        ]
    )
    assert gap.high - gap.low == pytest.approx(
        2 * 1.96 * differences.std().item() / N**0.5, rel=0.08
    )


def test_intervals_hold_the_mean_repeat_with_the_seed_and_shrink_with_n():
    targets = torch.arange(16 * N) % K
    big, small = (
        network("big", scale=3.0, seed=1, targets=targets),
        network("small", seed=2, targets=targets),
    )
    few = [responses(x.label, x.logits[:N]) for x in (big, small)]
    wide, narrow = report(*few).pairs[0].at[0], report(big, small, targets=targets).pairs[0].at[0]
    for a, b in ((wide.entropy, narrow.entropy), (wide.free_energy, narrow.free_energy)):
        assert a.low < a.value < a.high
        assert 0.18 < (b.high - b.low) / (a.high - a.low) < 0.35  # 1/4 for 16 times the samples
    assert report(*few, seed=0) == report(*few)
    assert report(*few, seed=1).pairs[0].at[0].entropy.low != wide.entropy.low


def test_aligned_logits_are_reported_beside_the_raw_ones(teacher, student):
    aligned = match_spread(student.logits, like=teacher.logits)
    found = report(teacher, dataclasses.replace(student, aligned=aligned), network("other", seed=3))
    assert [(each.label, each.form) for each in found.students] == [
        ("small", "raw"),
        ("small", "aligned"),
        ("other", "raw"),
    ]
    assert [(each.student, each.form) for each in found.pairs] == [
        ("small", "raw"),
        ("small", "aligned"),
        ("other", "raw"),
    ]
    raw, scaled = found.students[:2]
    assert scaled.measures == measure(aligned, TARGETS)
    assert scaled.measures.accuracy == raw.measures.accuracy
    assert scaled.measures.nll != raw.measures.nll
    assert found.pairs[1].agreement == found.pairs[0].agreement
    assert abs(found.pairs[1].at[0].entropy.value) < found.pairs[0].at[0].entropy.value
    # equal norms: a ratio to a second order of rounding errors would be noise
    assert found.pairs[1].at[0].entropy_ratio is None


def test_a_teacher_alone_gives_its_response_profile(teacher):
    found = report(teacher, temperatures=(1, 3, 6, 9, 20))
    assert (found.students, found.pairs) == ((), ())
    entropies = [at.entropy.value for at in found.teacher.at]
    assert entropies == sorted(entropies)
    assert entropies[-1] < math.log(K)


def test_a_class_without_samples_has_no_mean():
    targets = torch.arange(N) % (K - 1)
    teacher, student = (
        network(label, seed=seed, targets=targets) for seed, label in enumerate("ab")
    )
    found = report(teacher, student, targets=targets)
    for each in (found.teacher.at[0], found.pairs[0].at[0]):
        assert each.entropy_by_class[-1] is None
        assert each.free_energy_by_class[-1] is None
        assert all(value is not None for value in each.entropy_by_class[:-1])


def test_constants_and_orders_change_nothing(teacher, student):
    samples, classes = (random.permutation(7, size) for size in (N, K))
    shift = torch.linspace(-50, 50, N)[:, None].double()

    def moved(x):
        return responses(
            x.label,
            (x.logits.double() + shift)[samples][:, classes],
            targets=classes.argsort()[TARGETS[samples]],
        )

    plain = report(teacher, student).pairs[0]
    other = report(
        moved(teacher), moved(student), targets=classes.argsort()[TARGETS[samples]]
    ).pairs[0]
    assert other.agreement == plain.agreement
    for a, b in zip(plain.at, other.at, strict=True):
        for name in ("entropy_second_order", "free_energy_second_order", "kl", "in_range"):
            assert getattr(b, name) == pytest.approx(getattr(a, name), abs=1e-9)
        assert (b.entropy.value, b.free_energy.value) == pytest.approx(
            (a.entropy.value, a.free_energy.value), abs=1e-9
        )
        assert b.entropy_by_class == pytest.approx(
            [a.entropy_by_class[k] for k in classes], abs=1e-9
        )


def test_reports_become_json(teacher, student):
    text = json.dumps(dataclasses.asdict(report(teacher, student)), allow_nan=False)
    assert json.loads(text)["pairs"][0]["student"] == "small"


@pytest.mark.parametrize("temperatures", [(), (0.0,), (1.0, -4.0), (math.nan,), (math.inf,)])
def test_temperatures_must_be_positive(teacher, temperatures):
    with pytest.raises(UsageError, match="temperature"):
        report(teacher, temperatures=temperatures)


def test_at_least_one_resample(teacher):
    with pytest.raises(UsageError, match="at least 1, got 0"):
        report(teacher, bootstrap=0)


def test_one_name_a_class(teacher):
    with pytest.raises(Incompatible, match="teacher big predicts 8 classes, the data has 2"):
        report(teacher, class_names=("a", "b"))


@pytest.mark.parametrize("shape", [(N, K + 1), (N - 1, K)])
def test_students_answer_the_same_samples_over_the_same_classes(teacher, student, shape):
    odd = dataclasses.replace(student, logits=torch.zeros(shape))
    with pytest.raises(
        Incompatible,
        match=f"student small has {shape[0]} x {shape[1]} logits .*, teacher big has {N} x {K}",
    ):
        report(teacher, odd)
    with pytest.raises(Incompatible, match=r"student small \(aligned\) has"):
        report(teacher, dataclasses.replace(student, aligned=torch.zeros(shape)))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_numbers_are_named(teacher, student, poison):
    logits = student.logits.clone()
    logits[17, 3] = poison
    with pytest.raises(
        BadData, match=r"logits of student small are not finite .* first for sample 17 "
    ):
        report(teacher, dataclasses.replace(student, logits=logits))
    with pytest.raises(
        BadData, match=r"logits of teacher big are not finite .* first for sample 17 "
    ):
        report(dataclasses.replace(teacher, logits=logits), student)
    with pytest.raises(BadData, match=r"logits of student small \(aligned\) are not finite"):
        report(teacher, dataclasses.replace(student, aligned=logits))


def test_a_gap_is_one_number_whatever_else_is_asked_for(teacher, student):
    alone = report(teacher, student, temperatures=(4.0,)).pairs[0].at[0]
    other = network("other", seed=5)
    among = report(teacher, other, student, temperatures=(0.5, 1.0, 2.0, 3.0, 4.0, 9.0)).pairs[1]
    assert among.at[4] == alone
